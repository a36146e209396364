"""The window takes the room it has: narrow windows, large letters, long names; no blank bands, no columns that stick out."""

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")

LONG = "7: CT thorax abdomen pelvis, venous, 1.5 mm B30f"
NARROW, USUAL, SCROLL_BAR = 350, 480, 20
EVERYDAY = ("statusSection", "referencesSection", "targetsSection", "resultsSection")
OTHERS = ("tasksSection", "finetuneSection", "modelsSection", "advancedSection")
ROWS = ("statusRow", "referencesRow", "targetsRow", "resultsRow", "useRow", "tasksRow", "annotatedRow", "modelsRow", "tuneRow", "runRow")


@pytest.fixture
def full(clinic, tmp_path):
    """A window with long names and paths in it, all sections open."""
    clinic.admit(LONG)
    clinic.segmentation.SetName(f"{LONG} drawn by hand")
    clinic.choose_reference()
    clinic.parameters.targetVolumes = clinic.targets
    clinic.parameters.targetFiles = [str(tmp_path / "a folder of scans" / f"{LONG}.nrrd")]
    clinic.parameters.outputFolder = clinic.ui.outputFolderEdit.currentPath = f"/home/somebody/{LONG}/{LONG}"
    clinic.ui.outputSelector.setCurrentNode(clinic.segmentation)
    weights = tmp_path / f"{LONG}.safetensors"
    weights.write_bytes(b"nothing")
    clinic.window.advanced.use_file(weights)
    clinic.ui.allAnnotatedButton.click()
    clinic.window.targets.refresh()
    for name in EVERYDAY + OTHERS:
        getattr(clinic.ui, name).collapsed = False
    clinic.bench.process_events()
    return clinic


def width_needed(clinic):
    clinic.bench.process_events()
    return clinic.bench.panel("MASSSlicer").layout().totalMinimumSize().width()


def test_a_narrow_window_needs_no_scrolling_sideways(full):
    assert width_needed(full) <= NARROW - SCROLL_BAR


def test_large_letters_fit_the_usual_window(full):
    from Testing.slicer.testbench.screenshot import look

    with look(font=1.5):
        assert width_needed(full) <= USUAL - SCROLL_BAR


@pytest.mark.parametrize("font", [1.0, 1.5, 2.5])
def test_rows_of_tables_hold_two_lines_of_any_letters(full, font):
    from MASSSlicerLib.panels.window import _fit_tables

    from Testing.slicer.testbench.screenshot import look

    with look(font=font):
        full.bench.process_events()
        _fit_tables(full.ui)
        table = full.ui.resultsTable
        assert table.verticalHeader().defaultSectionSize >= 2 * table.fontMetrics().lineSpacing() > 20 * font


def test_columns_fit_and_a_line_that_says_nothing_takes_no_room(full, tmp_path):
    full.ui.weightsCombo.currentIndex = 0
    full.parameters.targetFiles = []
    assert not full.ui.messageLabel.visible
    full.press(full.ui.segmentButton)
    assert full.results()[0][1] == "done", full.results()
    assert full.ui.messageLabel.visible and full.ui.messageLabel.text
    from MASSSlicerLib.runs.quality import Quality

    (case,) = full.window.run.cases
    case.quality = {"liver": Quality("unreliable", 0.35)}
    full.window.results.update(case)
    tables = {name: table for name, table in vars(full.ui).items() if name.endswith("Table")}
    assert len(tables) == 7
    for width in (NARROW, USUAL):
        full.bench.picture(full.bench.panel("MASSSlicer"), tmp_path / "window.png", width)
        assert {name: table.horizontalScrollBar().maximum for name, table in tables.items()} == dict.fromkeys(tables, 0)


def test_room_goes_to_tables_not_to_bands(full, tmp_path):
    """Extra height goes to tables, in a section and in the window."""
    ui, panel = full.ui, full.bench.panel("MASSSlicer")
    full.bench.picture(panel, tmp_path / "window.png", USUAL)
    before, height = ui.targetsTable.height, ui.targetsSection.height
    full.bench.picture(panel, tmp_path / "high.png", USUAL, panel.height + 200)
    assert ui.targetsSection.height == height, "what the window has to spare is below all sections"
    ui.targetsSection.setMinimumHeight(height + 60)
    full.bench.picture(panel, tmp_path / "higher.png", USUAL)
    assert ui.targetsTable.height == before + 60
    assert {name: getattr(ui, name).height - getattr(ui, name).sizeHint.height() for name in ROWS} == dict.fromkeys(ROWS, 0)


def test_lines_that_say_nothing_take_no_room_where_sections_unfold(clinic):
    for section in (clinic.ui.referencesSection, clinic.ui.advancedSection):
        section.collapsed = True
        section.collapsed = False
    clinic.bench.process_events()
    assert not clinic.ui.hostLabel.visible and not clinic.ui.taskRow.visible
    assert clinic.ui.hostRow.visible and clinic.ui.referencesTable.visible

"""Results that are checked: what the table shows of it, and sorting, in which lines belong to their cases."""

import csv
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer.teaching import Helped

QUALITY, NOTE = 4, 5
"""Columns."""


def judged(*words):
    """Finished cases named after how good they are, such as “check 0.7”; “none” was not checked."""
    from MASSSlicerLib.runs.cases import Case
    from MASSSlicerLib.runs.quality import Quality

    made = []
    for word in words:
        flag, _, dice = word.partition(" ")
        quality = {} if flag == "none" else {"liver": Quality(flag, float(dice) if dice else None, (f"Because of {word}.",))}
        made.append(Case(word, status="done", seconds=len(made) + 1.0, volumes_ml={"liver": 10.0 - len(made)}, quality=quality))
    return made


def names(clinic):
    return [row[0] for row in clinic.results()]


def click(clinic, column):
    clinic.ui.resultsTable.horizontalHeader().sectionClicked.emit(column)


def test_the_worst_come_first_and_what_is_unknown_last(clinic):
    words = ["good 0.9", "none", "check 0.7", "unreliable", "unreliable 0.3", "check 0.75", "good"]
    clinic.window.results.begin(judged(*words))
    assert names(clinic) == words, "as the run has them"
    click(clinic, QUALITY)
    worst = ["unreliable 0.3", "unreliable", "check 0.7", "check 0.75", "good 0.9", "good", "none"]
    assert names(clinic) == worst
    click(clinic, QUALITY)
    assert names(clinic) == [*worst[-2::-1], "none"]
    click(clinic, QUALITY)
    assert names(clinic) == words
    click(clinic, 3)
    assert names(clinic) == words[::-1], "by volume, the smallest first"
    clinic.window.results.begin(judged("good 0.9", "check 0.7"))
    assert names(clinic) == ["good 0.9", "check 0.7"], "another run begins in its own order"


def test_the_selected_case_stays_selected_wherever_sorting_puts_it(clinic):
    """And so it is what Show and Export mean; a case that becomes worse meanwhile moves as well."""
    from MASSSlicerLib.runs.quality import Quality

    results, table = clinic.window.results, clinic.ui.resultsTable
    cases = judged("good 0.9", "check 0.7", "unreliable 0.3")
    results.begin(cases)
    table.setCurrentCell(0, 0)
    click(clinic, QUALITY)
    assert table.currentRow() == 2 and results.selected() is cases[0]
    cases[1].quality = {"liver": Quality("unreliable", 0.1)}
    results.update(cases[1])
    assert names(clinic) == ["check 0.7", "unreliable 0.3", "good 0.9"] and results.selected() is cases[0]
    cases[0].quality = {"liver": Quality("unreliable", 0.0)}
    results.update(cases[0])
    assert table.currentRow() == 0 and results.selected() is cases[0]
    assert [row[QUALITY] for row in clinic.results()] == ["unreliable 0.00", "unreliable 0.10", "unreliable 0.30"]


def test_flag_dice_and_reasons_are_shown(clinic):
    from MASSSlicerLib.runs.quality import COLORS, Quality

    (case,) = judged("good 0.9")
    case.quality["spleen"] = Quality("check", 0.61, ("Its volume is half of the reference's.",))
    case.quality["cyst"] = Quality("check", None)
    clinic.window.results.begin([case])
    item = clinic.ui.resultsTable.item(0, QUALITY)
    assert item.text() == "check 0.61 (spleen)"
    assert item.toolTip().splitlines() == [
        "spleen: check, expected Dice 0.61. Its volume is half of the reference's.",
        "cyst: check.",
        "liver: good, expected Dice 0.90. Because of good 0.9.",
    ]
    assert item.icon().pixmap(12, 12).toImage().pixelColor(5, 5).name() == COLORS["check"]


def test_results_are_checked_if_asked_for(clinic, monkeypatch, tmp_path):
    """By the real worker, with the references, after which results can be checked better."""
    helped = Helped(monkeypatch)
    clinic.ready("target")
    clinic.press(clinic.ui.segmentButton)
    assert not {"assess", "references"} & set(helped.params("segment")) and clinic.results()[0][QUALITY] == ""
    assert clinic.ui.resultsTable.isColumnHidden(QUALITY), "it takes no room"
    clinic.ui.assessCheck.click()
    clinic.ui.toFilesCheck.click()
    clinic.ui.outputFolderEdit.currentPath = str(tmp_path)
    clinic.press(clinic.ui.segmentButton)
    assert helped.params("segment")["assess"] and len(helped.params("segment")["references"]) == 1
    (case,) = clinic.window.run.cases
    assert case.status == "done", case.message
    judged = case.quality["liver"]
    assert judged.flag in ("good", "check", "unreliable") and 0 < judged.expected_dice < 1
    assert clinic.results()[0][QUALITY] == judged.text() and not clinic.ui.resultsTable.isColumnHidden(QUALITY)
    with (tmp_path / "MASS_summary.csv").open(encoding="utf-8-sig", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["structure"], row["quality"], row["expected_dice"]) == ("liver", judged.flag, f"{judged.expected_dice:.3f}")


def test_serious_warnings_come_first_and_are_marked(clinic, monkeypatch, tmp_path):
    """In the table of the window and in that of the files; the test plays the worker's part."""
    from MASSSlicerLib.runs.quality import CHECK, COLORS
    from PySide6 import QtCore

    left_out = (
        "liver: 41% of the segmented volume was removed because the reference has only 1 component. Check the result: this is more than …"
    )
    warnings = {"first": ["Read as CT."], "second": ["Read as CT.", left_out]}
    labels = [{"value": 1, "name": "liver", "color": None, "terminology": "", "ml": 12.0}]

    def encode(client, params, original, *, done, **others):
        QtCore.QTimer.singleShot(1, lambda: done({"result": {"output": params["output"], "warnings": []}}))

    def segment(client, params, original, *, done, **others):
        Path(params["output"]).write_bytes(b"a label map")
        told = warnings[clinic.window.run.cases[len(segmented)].name]
        segmented.append(params)
        QtCore.QTimer.singleShot(1, lambda: done({"result": {"labels": labels, "warnings": told}}))

    segmented, helped = [], Helped(monkeypatch)
    helped.answers |= {"encode": encode, "segment": segment}
    clinic.ready("first", "second")
    clinic.ui.toFilesCheck.click()
    clinic.ui.outputFolderEdit.currentPath = str(tmp_path)
    clinic.press(clinic.ui.segmentButton)
    assert {row[0]: row[NOTE] for row in clinic.results()} == {"first": "Read as CT.", "second": f"{left_out} Read as CT."}
    click(clinic, NOTE)
    assert names(clinic) == ["second", "first"], "what may be wrong first"
    second, first = (clinic.ui.resultsTable.item(row, NOTE) for row in range(2))
    assert second.icon().pixmap(12, 12).toImage().pixelColor(5, 5).name() == COLORS[CHECK] and first.icon().isNull()
    assert second.toolTip().splitlines() == [left_out, "Read as CT."]
    with (tmp_path / "MASS_summary.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["message"] for row in csv.DictReader(file)] == ["Read as CT.", f"{left_out} Read as CT."]

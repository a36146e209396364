"""Make the pictures of docs/slicer.md: `python -m Testing.slicer.make_screenshots FOLDER`.

With `--looks`: pictures of the window 350 pixels wide, dark, and with letters half as large again, to look at.
With `--remote`: the picture of docs/remote.md; the other computer is this one, over a real ssh.

The module's own window and Slicer's own drawing of scans and segments, on the testbench; the looks of the widgets are the testbench's.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

EPOCHS = 6
"""Of the training."""
COLOURS = 160
"""Of a picture, to keep the files small."""


def main(folder: Path) -> None:
    """Go through the tutorial, with a picture at each step."""
    os.environ.setdefault("MASS_PYTHON", sys.executable)
    os.environ["MASS_HOME"] = tempfile.mkdtemp()
    from Testing.slicer.testbench.bench import Bench

    bench = Bench(Path(tempfile.mkdtemp()))
    bench.application.testing = True
    folder.mkdir(parents=True, exist_ok=True)
    try:
        {"--looks": looks, "--remote": remote}.get(sys.argv[-1], tutorial)(bench, folder)
    finally:
        bench.close()


def tutorial(bench, folder: Path) -> None:
    """Two phantoms: choose, segment, look, keep."""
    import qt

    widget = bench.module("MASSSlicer")
    ui, window = widget.ui, widget.window
    from MASSSlicerLib.sample_data import load_samples

    samples = load_samples()
    bench.process_events()
    row = window.references.rows[0]
    row.segmentation.setCurrentNode(samples.segmentation)
    row.volume.setCurrentNode(samples.reference)
    for number in range(ui.targetsTable.rowCount):
        if ui.targetsTable.item(number, 0).text() == samples.target.GetName():
            ui.targetsTable.item(number, 0).setCheckState(qt.Qt.Checked)
    ui.assessCheck.click()
    ui.segmentButton.click()
    bench.wait_until(lambda: ui.progressBar.value > 450 or not widget.logic.busy, seconds=300)
    keep(
        bench.picture(ui.runRow.parent(), folder / "slicer_running.png"),
        top=ui.runRow.y - 8,
        bottom=ui.progressBar.y + ui.progressBar.height + 8,
    )
    bench.wait_until(lambda: not widget.logic.busy, seconds=300)
    ui.resultsTable.setCurrentCell(0, 0)
    keep(bench.picture(bench.panel("MASSSlicer"), folder / "slicer_done.png"))
    import slicer

    result = slicer.mrmlScene.GetNodeByID(window.run.cases[0].segmentation_id)
    keep(views(bench, samples.target, result, folder / "slicer_views.png"))
    slicer.mrmlScene.RemoveNode(result)
    finetuning(bench, widget, folder)


def looks(bench, folder: Path) -> None:
    """The window with long names in it, one half of its sections open after the other."""
    from Testing.slicer.testbench.screenshot import look

    widget = bench.module("MASSSlicer")
    from MASSSlicerLib.sample_data import load_samples

    samples = load_samples()
    samples.target.SetName("7: CT thorax abdomen pelvis, venous, 1.5 mm B30f")
    bench.process_events()
    ui, window = widget.ui, widget.window
    window.references.add_reference(samples.reference, samples.segmentation, [])
    window.parameters.targetVolumes = [samples.target]
    window.targets.refresh()
    ui.allAnnotatedButton.click()
    ui.assessCheck.click()
    ui.segmentButton.click()
    bench.wait_until(lambda: not widget.logic.busy, seconds=300)
    everyday = (ui.statusSection, ui.referencesSection, ui.targetsSection, ui.resultsSection)
    others = (ui.tasksSection, ui.finetuneSection, ui.modelsSection, ui.advancedSection)
    for half, shown in {"everyday": everyday, "others": others}.items():
        for section in (*everyday, *others):
            section.collapsed = section not in shown
        for name, width, options in (("narrow", 350, {}), ("dark", 480, {"dark": True}), ("large", 480, {"font": 1.5})):
            with look(**options):
                bench.process_events()
                keep(bench.picture(bench.panel("MASSSlicer"), folder / f"{name}_{half}.png", width))


def remote(bench, folder: Path) -> None:
    """Another computer chosen and tried."""
    from Testing.core.ssh_server import HERE, running

    name = "gpu01"
    with running(Path(tempfile.mkdtemp())) as server:
        server.config.write_text(server.config.read_text().replace(f"Host {HERE}\n", f"Host {name}\n"))
        os.environ["MASS_SSH"] = f"ssh -F {server.config}"
        ui = bench.module("MASSSlicer").ui
        for section in (ui.referencesSection, ui.targetsSection, ui.resultsSection):
            section.collapsed = True
        ui.advancedSection.collapsed = False
        bench.answer("text", name)
        ui.placeCombo.currentIndex = ui.placeCombo.count - 1
        ui.hostCommandEdit.text = server.command
        ui.hostCommandEdit.editingFinished.emit()
        ui.testHostButton.click()
        bench.wait_until(lambda: " " in ui.hostLabel.text and "…" not in ui.hostLabel.text, seconds=600)
        ui.hostCommandEdit.text = ""  # of this computer, which is nobody's business
        keep(bench.picture(bench.panel("MASSSlicer"), folder / "slicer_remote.png"))


def finetuning(bench, widget, folder: Path) -> None:
    """The liver of both phantoms: train a model for some epochs."""
    from Testing.slicer.testbench import views

    ui, panel = widget.ui, widget.window.finetune
    bench.process_events()
    ui.allAnnotatedButton.click()
    ui.tuneNameEdit.text = "phantom liver"
    ui.tuneAmountSpin.value = EPOCHS
    for section in (ui.statusSection, ui.referencesSection, ui.targetsSection, ui.resultsSection):
        section.collapsed = True
    ui.finetuneSection.collapsed = False
    ui.tuneStartButton.click()
    half = lambda: panel.curves is not None and panel.curves.epoch >= EPOCHS // 2  # noqa: E731
    bench.wait_until(lambda: half() or not widget.logic.busy, seconds=3000)
    keep_section(bench, ui.finetuneSection, folder / "slicer_finetune.png")
    bench.wait_until(lambda: not widget.logic.busy, seconds=3000)
    print(ui.tuneLabel.text)
    views.save(views.chart(panel.curves.chart(), (840, 420)), folder / "slicer_curves.png")
    keep(folder / "slicer_curves.png")
    ui.modelsSection.collapsed = False
    keep_section(bench, ui.modelsSection, folder / "slicer_models.png")


def keep_section(bench, section, path: Path) -> None:
    """A picture of one section of the window."""
    bench.picture(bench.panel("MASSSlicer"), path)
    top = section.mapTo(bench.panel("MASSSlicer"), section.rect.topLeft()).y()
    keep(path, top=max(0, top - 8), bottom=top + section.height + 8)


def views(bench, volume, segmentation, path: Path) -> Path:
    """Three slices through the middle of what was found, and its surface, as Slicer draws them."""
    import slicer

    from Testing.slicer.testbench.views import SliceView, ThreeDView

    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        node.GetDisplayNode().SetVisibility(node is segmentation)
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevel(500, 40)
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetDisplayNode().SetOpacity2DFill(0.35)
    bounds = np.zeros(6)
    segmentation.GetRASBounds(bounds)
    centre = bounds.reshape(3, 2).mean(1)
    size = (420, 420)
    tiles = []
    for name in ("Red", "Green", "Yellow"):
        view = SliceView(bench, name, size)
        view.show(volume)
        view.jump(*centre)
        tiles.append(view.picture())
    tiles.append(ThreeDView(bench, size).picture())
    Image.fromarray(np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[3:] + tiles[2:3])])).save(path)
    return path


def keep(path: Path, *, top: int = 0, bottom: int = 0) -> None:
    """Crop a picture (in points) and reduce its colours."""
    picture = Image.open(path).convert("RGB")
    scale = 2 if bottom else 1
    picture = picture.crop((0, scale * top, picture.width, scale * bottom)) if bottom else picture
    picture.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

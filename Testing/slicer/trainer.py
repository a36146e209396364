"""Finetuning in the window when the test plays the worker's part, and what its tests do with the section again and again."""

import shutil
from pathlib import Path

from mass_core import Volume
from Testing.slicer.teaching import Helped


class Trainer:
    """A worker that finetunes as the test says."""

    def __init__(self, monkeypatch, made):
        self._made = made
        self.helped = Helped(monkeypatch)
        self.helped.answers["finetune"] = self._begin
        self.params = self.callbacks = None
        self.cancelled = False
        self.seen: list[tuple[Volume, Volume]] = []

    def _begin(self, client, params, original, **callbacks):
        self.params, self.callbacks = params, callbacks
        # Files must be there now, and may be gone when the run is over.
        self.seen = [(Volume.read(case["image"]), Volume.read(case["mask"])) for case in params["cases"]]
        return self

    def cancel(self):
        self.cancelled = True

    def tell(self, stage, fraction=0.5, eta_s=None, **values):
        self.callbacks["progress"](stage, fraction, eta_s, values or None)

    def finish(self, stopped="", best_dice=0.83):
        Path(self.params["output"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._made, self.params["output"])
        dice = ((1, "liver", 0.91), (2, "spleen", 0.75))
        labels = [{"value": value, "name": name, "color": None, "dice": one} for value, name, one in dice]
        result = {"output": self.params["output"], "labels": labels, "best_dice": best_dice, "best_epoch": 3, "epochs": 4}
        self.callbacks["done"]({"result": {**result, "stopped": stopped, "warnings": ["Label 2 is in one scan only."]}, "device": "cpu"})


def cases_of(clinic, *drawings):
    """People with structures drawn; returns volumes and segmentations."""
    nodes = []
    for number, names in enumerate(drawings):
        volume = clinic.volume(number % 3, f"person {number}")
        nodes.append((volume, clinic.drawn(volume, number % 3, names)))
        nodes[-1][1].SetName(f"person {number} drawn")
    clinic.bench.process_events()
    return nodes


def tick(table, *names):
    import qt

    for row in range(table.rowCount):
        if table.item(row, 0).text() in names:
            table.item(row, 0).setCheckState(qt.Qt.Checked if table.item(row, 0).checkState() != qt.Qt.Checked else qt.Qt.Unchecked)


def lines(table):
    return [[table.item(row, column).text() for column in range(2)] for row in range(table.rowCount)]


def ready(clinic, *drawings):
    nodes = cases_of(clinic, *drawings)
    clinic.ui.allAnnotatedButton.click()
    clinic.ui.tuneNameEdit.text = "my torso"
    return nodes


def begin(clinic, trainer):
    clinic.ui.tuneStartButton.click()
    assert clinic.widget.logic.busy, clinic.bench.shown
    clinic.bench.wait_until(lambda: trainer.params is not None or not clinic.widget.logic.busy)
    assert trainer.params is not None, clinic.bench.shown

"""Helpers that click through the window with phantoms as patients."""

import os
from pathlib import Path

from Testing.slicer import patients
from Testing.slicer.patients import LIVER


class Clinic:
    """Helpers that click through the window with phantoms as patients."""

    def __init__(self, bench):
        import qt
        import slicer

        self.bench, self.people, self.slicer = bench, patients.people(3), slicer
        self.widget = bench.module("MASSSlicer")
        self.ui, self.window = self.widget.ui, self.widget.window
        self.timer = qt.QTimer()

    def borrow(self, pool, monkeypatch):
        """Work with workers of a pool, in place of a process started for this window."""
        from MASSSlicerLib.processes import engine

        from Testing.slicer.lent_worker import Lent

        def lent(command, **options):
            found = Lent(pool)
            self.timer.connect("timeout()", found.pump)
            return found

        monkeypatch.setattr(engine, "ProcessTransport", lent)
        self.timer.setInterval(5)
        self.timer.start()

    @property
    def parameters(self):
        return self.window.parameters

    def volume(self, number, name):
        return patients.scan(self.people[number][0], name)

    def drawn(self, volume, number=0, names=("liver",)):
        node = patients.drawing(volume)
        for value, name in enumerate(names, LIVER):
            patients.draw(node, volume, self.people[number][1].array == value, name)
        return node

    def admit(self, *names):
        """A reference with the liver drawn, and targets; shown in the window."""
        self.reference = self.volume(0, "reference")
        self.segmentation = self.drawn(self.reference)
        self.targets = [self.volume(1 + number % 2, name) for number, name in enumerate(names)]
        self.bench.process_events()

    def choose_reference(self, row=0):
        chosen = self.window.references.rows[row]
        chosen.volume.setCurrentNode(self.reference)
        chosen.segmentation.setCurrentNode(self.segmentation)

    def tick(self, *names):
        import qt

        table = self.ui.targetsTable
        for row in range(table.rowCount):
            if table.item(row, 0).text() in names:
                table.item(row, 0).setCheckState(qt.Qt.Checked)

    def ready(self, *names):
        self.admit(*names)
        self.choose_reference()
        self.tick(*names)

    def press(self, button):
        """Press a button that starts a run, and wait for its end."""
        button.click()
        assert self.widget.logic.busy, self.bench.shown
        self.bench.wait_until(lambda: not self.widget.logic.busy)

    def results(self):
        table = self.ui.resultsTable
        return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]

    def worker_pid(self):
        return self.widget.logic.engine.client.worker["pid"]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc/self/stat").exists() else True

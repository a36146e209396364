"""Runs on another computer, clicked through: a real ssh server on this one, with keys of its own (Testing/core/ssh_server.py)."""

import sys

import pytest

from Testing.core.ssh_server import HERE, SLOW_BYTES_PER_S, running

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")


GPU = """
from mass_core import devices
about = {"name": "cuda:0", "about": "NVIDIA RTX A6000", "total": 51 * 10**9, "free": 46200 * 10**6}
devices.devices = lambda: [about, {"name": "cpu", "about": "8 cores", "total": None, "free": None}]
"""
"""Has a worker tell of a GPU, which it computes without."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def office(server, monkeypatch, clinic):
    """A clinic whose ssh knows the server."""
    monkeypatch.setenv("MASS_SSH", f"ssh -F {server.config}")
    return Office(clinic, server)


class Office:
    """Hands for the rows “Run on”."""

    def __init__(self, clinic, server):
        self.clinic, self.server, self.ui = clinic, server, clinic.ui

    def choose(self, name, command=None):
        """Take another computer, as a user who has its name on a slip of paper."""
        self.clinic.bench.answer("text", name)
        self.ui.placeCombo.currentIndex = self.ui.placeCombo.count - 1
        self.ui.hostCommandEdit.text = self.server.command if command is None else command
        self.ui.hostCommandEdit.editingFinished.emit()

    def tested(self):
        """The window's sentence on the connection."""
        self.ui.testHostButton.click()
        assert self.ui.testHostButton.text == "Stop"
        self.clinic.bench.wait_until(lambda: self.ui.testHostButton.text == "Test connection")
        return self.ui.hostLabel.text

    def shown(self, kind):
        return [text for one, text in self.clinic.bench.shown if one == kind]

    def segmentations(self):
        return self.clinic.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")


def test_the_whole_way_over_ssh(office, monkeypatch):
    """From the name of the computer to a line that breaks and a click that goes on."""
    clinic, ui = office.clinic, office.ui
    clinic.ready("one", "two")
    monkeypatch.setattr("MASSSlicerLib.panels.status.install.torch_at_hand", lambda: False)
    office.choose(HERE, office.server.altered(GPU))
    assert clinic.widget.logic.host == HERE and ui.placeCombo.currentText == HERE
    assert ui.segmentButton.enabled, "PyTorch is needed there, not here"
    assert office.tested().startswith(f"{HERE} answers with mass ") and ui.hostLabel.text.endswith(": NVIDIA RTX A6000, 46.2 GB free.")
    assert f"Runs on {HERE}" in ui.statusLabel.text and "cuda:0: NVIDIA RTX A6000, 46.2 GB free" in ui.statusLabel.text

    before = office.segmentations()
    clinic.bench.answer("question", False, True)
    ui.segmentButton.click()
    assert f"over ssh to {HERE} (" in office.shown("question")[0]
    assert not clinic.widget.logic.busy and clinic.results() == [] and not ui.withdrawButton.enabled
    clinic.press(ui.segmentButton)
    assert [row[1] for row in clinic.results()] == ["done", "done"] and len(office.shown("question")) == 2
    assert f"of {HERE}" in ui.messageLabel.text and office.segmentations() == before + 2
    assert [path for path in office.server.tmp.rglob("in/*") if "reference" in path.name] == []

    ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running")
    office.server.cut()
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert [row[1] for row in clinic.results()] == ["failed", "done"] and f"connection to {HERE} was lost" in clinic.results()[0][5]
    assert office.segmentations() == before + 3
    clinic.press(ui.resumeButton)
    assert [row[1] for row in clinic.results()] == ["done", "done"] and len(office.shown("question")) == 2
    assert office.shown("error") == []

    ui.withdrawButton.click()
    clinic.bench.answer("question", False)
    ui.segmentButton.click()
    assert not clinic.widget.logic.busy and len(office.shown("question")) == 3
    assert office.server.emptied(), "nothing is left there"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stranger", "stranger refused the key of this computer, and passwords are not supported here"),
        ("unknown", "Run ssh unknown once in a terminal"),
        ("closed", "no ssh server answers"),
    ],
)
def test_what_is_missing_is_said_below_the_button(office, name, said):
    office.choose(name)
    assert said in office.tested() and office.clinic.bench.shown == [("text", office.clinic.bench.shown[0][1])]


def test_the_command_there(office):
    office.choose(HERE, "mass-is-not-here")
    assert "mass could not be started" in (told := office.tested()) and "Command there" in told
    office.choose(HERE, f"{sys.executable} -c 'import argparse; argparse.ArgumentParser().parse_args()'")
    assert "an older version of mass is installed.\nInstall the same version" in office.tested()


def test_ssh_is_missing_or_the_name_is_none(office, monkeypatch):
    clinic = office.clinic
    clinic.ready("one")
    office.choose("-oProxyCommand=date", "")
    assert "is not a valid computer name" in office.shown("error")[-1] and clinic.widget.logic.host == ""
    assert office.ui.placeCombo.currentText == "this computer"
    office.choose(HERE)
    monkeypatch.setenv("MASS_SSH", "no-such-ssh")
    assert "no-such-ssh is not installed on this computer" in office.tested()
    office.ui.segmentButton.click()
    assert "Install OpenSSH" in office.shown("error")[-1] and not clinic.widget.logic.busy


def test_a_batch_ends_where_the_computer_is_gone(office, tmp_path):
    """Two scans tell enough; the others wait for the click that goes on."""
    clinic = office.clinic
    clinic.ready("one", "two", "three")
    task = tmp_path / "liver.masstask"
    task.write_bytes(b"read there only")
    clinic.parameters.taskFile = str(task)
    office.choose("closed")
    clinic.bench.answer("question", True)
    clinic.press(office.ui.segmentButton)
    assert [row[1] for row in clinic.results()] == ["failed", "failed", "stopped"]
    assert "no ssh server answers" in office.shown("error")[-1] and office.ui.resumeButton.enabled


def test_the_choice_is_kept_for_this_computer(office):
    office.choose(HERE)
    office.clinic.parameters.outputFolder = "kept in the scene"
    widget = office.clinic.bench.reload("MASSSlicer")
    assert widget.logic.host == HERE and widget.ui.placeCombo.currentText == HERE
    assert widget.ui.hostCommandEdit.text == office.server.command
    widget.ui.placeCombo.currentIndex = 0
    assert widget.logic.host == "" and not widget.ui.testHostButton.enabled and "Runs on" not in widget.ui.statusLabel.text


@pytest.mark.slow
def test_a_transfer_can_be_cancelled(office):
    """Over a line as slow as a modem's."""
    from Testing.slicer import patients

    clinic, ui = office.clinic, office.ui
    clinic.reference, clinic.segmentation = patients.large(1, "abdomen")
    clinic.bench.process_events()
    clinic.choose_reference()
    clinic.parameters.targetVolumes = [clinic.reference]
    clinic.bench.process_events()
    office.choose("slow")
    clinic.bench.answer("question", True)
    ui.segmentButton.click()
    clinic.bench.wait_until(lambda: "Sending the references to slow: 1" in ui.progressBar.format)
    client = clinic.widget.logic.engine.client
    shipping = client._process.transport.shipping
    sent = shipping.bytes_sent
    ui.cancelButton.click()
    clinic.bench.wait_until(lambda: not client.busy)
    assert client.ready, "the connection is kept"
    assert office.tested().startswith("slow answers"), "which is free again"
    assert shipping.bytes_sent - sent < 2 * SLOW_BYTES_PER_S, "no more than the line carries in two seconds"


@pytest.mark.slow
def test_adapt_features_and_finetuning_there(office):
    clinic, ui = office.clinic, office.ui
    clinic.ready("one")
    office.choose(HERE)
    clinic.bench.answer("question", True)
    clinic.parameters.adaptSeconds = 1
    ui.assessCheck.click()
    clinic.press(ui.adaptButton)
    assert clinic.results()[0][1] == "done" and clinic.window.run.cases[0].quality
    clinic.press(ui.featuresButton)
    assert "show" in ui.messageLabel.text
    ui.allAnnotatedButton.click()
    ui.tuneNameEdit.text = "liver there"
    ui.tuneAmountSpin.value = 1
    clinic.window.finetune.recipe = "smoke"
    clinic.press(ui.tuneStartButton)
    assert "liver there" in ui.tuneLabel.text and clinic.parameters.weights == "liver there", office.shown("error")
    clinic.press(ui.segmentButton)
    assert clinic.results()[0][1] == "done", "the model of this computer goes there"

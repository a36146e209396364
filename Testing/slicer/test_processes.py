"""Child processes under QProcess: lines of JSON in, one end."""

import sys

import pytest

from mass_core.errors import MassError

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")

SCRIPT = r"""
import sys, time
sys.stdout.write('library says hello\nmark {"a": 1}\nmark {"name": "Ä', ); sys.stdout.flush()
time.sleep(0.2)
sys.stdout.write('rztin"}\nmark not json\nmark [1]\nmark {"a": 2}\n'); sys.stdout.flush()
sys.stderr.write('first\nlast words\n')
sys.exit(3)
"""


@pytest.fixture
def started(bench):
    """Starts a command; what came of it is kept, and `wait` waits for its end or for something else."""
    bench.module("MASSSlicer")
    from MASSSlicerLib.processes.json_process import JsonProcess

    class Started(JsonProcess):
        def __init__(self, *command, data=b"", mark=""):
            self.messages, self.ends = [], []
            super().__init__(command, self.ends.append, mark=mark)
            self.start(data)

        def message(self, message):
            self.messages.append(message)

        def error(self, code, reason):
            return MassError(str(code), reason)

        def wait(self, reached=None):
            bench.wait_until(lambda: self.ends if reached is None else reached(), seconds=60)

    return Started


def test_a_line_is_a_message_however_its_bytes_arrive(started):
    process = started(sys.executable, "-c", SCRIPT, mark="mark ")
    process.wait()
    assert process.messages == [{"a": 1}, {"name": "Ärztin"}, {"a": 2}] and not process.running
    assert [(error.message, error.cure) for error in process.ends] == [("3", "last words")]


def test_after_cancel_no_message_comes_and_the_end_is_told_once(started):
    process = started(sys.executable, "-c", "while True: print('{}', flush=True)")
    process.wait(lambda: process.messages)
    process.cancel()
    count = len(process.messages)
    process.wait()
    assert len(process.messages) == count and process.ends == [None]


def test_what_cannot_be_started_ends_with_the_reason(started, tmp_path):
    process = started(str(tmp_path / "no program"))
    process.wait()
    (error,) = process.ends
    assert error.message == "-1" and "no program" in error.cure


def test_input_reaches_it_with_the_modules_environment(started):
    program = "import json, sys, mass_core; print(json.dumps({'got': sys.stdin.read(), 'from': mass_core.__file__}))"
    process = started(sys.executable, "-c", program, data=b"some bytes")
    process.wait()
    import mass_core

    assert process.messages == [{"got": "some bytes", "from": mass_core.__file__}]


def test_a_download_is_the_command_of_the_terminal(bench, monkeypatch):
    bench.module("MASSSlicer")
    from MASSSlicerLib.processes.downloading import Download

    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    download = Download("mass_base", progress=print, finished=print)
    assert download._command == [sys.executable, "-m", "mass_core", "weights", "download", "mass_base", "--json"]

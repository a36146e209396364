"""Child processes under QProcess: lines of JSON in, one end."""

import json
import sys

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")

SCRIPT = r"""
import sys, time
sys.stdout.write('library says hello\nmark {"a": 1}\nmark {"name": "Ä', ); sys.stdout.flush()
time.sleep(0.2)
sys.stdout.write('rztin"}\nmark not json\nmark [1]\nmark {"a": 2}\n'); sys.stdout.flush()
sys.stderr.write('first\nlast words\n')
sys.exit(3)
"""


class Heard:
    """A process and what came of it."""

    def __init__(self, bench, command, **options):
        from MASSSlicerLib.processes.json_process import JsonProcess

        self.bench, self.messages, self.ends = bench, [], []
        end = lambda code, reason: self.ends.append((code, reason))  # noqa: E731
        self.process = JsonProcess(command, on_message=self.messages.append, on_end=end, **options)
        self.process.start()

    def wait(self, what=None):
        self.bench.wait_until(lambda: self.ends if what is None else what(), seconds=60)


@pytest.fixture
def module(bench):
    bench.module("MASSSlicer")
    return bench


def test_a_line_is_a_message_however_its_bytes_arrive(module):
    heard = Heard(module, [sys.executable, "-c", SCRIPT], mark="mark ")
    heard.wait()
    assert heard.messages == [{"a": 1}, {"name": "Ärztin"}, {"a": 2}] and heard.ends == [(3, "")]
    assert heard.process.last_words == "last words" and not heard.process.running


def test_after_cancel_no_message_comes_and_the_end_is_told_once(module):
    program = "import sys\nwhile True: print('{}', flush=True)"
    heard = Heard(module, [sys.executable, "-c", program])
    heard.wait(lambda: heard.messages)
    heard.process.cancel()
    count = len(heard.messages)
    heard.wait()
    assert len(heard.messages) == count and len(heard.ends) == 1 and heard.ends[0][1] == ""


def test_what_cannot_be_started_ends_with_the_reason(module, tmp_path):
    heard = Heard(module, [str(tmp_path / "no program")])
    heard.wait()
    ((code, reason),) = heard.ends
    assert code == -1 and "no program" in reason


def test_input_reaches_it_with_the_modules_environment(module):
    program = "import json, sys, mass_core; print(json.dumps({'got': sys.stdin.read(), 'from': mass_core.__file__}))"
    heard = Heard(module, [sys.executable, "-c", program])
    heard.process.write(b"some bytes")
    heard.process.close_input()
    heard.wait()
    import mass_core

    assert heard.messages == [{"got": "some bytes", "from": mass_core.__file__}], json.dumps(heard.messages)


def test_a_download_is_the_command_of_the_terminal(module, monkeypatch):
    from MASSSlicerLib.processes.downloading import download_command

    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    assert download_command("mass_base") == [sys.executable, "-m", "mass_core", "weights", "download", "mass_base", "--json"]

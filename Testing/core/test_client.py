"""The client's rules, with a worker that says what the test lets it say and a clock that the test moves."""

import json
from collections.abc import Callable

import pytest

from mass_core.errors import InputError
from mass_core.worker.client import WorkerDied
from Testing.core.fake_worker import Bench, FakeWorker


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def ready(bench: Bench) -> Bench:
    """With a worker that has greeted back, and nothing under way."""
    call = bench.request("load")
    bench.worker.greet()
    bench.worker.say(id=call.id, event="done", result={})
    bench.worker.sent.clear()
    bench.events.clear()
    bench.started.clear()
    return bench


def test_the_first_thing_said_is_hello_and_requests_wait_for_its_answer(bench: Bench) -> None:
    assert bench.workers == [] and not bench.client.busy
    bench.request("load", {"weights": "small"})
    assert bench.client.busy
    assert bench.worker.sent == [{"id": 2, "method": "hello", "params": {"version": 1}}]
    assert bench.started == []
    bench.worker.greet()
    assert bench.worker.sent[1:] == [{"id": 1, "method": "load", "params": {"weights": "small"}}]
    assert bench.started == [False] and bench.client.worker == {"version": 1}
    bench.request("segment")
    assert bench.worker.methods == ["hello", "load", "segment"] and len(bench.workers) == 1


def test_progress_and_result(ready: Bench) -> None:
    call = ready.request()
    ready.worker.say(id=call.id, event="progress", stage="segment", fraction=0.5, eta_s=3.25)
    ready.worker.say(id=call.id, event="progress", stage="segment", fraction=1, eta_s=None)
    ready.worker.say(id=call.id, event="done", result={"output": "x"}, timings={"segment": 1.0})
    assert ready.events == [("progress", ("segment", 0.5, 3.25)), ("progress", ("segment", 1.0, None)), ("done", {"output": "x"})]
    assert (call.state, call.method, ready.client.busy) == ("done", "segment", False)


def test_failure_arrives_as_the_error_it_was(ready: Bench) -> None:
    call = ready.request()
    ready.worker.say(id=call.id, event="failed", error="InputError", message="no mask", cure="draw one")
    error = ready.error()
    assert (type(error), error.message, error.cure, call.state) == (InputError, "no mask", "draw one", "failed")


def test_a_callback_may_ask_for_the_next_thing(ready: Bench) -> None:
    first = ready.client.request("encode", done=lambda reply: ready.request("segment"))
    ready.worker.say(id=first.id, event="done", result={})
    assert ready.worker.methods == ["encode", "segment"]


def test_what_json_does_not_know_is_the_callers_mistake(ready: Bench) -> None:
    with pytest.raises(TypeError):
        ready.client.request("segment", {"target": object()})
    assert not ready.client.busy and ready.worker.sent == []


# Cancelling


def test_cancel_is_asked_for_and_confirmed(ready: Bench) -> None:
    call = ready.request()
    call.cancel()
    call.cancel()
    assert ready.worker.methods == ["segment", "cancel"]
    assert ready.worker.sent[1]["params"] == {"id": call.id}
    assert (call.state, ready.events, ready.client.busy) == ("waiting", [], True)
    ready.worker.say(id=ready.worker.sent[1]["id"], event="done", result={})
    ready.worker.say(id=call.id, event="progress", stage="segment", fraction=0.5, eta_s=None)
    ready.worker.say(id=call.id, event="cancelled")
    assert (call.state, ready.events) == ("cancelled", [("cancelled", None)])
    ready.pass_time(100)
    assert not ready.worker.killed and ready.logged == []


@pytest.mark.parametrize("last", [{"event": "done", "result": {}}, {"event": "failed", "error": "InputError", "message": "x"}])
def test_what_was_cancelled_ends_so_whatever_still_comes(ready: Bench, last: dict) -> None:
    call = ready.request()
    call.cancel()
    ready.worker.say(id=call.id, **last)
    assert (call.state, ready.events) == ("cancelled", [("cancelled", None)])


def test_a_cancelled_finetuning_ends_as_the_worker_says(ready: Bench) -> None:
    """Its best weights so far count, and writing them may take longer than the grace of others."""
    call = ready.request("finetune")
    call.cancel()
    ready.pass_time(100)
    assert call.state == "waiting" and not ready.worker.killed
    for _ in range(3):  # over a slow line
        ready.worker.say(id=call.id, event="progress", stage="receive", fraction=0.5, eta_s=None)
        ready.pass_time(100)
    assert call.state == "waiting" and not ready.worker.killed
    ready.worker.say(id=call.id, event="done", result={"stopped": "cancelled"})
    assert call.state == "done" and ready.events == [("done", {"stopped": "cancelled"})]


def test_a_finetuning_that_does_not_stop_is_killed_in_the_end(ready: Bench) -> None:
    call = ready.request("finetune")
    call.cancel()
    ready.pass_time(200)
    assert call.state == "cancelled" and ready.workers[0].killed


def test_progress_may_carry_values(ready: Bench) -> None:
    """Only what is a number; where there are none, callbacks hear of none."""
    call = ready.request("finetune")
    ready.worker.say(
        id=call.id, event="progress", stage="train", fraction=0.5, eta_s=3, values={"loss": 0.7, "epoch": 2, "x": "y", "z": True}
    )
    ready.worker.say(id=call.id, event="progress", stage="train", fraction=0.6, eta_s=3, values=[1])
    assert ready.events == [("progress", ("train", 0.5, 3.0, {"loss": 0.7, "epoch": 2})), ("progress", ("train", 0.6, 3.0))]


def test_a_worker_that_does_not_stop_is_killed_after_the_grace(ready: Bench) -> None:
    call = ready.request()
    call.cancel()
    ready.pass_time(1.4)
    assert not ready.worker.killed and call.state == "waiting"
    ready.pass_time(0.2)
    assert ready.worker.killed and (call.state, ready.events) == ("cancelled", [("cancelled", None)])
    assert len(ready.workers) == 1  # a fresh one is started when there is something to do
    ready.request()
    assert len(ready.workers) == 2
    ready.worker.greet()
    assert ready.started == [True]


def test_the_neighbours_of_a_killed_call_are_asked_again(ready: Bench) -> None:
    hanging, waiting = ready.request(name="a "), ready.request("encode", {"output": "x"}, name="b ")
    hanging.cancel()
    ready.pass_time(2)
    assert ready.events == [("a cancelled", None)] and waiting.state == "waiting"
    assert len(ready.workers) == 2
    ready.worker.greet()
    assert ready.worker.sent[1:] == [{"id": waiting.id, "method": "encode", "params": {"output": "x"}}]
    ready.worker.say(id=waiting.id, event="done", result={})
    assert ready.events[1:] == [("b done", {})]


def test_the_killed_worker_is_not_listened_to(ready: Bench) -> None:
    old, call = ready.worker, ready.request()
    call.cancel()
    ready.pass_time(2)
    again = ready.request()
    old.say(id=again.id, event="done", result={})
    old.die(-9)
    old.on_errors("late words\n")
    assert again.state == "waiting" and ready.events == [("cancelled", None)]


def test_cancelling_what_was_not_sent_yet(bench: Bench) -> None:
    call = bench.request()
    call.cancel()
    assert bench.events == []  # nobody is called from within cancel
    bench.client.tick()
    assert bench.events == [("cancelled", None)]
    bench.worker.greet()
    assert bench.worker.methods == ["hello"]


def test_cancelling_what_is_over_does_nothing(ready: Bench) -> None:
    call = ready.request()
    ready.worker.say(id=call.id, event="done", result={})
    call.cancel()
    ready.pass_time(10)
    assert call.state == "done" and ready.worker.methods == ["segment"] and not ready.worker.killed


# Workers that die, or never live


def test_a_worker_that_dies_fails_its_calls_and_is_replaced(ready: Bench) -> None:
    ready.request(name="")
    ready.worker.on_errors("Traceback\nSegmentation ")
    ready.worker.on_errors("fault")
    ready.worker.die(-11)
    error = ready.error()
    assert isinstance(error, WorkerDied)
    assert "signal 11, SIGSEGV" in error.message and "Traceback | Segmentation fault" in error.message and error.cure
    assert error.details.splitlines() == ["Traceback", "Segmentation fault"]
    ready.events.clear()
    ready.request()
    ready.worker.greet()
    assert ready.started == [True] and ready.worker.methods == ["hello", "segment"]


@pytest.mark.parametrize(
    ("code", "told"), [(3, "exit code 3"), (-9, "signal 9, SIGKILL"), (0xC0000005, "exit code 0xc0000005"), (-77, "-77")]
)
def test_exit_codes_for_people(ready: Bench, code: int, told: str) -> None:
    ready.request()
    ready.worker.die(code)
    assert told in ready.error().message


def test_a_worker_that_dies_idle_is_replaced_without_a_word(ready: Bench) -> None:
    ready.worker.die(0)
    ready.client.tick()
    assert ready.events == []
    ready.request()
    assert len(ready.workers) == 2


def test_a_cancelled_call_ends_as_cancelled_when_the_worker_dies(ready: Bench) -> None:
    call = ready.request(name="a ")
    ready.request(name="b ")
    call.cancel()
    ready.worker.die(1)
    assert [kind for kind, _ in ready.events] == ["a cancelled", "b failed"]


def test_what_callbacks_ask_for_is_not_drawn_into_the_death(ready: Bench) -> None:
    first = ready.client.request("segment", cancelled=lambda: ready.request(name="next "))
    ready.request(name="b ")
    first.cancel()
    ready.worker.die(1)
    assert [kind for kind, _ in ready.events] == ["b failed"] and ready.client.busy
    ready.worker.greet()
    assert ready.worker.methods == ["hello", "segment"] and len(ready.workers) == 2


def test_only_what_was_asked_of_it_fails_with_a_worker_that_cannot_start(bench: Bench) -> None:
    bench.next = lambda: FakeWorker(broken=True)
    bench.request(name="a ")
    bench.next = FakeWorker
    second = bench.request(name="b ")
    bench.client.tick()
    assert [kind for kind, _ in bench.events] == ["a failed"]
    bench.worker.greet()
    assert [message["id"] for message in bench.worker.sent[1:]] == [second.id]


@pytest.mark.parametrize("worker", [lambda: FakeWorker(broken=True), lambda: FakeWorker(dies_at_once=True)])
def test_a_worker_that_cannot_start_is_told_at_the_next_tick(bench: Bench, worker: Callable[[], FakeWorker]) -> None:
    bench.next = worker
    bench.request()
    assert bench.events == []  # nobody is called from within request
    bench.client.tick()
    assert ("no such python" if bench.worker.broken else "exit code 1") in bench.error().message
    bench.next, bench.events = FakeWorker, []
    bench.request()
    bench.worker.greet()
    assert bench.worker.methods == ["hello", "segment"]


def test_a_worker_that_never_answers_is_given_up(bench: Bench) -> None:
    bench.request()
    bench.pass_time(59)
    assert bench.events == []
    bench.pass_time(2)
    assert bench.worker.killed and isinstance(bench.error(), WorkerDied) and "within 60 s" in bench.error().message


@pytest.mark.parametrize(
    "answer",
    [
        {"event": "done", "result": {"version": 2}},
        {"event": "done", "result": {}},
        {"event": "done"},
        {"event": "failed", "error": "InputError", "message": "The worker uses version 2 of the protocol, its client version 1."},
    ],
)
def test_another_version_is_refused(bench: Bench, answer: dict) -> None:
    bench.request()
    bench.worker.say(id=bench.worker.sent[0]["id"], **answer)
    assert bench.worker.killed and "version" in bench.error().message
    assert bench.worker.methods == ["hello"] and bench.started == []


# Noise


@pytest.mark.parametrize(
    "noise",
    [b"Downloading... 3%\n", b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"id": 99, "event": "progress"}\n', b'{"id": [1], "event": "done"}\n'],
)
def test_noise_is_logged_and_disturbs_nothing(ready: Bench, noise: bytes) -> None:
    call = ready.request()
    ready.worker.on_output(noise)
    ready.worker.say(id=call.id, event="done", result={})
    assert ready.events == [("done", {})]
    assert len(ready.logged) == (0 if b"done" in noise else 1)


def test_noise_before_the_greeting(bench: Bench) -> None:
    bench.request()
    bench.worker.on_output(b'{"event": "done", "id": 77}\nwelcome\n')
    bench.worker.greet()
    assert bench.worker.methods == ["hello", "segment"]


def test_progress_without_numbers_counts_as_nothing(ready: Bench) -> None:
    call = ready.request()
    ready.worker.say(id=call.id, event="progress", stage=None, fraction="much", eta_s="soon")
    assert ready.events == [("progress", ("None", 0.0, None))]


def test_lines_may_come_in_pieces(ready: Bench) -> None:
    call = ready.request()
    line = json.dumps({"id": call.id, "event": "done", "result": {"name": "é"}}, ensure_ascii=False).encode() + b"\n"
    for byte in line:
        assert ready.events == []
        ready.worker.on_output(bytes([byte]))
    assert ready.events == [("done", {"name": "é"})]


def test_the_record_gets_whole_lines(ready: Bench) -> None:
    ready.worker.on_errors("one\ntw")
    ready.worker.on_errors("o\n\nthree")
    ready.worker.say(id=1, event="log", text="four")
    assert ready.logged == ["one", "two", "four"]


def test_a_failure_of_nobody_is_logged(ready: Bench) -> None:
    ready.worker.say(id=None, event="failed", error="InputError", message="This line is not a message", cure="")
    assert ready.logged == ["The worker: This line is not a message"] and ready.events == []


# The end


def test_close_is_polite_first_and_silent(ready: Bench) -> None:
    call = ready.request()
    ready.client.close()
    assert ready.worker.input_closed and not ready.worker.killed
    assert (call.state, ready.events, ready.client.busy) == ("cancelled", [], False)
    ready.client.tick()
    ready.client.close()


def test_close_kills_what_does_not_end(ready: Bench) -> None:
    ready.worker.close_input = lambda: None  # type: ignore[method-assign]
    ready.client.close(wait_s=0.05)
    assert ready.worker.killed


def test_a_callback_may_close_the_client(ready: Bench) -> None:
    first, second = ready.client.request("encode", done=lambda reply: ready.client.close()), ready.request()
    one, two = (json.dumps({"id": call.id, "event": "done", "result": {}}).encode() + b"\n" for call in (first, second))
    ready.worker.on_output(one + two)
    assert (first.state, second.state, ready.events) == ("done", "cancelled", [])


def test_a_closed_client_starts_afresh_when_asked(ready: Bench) -> None:
    ready.client.close()
    ready.request()
    ready.worker.greet()
    assert ready.worker.methods == ["hello", "segment"] and ready.started == [False]

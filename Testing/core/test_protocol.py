"""Lines, messages, requests and errors on their way between client and worker."""

import json

import pytest

from mass_core import errors, schema
from mass_core.config import Recipe
from mass_core.errors import DeviceError, InputError, MassError
from mass_core.worker import protocol
from mass_core.worker import requests as params
from mass_core.worker.protocol import Defect, Lines, Request


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_in_any_portions(size: int) -> None:
    data = "eins\n\r\n\nzwei é\r\nhalf".encode()
    lines = Lines()
    found = [line for start in range(0, len(data), size) for line in lines.feed(data[start : start + size])]
    assert found == [b"eins", "zwei é".encode()]
    assert lines.rest() == b"half"
    assert lines.feed(b" and whole\n") == [b"half and whole"]
    assert lines.rest() == b""


def test_a_message_is_one_line_whatever_it_holds() -> None:
    message = {"id": 1, "path": "/tmp/Müller \n\udcff.nrrd", "text": "\u2028 肝"}
    line = protocol.to_line(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n") and line.isascii()
    assert protocol.from_line(line) == message


def test_values_json_does_not_know_are_not_sent() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        protocol.to_line({"x": float("nan")})
    with pytest.raises(TypeError):
        protocol.to_line({"x": object()})


@pytest.mark.parametrize("line", [b"Loading model...", b"{half", b"\xff\xfe{}", b"[1, 2]", b"7", b"[" * 100_000])
def test_what_is_no_message_is_told(line: bytes) -> None:
    with pytest.raises(InputError, match="This line is not a message") as caught:
        protocol.from_line(line)
    assert len(caught.value.message) < 200


def test_request_there_and_back() -> None:
    request = Request(id=7, method="segment", params={"target": "a.nii"})
    assert json.loads(request.line()) == {"id": 7, "method": "segment", "params": {"target": "a.nii"}}
    assert Request.of(protocol.from_line(request.line())) == request
    assert Request.of({"id": 1, "method": "hello"}).params == {}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"method": "hello"}, "whole number as its id, got None"),
        ({"id": "1", "method": "hello"}, "got '1'"),
        ({"id": True, "method": "hello"}, "got True"),
        ({"id": 1, "method": "dream"}, "no method 'dream'"),
        ({"id": 1}, "no method None"),
        ({"id": 1, "method": ["load"]}, "no method"),
        ({"id": 1, "method": "load", "params": [1]}, "not an object"),
    ],
)
def test_requests_that_cannot_be_understood(message: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Request.of(message)


@pytest.mark.parametrize("kind", [MassError, InputError, DeviceError, errors.WeightsError])
def test_errors_arrive_as_what_they_were(kind: type[MassError]) -> None:
    reply = protocol.from_line(protocol.to_line(protocol.failure(kind("why", "cure"))))
    assert "details" not in reply
    error = protocol.error_of(reply)
    assert (type(error), error.message, error.cure) == (kind, "why", "cure")


def test_a_full_disk_arrives_as_such() -> None:
    reply = protocol.failure(OSError(28, "No space left on device", "/x/y.nrrd"))
    assert reply["error"] == "OutputError" and "disk is full" in reply["message"]


def test_a_defect_brings_its_traceback() -> None:
    try:
        {}["label"]
    except KeyError as error:
        reply = protocol.failure(error)
    arrived = protocol.error_of(reply)
    assert isinstance(arrived, Defect)
    assert "KeyError: 'label'" in arrived.message and "report" in arrived.cure
    assert "test_protocol.py" in arrived.details


@pytest.mark.parametrize("reply", [{}, {"error": "Path"}, {"error": "os"}, {"error": 7, "message": None}, {"error": "Exception"}])
def test_odd_failures_still_are_errors(reply: dict) -> None:
    error = protocol.error_of(reply)
    assert isinstance(error, Defect) and error.message


SEGMENT = {"target": "t.nii", "output": "o.nrrd", "references": [{"image": "i.nii", "mask": "m.nii", "labels": [1]}]}


def test_params_are_read_with_their_defaults() -> None:
    order = schema.read(params.Segment, {**SEGMENT, "appearance": {"1": {"name": "liver", "color": [1, 0, 0]}}})
    assert order.references == [params.Reference(image="i.nii", mask="m.nii", labels=[1])]
    assert order.appearance["1"].color == (1.0, 0.0, 0.0)
    assert (order.weights, order.device, order.precision, order.overwrite, order.task) == ("small", "auto", "auto", False, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tagret": "x"}, "params: tagret is not known"),
        ({"target": 3}, "params: target is 3"),
        ({"overwrite": 1}, "params: overwrite is 1"),
        ({"frame": True}, "params: frame is True"),
        ({"labels": [1, "2"]}, "params: labels is '2'"),
        ({"references": [{"image": "i.nii"}]}, "params: references: mask is missing"),
        ({"references": {"image": "i.nii"}}, "params: references is "),
        ({"recipe": "quick"}, "params: recipe is 'quick'"),
        ({"appearance": {"1": {"name": "liver", "color": [1, 0]}}}, "color is "),
    ],
)
def test_params_that_cannot_be_used_are_named(change: dict, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        schema.read(params.Segment, {**SEGMENT, **change})
    assert caught.value.cure or "missing" in told


def test_missing_params_are_named() -> None:
    with pytest.raises(InputError, match="params: output, target is missing"):
        schema.read(params.Segment, {})


def test_options_change_the_recipe() -> None:
    options = {"window_zyx": [64, 64, 64], "overlap": 0, "spacing_zyx": None, "modality": "mr", "skip_uniform": False}
    changed = params.Load(options=options).changed(Recipe(threshold=0.4))
    assert changed == Recipe(threshold=0.4, window_zyx=(64, 64, 64), overlap=0.0, spacing_zyx=None, modality="mr", skip_uniform=False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"windw": [1, 2, 3]}, "options: windw is not known"),
        ({"window_zyx": 64}, "options: window_zyx is 64"),
        ({"window_zyx": [64, 64]}, "options: window_zyx is"),
        ({"window_zyx": [64, 64, 1.5]}, "options: window_zyx is 1.5"),
        ({"overlap": "half"}, "options: overlap is 'half'"),
        ({"overlap": 1}, "overlap of windows is 1"),
        ({"parts": "some"}, "options: parts is 'some'"),
        ({"skip_uniform": 0}, "options: skip_uniform is 0"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        params.Load(options=options).changed(Recipe())


def test_recipe_released_takes_plain_weights_unless_told() -> None:
    assert params.Load(recipe="released").averaged is False
    assert params.Load(recipe="released", ema=True).averaged is True
    assert params.Load().averaged is None

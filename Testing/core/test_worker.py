"""Replies, caches and refusals of the worker; a real process, `small` where the result matters."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mass_core.colors import LabelStyle
from mass_core.devices import built_for
from mass_core.encoding.task import Task
from mass_core.errors import DeviceError, GeometryError, InputError, MassError, OutputError, WeightsError
from mass_core.inference.segmenter import Segmenter
from mass_core.volumes.appearance import read_appearance
from mass_core.volumes.boxes import bounding_box
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights.checkpoint import load_model
from Testing.core.worker_process import LONG, Files, Recorder, scan

# What it answers


def test_hello(worker: Recorder) -> None:
    import torch

    import mass_core

    result = worker.ask("hello", {"version": 1})["result"]
    assert (result["version"], result["mass_version"]) == (1, mass_core.__version__)
    assert Path(result["package"]) == Path(mass_core.__file__).parent
    assert result["torch"] == {"version": torch.__version__, "built_for": built_for()}
    assert result["devices"][-1]["name"] == "cpu"
    assert len(result["devices"]) == 1 + torch.cuda.device_count() + torch.backends.mps.is_available()


def test_load_tells_about_the_weights(worker: Recorder, tiny_weights: Path) -> None:
    model = load_model(tiny_weights, "cpu")
    result = worker.ask("load", {"weights": str(tiny_weights), "device": "cpu"})["result"]
    assert (result["name"], result["fingerprint"], result["device"]) == ("tiny", model.fingerprint, "cpu")
    assert result["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert result["recipe"]["window_zyx"] == [32, 32, 32]


def test_the_result_is_that_of_the_library(worker: Recorder, tmp_path: Path) -> None:
    files = Files(tmp_path / "with spaces, ÄÖ, 肝", "small")
    look = {"1": {"name": "ball", "color": [1, 0.5, 0], "terminology": "T~1"}}
    encoded = worker.ask("encode", files.encode(appearance=look))["result"]
    assert [(x["value"], x["name"], x["color"], x["terminology"], x["references"]) for x in encoded["labels"]] == [
        (1, "ball", [1.0, 0.5, 0.0], "T~1", 1),
        (2, "label 2", None, "", 1),
    ]
    reply = worker.ask("segment", files.segment(task=str(files.task)))
    model = load_model("small", "cpu")
    segmenter = Segmenter(model, model.recipe.changed(modality="ct"))
    task = segmenter.encode([scan()], appearance={1: LabelStyle(name="ball", color=(1.0, 0.5, 0.0), terminology="T~1")})
    expected = segmenter.segment(scan(1)[0], task)
    found = Volume.read(reply["result"]["output"])
    assert np.array_equal(found.array, expected.labels.array) and found.array.any()
    assert found.geometry.matches(scan(1)[0].geometry)
    assert {x["value"]: x["ml"] for x in reply["result"]["labels"]} == pytest.approx(expected.volumes_ml)
    assert (reply["result"]["modality"], reply["device"]) == ("ct", "cpu")
    assert reply["peak_memory"] > 10 << 20
    assert {"read", "prepare", "segment", "place", "write"} <= set(reply["timings"])
    stored = Task.load(files.task)
    assert (stored.recipe, stored.fingerprint) == (segmenter.recipe, model.fingerprint)


def test_references_at_once_give_the_same_as_a_task(worker: Recorder, files: Files) -> None:
    worker.ask("encode", files.encode())
    a, b = (worker.ask("segment", p)["result"] for p in (files.segment("a.nrrd", task=str(files.task)), files.segment("b.nrrd")))
    assert np.array_equal(Volume.read(a["output"]).array, Volume.read(b["output"]).array)
    assert a["labels"] == b["labels"]


def test_a_part_of_the_result_lies_where_the_whole_has_it(worker: Recorder, tmp_path: Path) -> None:
    files = Files(tmp_path / "balls", "small")
    worker.ask("encode", files.encode())
    whole, part = (
        Volume.read(worker.ask("segment", files.segment(name, task=str(files.task), crop=crop))["result"]["output"])
        for name, crop in (("whole.nrrd", False), ("part.nrrd", True))
    )
    box = bounding_box(whole.array > 0)
    assert box is not None and part.array.size < whole.array.size
    assert np.array_equal(part.array, whole.cropped(box).array) and part.geometry.matches(whole.geometry.cropped(box))


def test_the_result_lies_where_it_is_said_to(worker: Recorder, files: Files) -> None:
    worker.ask("encode", files.encode())
    grid = {"spacing_xyz": [1, 2, 3], "origin_xyz": [7, 8, 9.5], "direction": [0, 1, 0, -1, 0, 0, 0, 0, 1]}
    output = worker.ask("segment", files.segment(task=str(files.task), grid=grid))["result"]["output"]
    plain = worker.ask("segment", files.segment("plain.nrrd", task=str(files.task)))["result"]["output"]
    found = Volume.read(output)
    assert np.array_equal(found.array, Volume.read(plain).array)
    assert found.geometry == Geometry(shape_zyx=found.array.shape, **{name: tuple(map(float, values)) for name, values in grid.items()})
    with pytest.raises(InputError, match=r"params: grid: origin_xyz is \[1\]"):
        worker.ask("segment", files.segment("no.nrrd", task=str(files.task), grid={**grid, "origin_xyz": [1]}))


def test_a_segmentation_file_tells_names_and_colours(worker: Recorder, files: Files) -> None:
    worker.ask("encode", files.encode(appearance={"1": {"name": "Kügelchen", "color": [1, 0.5, 0], "terminology": "T~1"}}))
    output = worker.ask("segment", files.segment("found.seg.nrrd", task=str(files.task)))["result"]["output"]
    found = read_appearance(output)
    assert found[1] == LabelStyle(name="Kügelchen", color=(1.0, 0.5, 0.0), terminology="T~1")
    assert found[2].name == "label 2" and found[2].color is not None and found[2].color != found[1].color


def test_labels_can_be_chosen(worker: Recorder, files: Files) -> None:
    worker.ask("encode", files.encode())
    for number, what in enumerate(({"labels": [2]}, {"labels": [2], "task": str(files.task)}, {})):
        params = files.segment(f"{number}.nrrd", **what)
        if not what:
            params["references"][0]["labels"] = [2]
        assert [label["value"] for label in worker.ask("segment", params)["result"]["labels"]] == [2]


def test_names_of_a_segmentation_file_are_taken_over(worker: Recorder, files: Files) -> None:
    import SimpleITK as sitk

    image = scan()[1].to_sitk()
    for key, value in {"LabelValue": "1", "Name": "Leber", "Color": "1 0 0"}.items():
        image.SetMetaData(f"Segment0_{key}", value)
    files.mask = files.folder / "ref.seg.nrrd"
    sitk.WriteImage(image, str(files.mask))
    labels = worker.ask("encode", files.encode())["result"]["labels"]
    assert [label["name"] for label in labels] == ["Leber", "label 2"]
    labels = worker.ask("encode", files.encode(appearance={"1": {"name": "liver"}}))["result"]["labels"]
    assert [label["name"] for label in labels] == ["liver", "label 2"]


def test_probabilities_on_request(worker: Recorder, files: Files) -> None:
    result = worker.ask("segment", files.segment(probabilities=True))["result"]
    assert set(result["probabilities"]) == {"1", "2"}
    maps = [Volume.read(path) for path in result["probabilities"].values()]
    assert all(m.array.dtype == np.float32 and m.array.shape == (40, 40, 40) and 0 <= m.array.min() < m.array.max() <= 1 for m in maps)


def test_results_are_judged_on_request(worker: Recorder, files: Files) -> None:
    result = worker.ask("segment", files.segment(assess=True))["result"]
    told = {label["value"]: label["quality"] for label in result["labels"]}
    fields = {"expected_dice", "flag", "reasons", "cycle", "agreement", "volume_ratio", "extent_ratio"}
    assert set(told) == {1, 2} and all(set(quality) == fields for quality in told.values())
    params = {name: value for name, value in files.segment().items() if name != "output"}
    reply = worker.ask("assess", {**params, "result": result["output"]})
    assert {x["value"]: x["quality"] for x in reply["result"]["labels"]} == told
    assert {"read", "assess"} <= set(reply["timings"])
    assert "quality" not in worker.ask("segment", files.segment("plain.nrrd"))["result"]["labels"][0]
    worker.ask("encode", files.encode())
    task = {name: value for name, value in params.items() if name != "references"} | {"task": str(files.task), "labels": [2]}
    (alone,) = worker.ask("assess", {**task, "result": result["output"]})["result"]["labels"]
    assert (alone["value"], alone["name"]) == (2, "label 2")
    assert alone["quality"]["cycle"] is None and alone["quality"]["agreement"] is not None


def test_judging_can_be_cancelled(worker: Recorder, files: Files) -> None:
    call = worker.request("segment", files.segment("judged.nrrd", assess=True))
    worker.until(lambda: any(kind == "assess" for kind, _ in worker.events) or call.state not in ("waiting", "running"))
    call.cancel()
    worker.until(lambda: any(kind in ("cancelled", "done") for kind, _ in worker.events))
    kinds = [kind for kind, _ in worker.events]
    assert kinds[-1] == "cancelled" and "write" not in kinds
    assert "judged.nrrd" not in files.names()


def test_progress_goes_through_the_stages(worker: Recorder, files: Files) -> None:
    worker.ask("unload")
    call = worker.request("segment", files.segment(options=LONG))
    worker.until(lambda: call.state != "waiting")
    stages = list(dict.fromkeys(kind for kind, _ in worker.events))
    assert stages == ["load", "read", "encode", "prepare", "segment", "place", "write", "done"]
    fractions = [fraction for kind, fraction in worker.events if kind == "segment"]
    assert fractions == sorted(fractions) and fractions[-1] == 1 and len(fractions) > 3


# What it keeps


def test_a_second_run_does_nothing_twice(worker: Recorder, files: Files) -> None:
    worker.ask("unload")
    first = worker.ask("segment", files.segment("a.nrrd"))
    second = worker.ask("segment", files.segment("b.nrrd"))
    assert first["result"]["reused"] == {"model": False, "labels": 0, "target": False}
    assert second["result"]["reused"] == {"model": True, "labels": 2, "target": True}
    assert "load" in first["timings"] and "load" not in second["timings"]
    assert np.array_equal(Volume.read(files.folder / "a.nrrd").array, Volume.read(files.folder / "b.nrrd").array)


def test_an_edited_reference_is_learned_anew_and_nothing_else(worker: Recorder, files: Files) -> None:
    worker.ask("segment", files.segment("a.nrrd"))
    labels = scan()[1]
    labels.array[12, 12, 12] = 0
    labels.write(files.mask)
    reused = worker.ask("segment", files.segment("b.nrrd"))["result"]["reused"]
    assert reused == {"model": True, "labels": 1, "target": True}
    scan(2)[0].write(files.target)
    reused = worker.ask("segment", files.segment("c.nrrd"))["result"]["reused"]
    assert reused == {"model": True, "labels": 2, "target": False}


def test_what_a_decision_does_not_touch_is_kept(worker: Recorder, files: Files) -> None:
    first = worker.ask("segment", files.segment("a.nrrd", options={"threshold": 0.2}))
    second = worker.ask("segment", files.segment("b.nrrd", options={"threshold": 0.5, "parts": "largest"}))
    assert second["result"]["reused"] == {"model": True, "labels": 2, "target": True}
    assert first["result"]["labels"][0]["ml"] > second["result"]["labels"][0]["ml"]
    assert np.array_equal(Volume.read(files.folder / "b.nrrd").array, by_library(files, threshold=0.5, parts="largest"))
    third = worker.ask("segment", files.segment("c.nrrd", options={"spacing_zyx": [4, 4, 4]}))
    assert third["result"]["reused"] == {"model": True, "labels": 0, "target": False}


def by_library(files: Files, **changes: Any) -> np.ndarray:
    """The same label map, made here with nothing kept."""
    model = load_model(files.common["weights"], "cpu")
    segmenter = Segmenter(model, model.recipe.changed(modality="ct", **changes))
    return segmenter.segment(scan(1)[0], segmenter.encode([scan()])).labels.array


def test_other_weights_under_the_same_name_are_read(worker: Recorder, files: Files, tiny_network: Any, tiny_recipe: Any) -> None:
    import torch

    from mass_core.weights.checkpoint import save_weights

    weights = files.folder / "mine.safetensors"
    network = deepcopy(tiny_network)
    fingerprints = []
    for shift in (0.0, 0.5):
        with torch.no_grad():
            network.class_tokens0 += shift
        save_weights(weights, network, tiny_recipe, {})
        fingerprints.append(worker.ask("load", {"weights": str(weights), "device": "cpu"})["result"]["fingerprint"])
    assert fingerprints[0] != fingerprints[1]


# What it refuses


@pytest.mark.parametrize(
    ("method", "change", "error", "told"),
    [
        ("segment", {"target": "/no/such.nrrd"}, InputError, "no file /no/such.nrrd"),
        ("segment", {"references": [{"image": "/no/such.nrrd", "mask": "/no/mask.nrrd"}]}, InputError, "no file /no/such.nrrd"),
        ("segment", {"task": "two.masstask"}, InputError, "must be given exactly once"),
        ("segment", {"references": []}, InputError, "must be given exactly once"),
        ("segment", {"output": "/nowhere/out.txt"}, OutputError, "no ending"),
        ("segment", {"labels": [7]}, InputError, "Label 7"),
        ("segment", {"options": {"windw": 3}}, InputError, "windw is not known"),
        ("segment", {"options": {"window_zyx": [8, 8, 8]}}, InputError, "window is"),
        ("segment", {"device": "cuda:77"}, DeviceError, "cuda:77"),
        ("segment", {"weights": "none"}, WeightsError, "no weights 'none'"),
        ("segment", {"frame": 3}, InputError, "Frame 3"),
        ("assess", {"result": "/no/such.nrrd"}, InputError, "no file /no/such.nrrd"),
        ("assess", {}, InputError, "result is missing"),
        ("assess", {"result": "new.nrrd", "output": "x.nrrd"}, InputError, "output is not known"),
        ("encode", {"references": []}, InputError, "No reference"),
        ("encode", {"output": "/nowhere/task.txt"}, OutputError, "not a valid file name for a task"),
        ("encode", {"appearance": {"one": {"name": "liver"}}}, InputError, "'one'"),
        ("load", {"target": "x"}, InputError, "target is not known"),
    ],
)
def test_bad_input_has_a_message_and_the_worker_lives_on(
    worker: Recorder, files: Files, method: str, change: dict, error: type[MassError], told: str
) -> None:
    judged = {name: value for name, value in files.segment().items() if name != "output"}
    params = {"segment": files.segment(), "assess": judged, "encode": files.encode(), "load": {"device": "cpu"}}[method]
    before, pid = files.names(), worker.pid if worker.client.transport else None
    with pytest.raises(error, match=told):
        worker.ask(method, {**params, **change})
    assert files.names() == before
    assert pid in (None, worker.pid)


def test_results_that_exist_are_not_replaced_unasked(worker: Recorder, files: Files) -> None:
    (files.folder / "out.nrrd").write_text("precious")
    with pytest.raises(OutputError, match=r"out\.nrrd exists already"):
        worker.ask("segment", files.segment())
    assert (files.folder / "out.nrrd").read_text() == "precious"
    worker.ask("segment", files.segment(overwrite=True))
    assert Volume.read(files.folder / "out.nrrd").array.shape == (40, 40, 40)
    files.task.touch()
    with pytest.raises(OutputError, match="exists already"):
        worker.ask("encode", files.encode(overwrite=False))


def test_a_task_of_other_weights_is_refused(worker: Recorder, files: Files) -> None:
    worker.ask("encode", files.encode())
    with pytest.raises(WeightsError, match="not with small"):
        worker.ask("segment", files.segment(task=str(files.task), weights="small"))


def test_methods_of_the_future_are_refused(worker: Recorder) -> None:
    with pytest.raises(InputError, match="no method 'dream'") as caught:
        worker.ask("dream")
    assert "segment" in caught.value.cure


def test_masks_that_lost_their_header_and_inputs_as_outputs(worker: Recorder, files: Files) -> None:
    lost = files.folder / "lost.nrrd"
    mask = Volume.read(files.mask)
    Volume(mask.array, Geometry(shape_zyx=mask.array.shape)).write(lost)
    pair = {"image": str(files.image), "mask": str(lost)}
    with pytest.raises(GeometryError, match="header was lost"):
        worker.ask("encode", files.encode(references=[pair]))
    told = worker.ask("encode", files.encode(references=[pair | {"same_grid": True}]))["result"]
    assert [x["parts"] for x in told["labels"]] == [x["parts"] for x in worker.ask("encode", files.encode())["result"]["labels"]]
    for output in (files.target, files.image, files.mask):
        with pytest.raises(OutputError, match="is an input of this run"):
            worker.ask("segment", files.segment(output=str(output), overwrite=True))

"""A worker on another computer: results are those of one here, and what is found before anything is sent (ssh_server.py)."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.errors import DeviceError, GeometryError, InputError, MassError, OutputError
from mass_core.remote import hosts
from mass_core.remote.ssh import SshTransport
from mass_core.volumes.volume import Volume
from mass_core.worker.transport import LocalClient
from Testing.core.ssh_server import HERE, Server, transport
from Testing.core.worker_process import Files, Recorder, alike, scan


def there(server: Server) -> set[str]:
    """Files the server keeps for its clients."""
    return {path.name for path in server.tmp.rglob("in/**/*") if path.is_file()}


# Results


def test_results_are_those_of_a_worker_here(remote: Recorder, files: Files, worker: Recorder, server: Server) -> None:
    before = files.names()
    order = files.segment("there.nrrd", probabilities=True, assess=True)
    reply = remote.ask("segment", order)
    own = worker.ask("segment", {**order, "output": str(files.folder / "here.nrrd")})
    assert files.names() == before | {f"{place}{end}" for place in ("here", "there") for end in (".nrrd", *PROBABILITIES)}
    for ending in (".nrrd", *PROBABILITIES):
        found, wanted = (Volume.read(files.folder / f"{place}{ending}") for place in ("there", "here"))
        assert found.geometry == wanted.geometry and alike(found.array, wanted.array)
    assert reply["result"]["output"] == order["output"]
    assert reply["result"]["probabilities"] == {
        "1": str(files.folder / "there_label1_prob.nii.gz"),
        "2": order["output"][:-5] + PROBABILITIES[1],
    }
    for label, other in zip(reply["result"]["labels"], own["result"]["labels"], strict=True):
        assert label["name"] == other["name"] and label["ml"] == pytest.approx(other["ml"], rel=0.02)


PROBABILITIES = ("_label1_prob.nii.gz", "_label2_prob.nii.gz")


def test_a_scan_is_sent_once(remote: Recorder, files: Files, server: Server) -> None:
    remote.ask("segment", files.segment())
    sent, kept = transport(remote).shipping.bytes_sent, there(server)
    reply = remote.ask("segment", files.segment("again.nrrd"))
    assert reply["result"]["reused"] == {"model": True, "labels": 2, "target": True}
    assert transport(remote).shipping.bytes_sent - sent < 2000 and there(server) == kept
    renamed = files.folder / "copy of it.nrrd"
    renamed.write_bytes(files.target.read_bytes())
    remote.ask("segment", files.segment("third.nrrd", target=str(renamed)))
    assert there(server) == kept
    assert not any(name.startswith(("ref", "new", "copy")) for name in kept), "names of files stay here"


def test_a_file_that_changed_is_sent_again(remote: Recorder, files: Files) -> None:
    remote.ask("segment", files.segment("a.nrrd"))
    scan(5)[0].write(files.target)
    remote.ask("segment", files.segment("b.nrrd"))
    a, b = (Volume.read(files.folder / f"{name}.nrrd").array for name in "ab")
    assert not np.array_equal(a, b)


@pytest.mark.slow
def test_the_other_methods(remote: Recorder, files: Files) -> None:
    assert remote.ask("load", files.common)["result"]["name"]
    encoded = remote.ask("encode", files.encode())["result"]
    assert encoded["output"] == str(files.task) and files.task.exists()
    remote.ask("adapt", files.encode(seconds=0.1, seed=3))
    found = files.folder / "out.nrrd"
    remote.ask("segment", files.segment(task=str(files.task)))
    whole = {**files.common, "task": str(files.task), "target": str(files.target), "result": str(found), "same_grid": True}
    judged = remote.ask("assess", whole)["result"]
    assert [label["value"] for label in judged["labels"]] == [1, 2]
    colours = files.folder / "colours.nii.gz"
    remote.ask("features", {**files.common, "target": str(files.target), "output": str(colours)})
    assert sitk.ReadImage(str(colours)).GetNumberOfComponentsPerPixel() == 3


def test_folders_and_files_of_two_parts(remote: Recorder, files: Files) -> None:
    image = sitk.ReadImage(str(files.target))
    series, parted = files.folder / "patient Ä", files.folder / "new.mhd"
    series.mkdir()
    for z in range(image.GetDepth()):
        slice_ = image[:, :, z]
        for key, value in {"0020|0032": f"0\\0\\{3 * z}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|000e": "1.2.3", "0008|0060": "CT"}.items():
            slice_.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(series / f"{z:03}.dcm"))
        writer.Execute(slice_)
    sitk.WriteImage(image, str(parted))
    remote.ask("segment", files.segment("a.nrrd"))
    remote.ask("segment", files.segment("b.mhd", target=str(parted)))
    remote.ask("segment", files.segment("c.nrrd", target=str(series)))
    a, b = (Volume.read(files.folder / name) for name in ("a.nrrd", "b.mhd"))
    assert np.array_equal(a.array, b.array) and (files.folder / "b.raw").exists()
    assert Volume.read(files.folder / "c.nrrd").array.shape == a.array.shape


def test_finetuning_there(remote: Recorder, files: Files) -> None:
    tuned = files.folder / "two.safetensors"
    small = ["batch_size=2", "steps_per_epoch=1", "validate_cases=1", "references=1"]
    order = {
        "weights": files.common["weights"],
        "device": "cpu",
        "cases": files.references,
        "recipe": "smoke",
        "epochs": 1,
        "settings": small,
    }
    result = remote.ask("finetune", {**order, "output": str(tuned)})["result"]
    assert result["output"] == str(tuned) and tuned.exists() and result["epochs"] == 1


# Before anything is sent


def test_nothing_leaves_before_the_user_agreed(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    hosts.withdraw(HERE)
    scan(77)[0].write(files.target)
    one, before = fresh(), there(server)
    with pytest.raises(InputError, match=f"be sent to {HERE}.*\n.*--agree"):
        one.ask("segment", files.segment())
    assert there(server) == before and transport(one).shipping.bytes_sent < 2000
    hosts.agree(HERE)
    one.ask("segment", files.segment())
    assert there(server) > before


def test_the_agreement_is_for_one_computer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another computer today is asked about again."""
    assert hosts.host(HERE).may_receive() and f"({hosts.address(HERE)})" in hosts.question(HERE)
    other = tmp_path / "other_config"
    other.write_text(f"Host {HERE}\n HostName elsewhere.example\n")
    monkeypatch.setenv("MASS_SSH", f"ssh -F {other}")
    assert not hosts.host(HERE).may_receive()


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "", "two words", "line\nbreak"])
def test_names_that_ssh_would_take_for_something_else(name: str) -> None:
    with pytest.raises(InputError, match="not a valid computer name"):
        SshTransport(name)


def test_reasons_not_to_begin_are_found_here(remote: Recorder, files: Files) -> None:
    remote.ask("load", files.common)
    sent = transport(remote).shipping.bytes_sent
    with pytest.raises(InputError, match=re.escape(f"There is no file {files.folder / 'gone.nrrd'}")):
        remote.ask("segment", files.segment(target=str(files.folder / "gone.nrrd")))
    with pytest.raises(OutputError, match="is an input of this run"):
        remote.ask("segment", files.segment("new.nrrd", overwrite=True))
    (files.folder / "out.nrrd").touch()
    with pytest.raises(OutputError, match="exists already"):
        remote.ask("segment", files.segment())
    assert transport(remote).shipping.bytes_sent == sent


def test_errors_name_the_files_of_this_computer(remote: Recorder, files: Files) -> None:
    files.target.write_bytes(files.target.read_bytes()[:3000])
    with pytest.raises(MassError) as found:
        remote.ask("segment", files.segment())
    assert str(files.target) in str(found.value) and "mass-remote" not in str(found.value)
    image, _ = scan(1)
    Volume(
        image.array[:5], image.geometry.__class__(shape_zyx=(5, 40, 40), spacing_xyz=(3.0, 3.0, 3.0), origin_xyz=(900.0, 0.0, 0.0))
    ).write(files.mask)
    with pytest.raises((GeometryError, InputError)) as found:
        remote.ask("encode", files.encode())
    assert "mass-remote" not in str(found.value) and not re.search("[0-9a-f]{32}", str(found.value))


def test_failures_there_name_the_computer(remote: Recorder, files: Files) -> None:
    with pytest.raises(DeviceError, match=f"On {HERE}: .*cuda:7"):
        remote.ask("load", {**files.common, "device": "cuda:7"})


# Examples


def test_python_examples_of_the_docs() -> None:
    import mass_core

    client = mass_core.LocalClient(transport=lambda: mass_core.SshTransport(HERE))
    assert isinstance(client, LocalClient)
    client.close()

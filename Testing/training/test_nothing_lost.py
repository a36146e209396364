"""Every interrupted run resumes from its last whole state: damaged files, full disks, signals, killed processes, other machines."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from mass_core.errors import InputError
from Testing.waiting import PATIENCE_S, wait_until
from training.pretrain import loop as pretrain
from training.runs.distributed import ProcessGroup
from training.runs.state import saved

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "episodes.task_slots=2",
        "episodes.smallest_voxels=8", "workers=0", "save_every=2", "log_every=2"]  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
MODULE = ["-m", "training.pretrain"]
LONGER = ["steps=24", "batch_size=2", "save_every=2"]


def words(data, output, *settings, resume=""):
    return ["--recipe", "smoke", "--data", str(data), "--output", str(output), "--device", "cpu",
            *(["--resume", resume] if resume else []), "--set", *TINY, *settings]  # fmt: skip


def run(data, output, *settings, resume=""):
    return pretrain.main(words(data, output, *settings, resume=resume))


def started(*command):
    """A process of its own group, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_while_running(reached, process):
    wait_until(lambda: reached() or process.poll() is not None)
    assert process.poll() is None, process.stderr.read().decode("utf-8", "replace")


def wait_for_a_step(output, process):
    log = output / "log.jsonl"
    wait_while_running(lambda: log.exists() and log.read_text(), process)


def wait_for_state(output, process, step=2):
    wait_while_running(lambda: any(int(path.stem[5:]) >= step for path in saved(output / "state")), process)


def newest(output):
    return torch.load(saved(output / "state")[0], weights_only=True)


def assert_same(a, b):
    assert a["step"] == b["step"]
    for part in ("network", "average"):
        assert all(torch.equal(value, b[part][name]) for name, value in a[part].items())
    for number, moments in a["optimiser"]["state"].items():
        assert all(torch.equal(value, b["optimiser"]["state"][number][name]) for name, value in moments.items())


@pytest.fixture(scope="module")
def six_steps(blob_dataset, tmp_path_factory):
    """The run folder of six steps, never interrupted."""
    output = tmp_path_factory.mktemp("six")
    assert run(blob_dataset, output, "steps=6", "keep_states=3") == 0
    return output


def test_the_last_states_are_kept(six_steps):
    assert [path.name for path in saved(six_steps / "state")] == ["step_00000006.pt", "step_00000004.pt", "step_00000002.pt"]
    assert not [path for path in (six_steps / "state").iterdir() if path.name.startswith(".")]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_state_gives_way_to_the_one_before(six_steps, blob_dataset, tmp_path, capsys, damage):
    output = tmp_path / "run"
    shutil.copytree(six_steps, output)
    damage(saved(output / "state")[0])
    assert run(blob_dataset, output, "steps=6", resume="last") == 0
    told = capsys.readouterr().err
    assert "step_00000006.pt is damaged" in told and "from step 4" in told
    assert_same(newest(output), newest(six_steps))


def test_nothing_whole_is_refused(six_steps, blob_dataset, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(six_steps, output)
    for path in saved(output / "state"):
        cut(path)
    assert run(blob_dataset, output, "steps=6", resume="last") == 2
    assert "All 3 training states" in capsys.readouterr().err


def test_a_state_of_another_format_is_refused(six_steps, blob_dataset, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(six_steps, output)
    path = saved(output / "state")[0]
    torch.save({**torch.load(path, weights_only=True), "format": 99}, path)
    assert run(blob_dataset, output, "steps=6", resume="last") == 2
    assert "format version 99" in capsys.readouterr().err


def test_another_recipe_is_refused_by_what_differs(six_steps, blob_dataset, capsys):
    assert run(blob_dataset, six_steps, "steps=6", "optim.learning_rate=0.5", "seed=1", resume="last") == 2
    told = capsys.readouterr().err
    assert "optim.learning_rate was 0.001, now 0.5" in told and "seed was 42, now 1" in told and "batch_size" not in told


@pytest.mark.parametrize("weight", ["", "=2"])
def test_other_datasets_are_refused_by_name(six_steps, make_dataset, tmp_path, capsys, weight):
    data = make_dataset(tmp_path / "data", scans=2)
    before = (six_steps / "last.safetensors").read_bytes()
    assert run(f"{data}{weight}", six_steps, "steps=6", resume="last") == 2
    told = capsys.readouterr().err
    assert "datasets was ['blobs (scans: 3" in told and "now ['blobs (scans: 2" in told and ("with weight 2" in told) == bool(weight)
    assert (six_steps / "last.safetensors").read_bytes() == before


def test_another_length_is_allowed_and_said(six_steps, blob_dataset, tmp_path, capsys):
    output = tmp_path / "run"
    shutil.copytree(six_steps, output)
    assert run(blob_dataset, output, "steps=8", "workers=1", resume="last") == 0
    assert "steps was 6, now 8" in capsys.readouterr().err
    assert newest(output)["step"] == 8


def test_auto_starts_where_there_is_nothing_and_goes_on_where_there_is(six_steps, blob_dataset, tmp_path, capsys):
    assert run(blob_dataset, tmp_path, "steps=2", resume="auto") == 0
    assert "Resuming" not in capsys.readouterr().err
    assert run(blob_dataset, tmp_path, "steps=2", resume="auto") == 0
    assert "Resuming from step 2" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_the_old_state(six_steps, blob_dataset, tmp_path, capsys):
    """A limit on the size of files stands for the full disk: writing fails in the middle of a file, as there."""
    import resource

    output = tmp_path / "run"
    shutil.copytree(six_steps, output)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        assert run(blob_dataset, output, "steps=8", resume="last") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step_00000008.pt" in capsys.readouterr().err
    assert sorted(path.name for path in (output / "state").iterdir()) == ["step_00000002.pt", "step_00000004.pt", "step_00000006.pt"]
    assert_same(newest(output), newest(six_steps))


def test_draws_of_pytorchs_own_generator_are_resumed_too(blob_dataset, tmp_path, monkeypatch):
    """A network with dropout draws from it."""
    plain = pretrain.mask_loss

    def noisy(logits, *rest):
        loss, dice = plain(torch.dropout(logits, 0.5, train=True), *rest)
        return loss, dice

    monkeypatch.setattr(pretrain, "mask_loss", noisy)
    assert run(blob_dataset, tmp_path / "whole", "steps=4") == 0
    assert run(blob_dataset, tmp_path / "parts", "steps=4") == 0
    saved(tmp_path / "parts" / "state")[0].unlink()
    torch.manual_seed(99)
    assert run(blob_dataset, tmp_path / "parts", "steps=4", resume="last") == 0
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "parts"))


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")
@pytest.mark.parametrize("number, workers", [pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow), (signal.SIGINT, 2)])
def test_a_signal_saves_and_leaves(blob_dataset, tmp_path, number, workers):
    """Ctrl-C goes to all processes of the terminal, so to those of the loader as well."""
    process = started(*MODULE, *words(blob_dataset, tmp_path, "steps=100000", f"workers={workers}", "save_every=100000", "log_every=1"))
    wait_for_a_step(tmp_path, process)
    os.killpg(process.pid, number)
    errors = process.communicate(timeout=PATIENCE_S)[1].decode("utf-8", "replace")
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert f"Saved at step {newest(tmp_path)['step']} of 100000" in errors
    logged = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert newest(tmp_path)["step"] == logged[-1]
    assert (tmp_path / "last.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow)])
def test_a_signal_to_torchrun_saves_and_says_so(blob_dataset, tmp_path, number, status):
    """torchrun passes the signal on, waits, and ends with an error of its own whatever its processes return."""
    settings = ["steps=100000", "batch_size=2", "save_every=100000", "log_every=1"]
    launcher = started(*TORCHRUN, "--standalone", *MODULE, *words(blob_dataset, tmp_path, *settings))
    wait_for_a_step(tmp_path, launcher)
    launcher.send_signal(number)
    errors = launcher.communicate(timeout=PATIENCE_S)[1].decode("utf-8", "replace")
    assert launcher.returncode == status, errors
    assert errors.count(f"Saved at step {newest(tmp_path)['step']} of 100000") == 1 and (tmp_path / "last.safetensors").exists()


def worker_of_rank(launcher, rank):
    """The training process `launcher` started for a rank."""
    for child in psutil.Process(launcher.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank) and "training.pretrain" in child.cmdline():
            return child
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module")
def steps_of_two(blob_dataset, tmp_path_factory):
    """The run folder of two processes nobody killed."""
    output = tmp_path_factory.mktemp("longer")
    assert started(*TORCHRUN, "--standalone", *MODULE, *words(blob_dataset, output, *LONGER)).wait(PATIENCE_S) == 0
    return output


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="torchrun restarts processes on POSIX only")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_takes_the_run_back_to_the_last_state(steps_of_two, blob_dataset, tmp_path, killed):
    launcher = started(*TORCHRUN, "--standalone", "--max-restarts", "1", *MODULE, *words(blob_dataset, tmp_path, *LONGER, resume="auto"))
    wait_for_state(tmp_path, launcher, step=4)
    worker_of_rank(launcher, killed).send_signal(signal.SIGKILL)
    errors = launcher.communicate(timeout=PATIENCE_S)[1].decode("utf-8", "replace")
    assert launcher.returncode == 0, errors
    assert "Resuming from step" in errors
    assert_same(newest(steps_of_two), newest(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="torchrun restarts processes on POSIX only")
def test_two_nodes_lose_a_process_and_go_on(steps_of_two, blob_dataset, tmp_path):
    """Two launchers that meet on this machine's loopback stand for two machines that share a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--max-restarts", "1",
            "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1", "--rdzv-id", "two"]  # fmt: skip
    launchers = [started(*node, *MODULE, *words(blob_dataset, tmp_path, *LONGER, resume="auto")) for _ in range(2)]
    wait_for_state(tmp_path, launchers[0], step=4)
    victim = next(child for child in psutil.Process(launchers[1].pid).children() if "training.pretrain" in child.cmdline())
    victim.send_signal(signal.SIGKILL)
    errors = [launcher.communicate(timeout=PATIENCE_S)[1].decode("utf-8", "replace") for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], errors
    assert "Resuming from step" in "".join(errors)
    assert_same(newest(steps_of_two), newest(tmp_path))


def test_restarts_that_could_not_meet_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        ProcessGroup.join("cpu")

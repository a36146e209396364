"""Two processes on one machine share a run: one set of files, the same weights in both, any number of processes may go on with it."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mass_core.errors import InputError
from mass_core.schema import changed
from Testing.waiting import PATIENCE_S
from training.pretrain import loop as pretrain
from training.pretrain import recipes
from training.runs.distributed import ProcessGroup
from training.runs.loading import own_numbers
from training.runs.state import saved

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "episodes.task_slots=2",
        "episodes.smallest_voxels=8", "workers=0", "save_every=1", "keep_states=4", "log_every=2", "steps=4", "batch_size=4"]  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def words(make_dataset, tmp_path_factory):
    """A run of four steps on a single scan, which both processes draw: none owns a scan. Without its folder."""
    data = make_dataset(tmp_path_factory.mktemp("one"), scans=1)
    return ["--recipe", "smoke", "--data", str(data), "--device", "cpu", "--set", *TINY]


@pytest.fixture(scope="module")
def of_two(words, tmp_path_factory):
    """The run folder of two processes, for which another package `training` is installed; SAM2 has one."""
    output, other = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("installed")
    (other / "training").mkdir()
    (other / "training" / "__init__.py").write_text("raise SystemExit('this is not our training')")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    command = [*torchrun, "-m", "training.pretrain", "--output", str(output), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(other)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0 and b"strides" not in done.stderr, done.stderr.decode("utf-8", "replace")
    return output


def test_two_processes_share_a_run_and_one_goes_on(of_two, words, tmp_path):
    state = torch.load(saved(of_two / "state")[0], weights_only=True)
    assert state["step"] == 4 and all(value.isfinite().all() for value in state["network"].values())
    logged = [json.loads(line) for line in (of_two / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [2, 4] and all(math.isfinite(line["loss"]) for line in logged)
    shutil.copytree(of_two, tmp_path / "run")
    assert pretrain.main(["--output", str(tmp_path / "run"), "--resume", *words, "steps=6"]) == 0
    assert torch.load(saved(tmp_path / "run" / "state")[0], weights_only=True)["step"] == 6


@pytest.mark.slow
def test_two_nodes_share_a_run_and_go_on(blob_dataset, tmp_path):
    """Two torchruns that meet at a port of this computer, as those of docs/cluster.md do at one of the first node."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["--recipe", "smoke", "--data", str(blob_dataset), "--output", str(tmp_path / "run"), "--device", "cpu", "--resume", "auto"]
    for steps in (4, 6):
        with socket.socket() as asked:
            asked.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{asked.getsockname()[1]}"
        meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--local-addr", "127.0.0.1"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *meet, "-m", "training.pretrain"]
        command = [*torchrun, *words, "--set", *TINY, f"steps={steps}"]
        logs = [(tmp_path / f"node{number}_{steps}.txt").open("w+b") for number in range(2)]
        nodes = [subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT) for log in logs]
        codes = [node.wait(PATIENCE_S) for node in nodes]
        assert codes == [0, 0], [Path(log.name).read_text() for log in logs]
        assert torch.load(saved(tmp_path / "run" / "state")[0], weights_only=True)["step"] == steps
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [2, 4, 6]


def test_every_sample_of_a_step_is_computed_once():
    whole = [list(some) for some in own_numbers(range(3, 5), 4, ProcessGroup(0, 1, CPU))]
    halves = [[list(some) for some in own_numbers(range(3, 5), 4, ProcessGroup(rank, 2, CPU))] for rank in (0, 1)]
    assert whole == [[12, 13, 14, 15], [16, 17, 18, 19]]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole


def test_a_batch_that_cannot_be_divided_is_refused():
    assert ProcessGroup(0, 2, CPU).share(8) == 4
    with pytest.raises(InputError, match="3 processes"):
        ProcessGroup(0, 3, CPU).share(8)


def test_one_process_needs_no_others(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = ProcessGroup.join("cpu")
    network = torch.nn.Linear(1, 1)
    assert group.leads and group.wrap(network) is network and group.any(True) and not group.any(False)
    group.leave()


def test_recipe_small_can_be_shared_by_two():
    assert ProcessGroup(0, 2, CPU).share(changed(recipes.small(), []).batch_size) == 4


def test_parts_of_a_step_are_the_shares_of_processes():
    parts = [list(some) for some in own_numbers(range(3, 4), 8, ProcessGroup(1, 2, CPU), 2)]
    assert parts == [[28, 29], [30, 31]]
    with pytest.raises(InputError, match="2 processes in 3 parts each"):
        ProcessGroup(0, 2, CPU).share(8, 3)


def test_two_parts_give_the_gradients_of_two_processes(of_two, words, tmp_path):
    """After one step the optimiser's mean holds a tenth of the clipped gradient: equal up to rounding."""
    assert pretrain.main(["--output", str(tmp_path), *words, "accumulate=2"]) == 0
    two, one = (torch.load(output / "state/step_00000001.pt", weights_only=True)["optimiser"]["state"] for output in (of_two, tmp_path))
    assert one.keys() == two.keys() and any(moments["exp_avg"].any() for moments in one.values())
    for number, moments in one.items():
        torch.testing.assert_close(moments["exp_avg"], two[number]["exp_avg"], atol=1e-6, rtol=1e-4)

"""Speed and memory of the network, beside the released code where it is at hand.

    python -m Testing.benchmarks.inference --section cpu                          this code alone
    python -m Testing.benchmarks.inference --section cpu --released FOLDER        both, and their ratios
    python -m Testing.benchmarks.inference --section volume --released FOLDER     the commands, on a whole scan
    python -m Testing.benchmarks.inference --section gpu --released FOLDER        the paper's table: BF16, 128^3, one class

FOLDER is a checkout of https://github.com/Stanford-AIMI/MASS (needs einops). Every measurement on a CPU, and every code on a GPU, has a
process of its own, so peak memory (resident on a CPU, allocated on a GPU) is its own, too. Weights are random: time does not depend on
them. The section gpu needs nothing but torch, numpy, einops and safetensors; `Testing.benchmarks.gpu` (make gpu) measures more. On a
machine with other work compare CPU seconds, not wall seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
CHANNELS = (32, 64, 128, 256, 512)
STEPS = ("encode", "query", "full")
"""Rows of the paper's table: encode a reference, segment a window with its tokens, both."""
VARIANTS = ("plain", "channels-last", "compiled", "CUDA graphs")
"""Ways to run this code on a GPU: the last three with channels last, the last two through `torch.compile`."""
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a section and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=("cpu", "volume", "gpu"), default="cpu")
    parser.add_argument("--released", type=Path, metavar="FOLDER", help="checkout of the released code")
    parser.add_argument("--size", type=int, default=0, help="edge in voxels (default: 128; section volume: 200)")
    parser.add_argument("--repeats", type=int, default=0, help="the fastest counts (default: 2; section gpu: 10)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda", help="of section gpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        print(json.dumps(measure(**json.loads(arguments.measure))))
        return 0
    rows = {"cpu": section_cpu, "volume": section_volume, "gpu": section_gpu}[arguments.section](arguments)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    return 0


def section_cpu(arguments: argparse.Namespace) -> list[Row]:
    """Reference encoding and query pass, float32."""
    common = {"size": arguments.size or 128, "repeats": arguments.repeats or 2, "device": "cpu", "released": _folder(arguments)}
    codes = ["ours", *(["released"] if arguments.released else [])]
    rows = [in_process(whats=[what], code=code, threads=arguments.threads, **common) for what in ("encode", "query") for code in codes]
    return sum(rows, [])


def section_gpu(arguments: argparse.Namespace) -> list[Row]:
    """Reference encoding, query pass and both together, bfloat16 (paper: 39.72, 49.00 and 88.84 ms, 6.3 GB on an H100)."""
    common = {"size": arguments.size or 128, "repeats": arguments.repeats or 10, "device": arguments.device, "released": _folder(arguments)}
    codes = [f"ours {variant}" for variant in VARIANTS] + (["released"] if arguments.released else [])
    return sum((in_process(whats=STEPS, code=code, **common) for code in codes), [])


def section_volume(arguments: argparse.Namespace) -> list[Row]:
    """One command from files to file: load, encode a reference, segment a whole scan, write."""
    size, rows = arguments.size or 200, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_scans(folder, size)
        for code, command in volume_commands(folder, arguments).items():
            environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": str(REPOSITORY)}
            started = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=arguments.released if code == "released" else REPOSITORY, env=environment, stdout=subprocess.DEVNULL
            )
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{' '.join(command)} failed")
            wall = time.perf_counter() - started
            cpu = usage.ru_utime + usage.ru_stime
            rows.append({"what": f"volume {size}^3", "code": code, "wall_s": wall, "cpu_s": cpu, "peak_gb": resident_gb(usage.ru_maxrss)})
        if arguments.released:
            print(f"Dice of the two label maps: {agreement(folder):.6f}")
    return rows


def volume_commands(folder: Path, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each code; the same preprocessing, windows and decision."""
    scan = {name: str(folder / f"{name}.nii.gz") for name in ("target", "reference", "mask", "ours", "released")}
    weights = folder / "weights.pth"
    ours = [sys.executable, "-m", "mass_core", "segment", "--device", "cpu", "--recipe", "released", "--modality", "ct", "--labels", "1"]
    ours += ["--reference", scan["reference"], scan["mask"], "--target", scan["target"], "--output", scan["ours"], "--body-crop", "none"]
    if not arguments.released:
        write_own_weights(folder / "weights.safetensors")
        return {"ours": [*ours, "--weights", str(folder / "weights.safetensors")]}
    in_process(whats=["checkpoint"], code="released", released=_folder(arguments), path=str(weights))
    released = [sys.executable, "inference.py", "--checkpoint", str(weights), "--modality", "ct", "--reference-label", "1", "--gpu", ""]
    released += ["--reference-image", scan["reference"], "--reference-mask", scan["mask"], "--test-image", scan["target"]]
    released += ["--output", scan["released"], "--body-method", "none"]
    return {"ours": [*ours, "--weights", str(weights)], "released": released}


def write_scans(folder: Path, size: int) -> None:
    """A target of size^3 voxels of 1.5 mm, and a reference with one organ."""
    import numpy as np

    from mass_core.data import phantoms
    from mass_core.volumes.volume import Volume

    target, _ = phantoms.subject(1, "ct", shape_zyx=(size,) * 3, spacing_zyx=(1.5,) * 3)
    reference, labels = phantoms.subject(2, "ct", shape_zyx=(128,) * 3, spacing_zyx=(2.0,) * 3)
    target.write(folder / "target.nii.gz")
    reference.write(folder / "reference.nii.gz")
    Volume((labels.array == 1).astype(np.uint8), labels.geometry).write(folder / "mask.nii.gz")


def write_own_weights(path: Path, config: Any = None, recipe: Any = None) -> None:
    """Random weights of a network, the base network unless told otherwise."""
    import torch

    from mass_core.config import ModelConfig, Recipe
    from mass_core.model import build_model
    from mass_core.weights.checkpoint import save_weights

    torch.manual_seed(0)
    save_weights(path, build_model(config or ModelConfig()), recipe or Recipe(), {})


def agreement(folder: Path) -> float:
    """Dice of the two results."""
    from mass_core.volumes.volume import Volume

    ours, released = (Volume.read(folder / f"{code}.nii.gz").array > 0 for code in ("ours", "released"))
    return float(2 * (ours & released).sum() / max(ours.sum() + released.sum(), 1))


def in_process(**task: Any) -> list[Row]:
    """`measure` in a fresh interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(task.get("threads") or os.cpu_count())}
    command = [sys.executable, __file__, "--measure", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{task} failed:\n{done.stderr}")
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        print(f"{row['what']:<10} {row['code']:<20} {row.get('wall_s', 0):8.3f} s", file=sys.stderr, flush=True)
    return rows


def measure(
    *,
    whats: Sequence[str],
    code: str,
    size: int = 128,
    repeats: int = 1,
    device: str = "cpu",
    released: str | None = None,
    channels: Sequence[int] = CHANNELS,
    **other: Any,
) -> list[Row]:
    """Time some things, a row for each; the first run, which warms up, does not count."""
    import torch

    torch.manual_seed(0)
    if "checkpoint" in whats:
        write_released_checkpoint(str(released), Path(other["path"]))
        return [{"what": "checkpoint", "code": code}]
    image, masks = torch.randn(1, 1, size, size, size, device=device), torch.zeros(1, 1, size, size, size, device=device)
    masks[..., size // 4 : size // 2, size // 4 : size // 2, size // 4 : size // 2] = 1
    tokens = tuple(torch.randn(1, 1, 11, c, device=device) for c in channels[::-1][:3])
    steps = released_steps(str(released), device) if code == "released" else our_steps(code.partition(" ")[2], device, channels)
    run: dict[str, Callable[[], Any]] = {
        "encode": lambda: steps[0](image, masks),
        "query": lambda: steps[1](image, tokens),
        "full": lambda: steps[1](image, steps[0](image, masks)),
    }
    timed = time_on_gpu if device.startswith("cuda") else time_on_cpu
    with torch.inference_mode(), torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=device.startswith("cuda")):
        return [{"what": what, "code": code, **timed(run[what], repeats)} for what in whats]


def our_steps(variant: str, device: str, channels: Sequence[int] = CHANNELS) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Encode a reference; segment with tokens."""
    import torch

    from mass_core.config import ModelConfig
    from mass_core.model import build_model

    network = build_model(ModelConfig(channels=tuple(channels))).eval().to(device)
    if variant != "plain":
        network = network.to(memory_format=torch.channels_last_3d)
    if variant not in ("compiled", "CUDA graphs"):
        return network.encode_reference, network.segment
    # Without a GPU only the tracing is tried: to compile takes minutes there, and gives no kernels anybody would use.
    backend = "inductor" if device.startswith("cuda") else "eager"
    mode = "reduce-overhead" if variant == "CUDA graphs" and backend == "inductor" else None
    how: dict[str, Any] = {"backend": backend, "mode": mode, "dynamic": False}
    encode, segment = torch.compile(network.encode_reference, **how), torch.compile(network.segment, **how)
    # A graph's results lie in memory that the next graph overwrites.
    return lambda image, masks: tuple(tokens.clone() for tokens in encode(image, masks)), segment


def released_steps(folder: str, device: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same two of the released code."""
    network = released_network(folder).to(device)
    return lambda image, masks: network.encode_visual_prior(network.encode_image_feature(image), masks), network.forward_with_encoded_prior


def released_network(folder: str) -> Any:
    """Its network with random weights."""
    sys.path.insert(0, folder)
    from models.iris import Iris

    return Iris(in_ch=1, channels=list(CHANNELS), tn=73).eval()


def write_released_checkpoint(folder: str, path: Path) -> None:
    """A checkpoint both codes read."""
    import torch

    model = {"type": "iris", "in_ch": 1, "channels": list(CHANNELS), "tn": 73}
    evaluation = {"window_size": [128, 128, 128], "overlap": 0.5}
    torch.save({"config": {"model": model, "evaluation": evaluation}, "model": released_network(folder).state_dict()}, path)


def time_on_cpu(run: Callable[[], Any], repeats: int) -> Row:
    """Best wall and CPU seconds, peak resident memory of the process."""
    import resource

    run()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    peak = resident_gb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {"wall_s": min(walls), "cpu_s": min(cpus), "peak_gb": peak}


def time_on_gpu(run: Callable[[], Any], repeats: int) -> Row:
    """Best seconds between two events, peak allocated memory."""
    import torch

    for _ in range(3):
        run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return {"wall_s": min(seconds), "peak_gb": torch.cuda.max_memory_allocated() / 1e9}


def resident_gb(ru_maxrss: int) -> float:
    """Kilobytes on Linux, bytes on macOS."""
    return ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def print_table(rows: Sequence[Row]) -> None:
    """One line a measurement; ratios are released to ours: above 1 this code is better."""
    base = {row["what"]: row for row in rows if row["code"] == "released"}
    print(f"{'':<14}{'code':<20}{'wall s':>10}{'CPU s':>10}{'peak GB':>10}   released / this: wall, CPU, memory")
    for row in rows:
        ratios = [base.get(row["what"], {}).get(key, 0) / row[key] for key in ("wall_s", "cpu_s", "peak_gb") if row.get(key)]
        text = "  ".join(f"{ratio:.2f}" for ratio in ratios) if row["code"] != "released" and row["what"] in base else ""
        cpu = f"{row['cpu_s']:.2f}" if "cpu_s" in row else ""
        print(f"{row['what']:<14}{row['code']:<20}{row['wall_s']:>10.3f}{cpu:>10}{row['peak_gb']:>10.2f}   {text}")


def _folder(arguments: argparse.Namespace) -> str | None:
    return str(arguments.released.resolve()) if arguments.released else None


if __name__ == "__main__":
    sys.exit(main())

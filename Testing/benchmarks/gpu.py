"""Everything there is to measure on a GPU, in at most nine minutes (`make gpu`).

    python -m Testing.benchmarks.gpu [--released FOLDER] [--output gpu.json] [--minutes 9]
    python -m Testing.benchmarks.gpu --device cpu --miniature       the same on a CPU with everything tiny: tries this script

Measures the paper's table 8 (128^3 voxels, bfloat16) for this code and, with --released, the authors' (a checkout of
https://github.com/Stanford-AIMI/MASS, needs einops); golden cases; a CT of 512 x 512 x 300 voxels; cancelling; memory that ends;
alignment; pretraining; SAM2. Every section runs in a process of its own, is saved as it ends, and is not run again by the next call, so
that a call that was broken off, or ran out of time, is simply repeated. --again NAME... runs some anew.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mass_core.files import write_bytes
from training.runs.run_folder import commit

from .inference import REPOSITORY, STEPS

LEAST_S = 15.0
"""With less time left no section is begun."""
Record = dict[str, Any]
"""Of a section: numbers, wrong and seconds; or skipped, or failed, with the reason."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, save and print; 0 all is well, 1 something is wrong or missing, 2 there is no GPU."""
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", type=Path, metavar="FOLDER", help="checkout of the released code")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), metavar="FILE", help="results (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=9, help="time of this call (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--miniature", action="store_true", help="everything tiny, in this process: to try the script")
    parser.add_argument("--sections", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="run these anew")
    parser.add_argument("--measure", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    import torch

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device here; to try this script: python -m Testing.benchmarks.gpu --device cpu --miniature")
        return 2
    from .gpu_sections import SECTIONS

    names = arguments.sections or list(SECTIONS)
    if unknown := {*names, *arguments.again} - set(SECTIONS):
        parser.error(f"there is no section {', '.join(sorted(unknown))}; there are: {', '.join(SECTIONS)}")
    if arguments.measure:
        print(json.dumps(measured(arguments, arguments.measure)))
        return 0
    results = resumed(arguments)
    for name in arguments.again:
        results["sections"].pop(name, None)
    run(arguments, names, results)
    print(report(results["sections"], names))
    return 0 if all(well(results["sections"].get(name, {})) for name in names) else 1


def well(record: Record) -> bool:
    """True if a section ran and found nothing wrong, or could not run here."""
    return "skipped" in record or ("numbers" in record and not record["wrong"])


def run(arguments: argparse.Namespace, names: Sequence[str], results: Record) -> None:
    """Run the sections that are not there yet, as long as there is time, and save each."""
    from .gpu_sections import SECTIONS

    until = time.monotonic() + 60 * arguments.minutes
    for name in names:
        left = until - time.monotonic()
        if name in results["sections"] and "failed" not in results["sections"][name]:
            continue
        if left < LEAST_S:
            print(f"{name}: no time left; call again")
            continue
        print(f"{name} ...", flush=True)
        if arguments.miniature:
            record = measured(arguments, name)
        else:
            record = in_process(arguments, name, min(left, SECTIONS[name][1]))
        results["sections"][name] = record
        write_bytes(arguments.output, json.dumps(results, indent=1).encode())


def resumed(arguments: argparse.Namespace) -> Record:
    """The results saved by an earlier call of the same kind on the same machine; else none yet."""
    import torch

    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    kind = {"device": name, "torch": torch.__version__, "miniature": arguments.miniature, "commit": commit()}
    if arguments.output.exists():
        before: Record = json.loads(arguments.output.read_text(encoding="utf-8"))
        if before.get("machine") == kind:
            return before
        print(f"{arguments.output} holds results of another machine or version ({before.get('machine')}); it is begun anew.")
    return {"machine": kind, "sections": {}}


def measured(arguments: argparse.Namespace, name: str) -> Record:
    """Run a section here; what goes wrong becomes part of the record, so that the others still run."""
    import torch

    from .gpu_sections import SECTIONS, NotHere, Scale

    data = Path(os.environ.get("MASS_SHARED") or REPOSITORY.parent / "shared")
    device = torch.device(arguments.device)
    if device.type == "cuda" and device.index is None:  # some of PyTorch's functions want the number
        device = torch.device("cuda", torch.cuda.current_device())
    place = {"device": device, "released": arguments.released and arguments.released.resolve(), "data": data}
    scale = Scale.miniature(**place) if arguments.miniature else Scale(**place)
    began = time.perf_counter()
    try:
        result = asdict(SECTIONS[name][0](scale))
    except NotHere as error:
        return {"skipped": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the other sections shall run
        return {"failed": f"{type(error).__name__}: {error}"}
    return {**result, "seconds": time.perf_counter() - began}


def in_process(arguments: argparse.Namespace, name: str, limit_s: float) -> Record:
    """`measured` in a process of its own, ended with all it started when its time is over."""
    command = [sys.executable, "-m", "Testing.benchmarks.gpu", "--device", arguments.device, "--measure", name]
    command += ["--released", str(arguments.released.resolve())] if arguments.released else []
    group = {"start_new_session": True} if sys.platform != "win32" else {}
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **group)
    try:
        output, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done within {limit_s:.0f} s"}
    finally:
        end(process)
    if process.returncode:
        return {"failed": "\n".join(errors.strip().splitlines()[-8:]) or f"ended with {process.returncode}"}
    record: Record = json.loads(output.splitlines()[-1])
    return record


def end(process: "subprocess.Popen[str]") -> None:
    """Kill a process and its children, if it still runs."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/PID", str(process.pid), "/T", "/F"], check=False, capture_output=True)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def report(sections: dict[str, Record], names: Sequence[str]) -> str:
    """Everything in Markdown: table 8 with a line for each code, then the other sections."""
    others = [line for name in names for line in _lines(name, sections)]
    return "\n".join([*_table8(sections), "", "| section | | |", "|---|---|--:|", *others])


def _table8(sections: dict[str, Record]) -> Iterator[str]:
    yield "| table 8 | encode ms, GB | query ms, GB | full ms, GB |"
    yield "|---|--:|--:|--:|"
    for name, record in sections.items():
        if name.startswith("table 8") and "numbers" in record:
            numbers = record["numbers"]
            cells = [f"{numbers[f'{step}_ms']:.2f}, {numbers[f'{step}_peak_gb']:.2f}" for step in STEPS]
            yield f"| {name.removeprefix('table 8, ')} | {' | '.join(cells)} |"


def _lines(name: str, sections: dict[str, Record]) -> Iterator[str]:
    record = sections.get(name, {"failed": "not run yet"})
    for told in ("skipped", "failed"):
        if told in record:
            yield f"| {name} | {told} | {record[told]} |"
    if not name.startswith("table 8"):
        yield from (f"| {name} | {key} | {value:.4g} |" for key, value in record.get("numbers", {}).items())
    yield from (f"| {name} | WRONG | {text} |" for text in record.get("wrong", []))


if __name__ == "__main__":
    sys.exit(main())

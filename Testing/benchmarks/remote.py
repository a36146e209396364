"""Cost of running on another computer: a large CT over an ssh to this computer, beside a worker here.

    python -m Testing.benchmarks.remote [--shape 300 512 512] [--on HOST]

Without --on a real ssh server is started here, with keys of its own; both runs have the same processor then, and differ by the way
there and back. The bundled weights segment a phantom's liver, twice; the seconds of the network are told apart.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mass_core.data.phantoms import subject
from mass_core.remote import hosts
from mass_core.remote.ssh import SshTransport
from mass_core.volumes.volume import Geometry, Volume
from mass_core.worker.transport import LocalClient

EXTENT_MM = (304.0, 307.0, 358.0)
COARSE = (75, 128, 128)
LIVER = 1
MIB = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), metavar=("Z", "Y", "X"), help="voxels of the scan")
    parser.add_argument("--on", metavar="HOST", help="another computer, for which you agreed that files are sent")
    arguments = parser.parse_args()
    shape = tuple(arguments.shape)
    with tempfile.TemporaryDirectory() as folder, other_computer(arguments.on, Path(folder)) as name:
        order, sizes = files(Path(folder), shape)
        print(f"{shape[2]} x {shape[1]} x {shape[0]} voxels; files: {sizes / MIB:.1f} MiB\n", flush=True)
        print(f"{'':<8}{'run':>8}{'seconds':>10}{'of these: read to write':>26}{'beside':>9}{'MiB sent':>10}")
        measured("here", LocalClient(), order)
        measured("there", LocalClient(transport=lambda: SshTransport(name)), order)


@contextmanager
def other_computer(name: str | None, folder: Path) -> Iterator[str]:
    """The ssh name of another computer, or of a server that runs here meanwhile."""
    if name is not None:
        yield name
        return
    from Testing.core.ssh_server import HERE, running

    os.environ["MASS_HOME"] = str(folder / "home")
    (folder / "server").mkdir()
    with running(folder / "server") as server:
        os.environ["MASS_SSH"] = f"ssh -F {server.config}"
        hosts.start_by(HERE, server.command)
        hosts.agree(HERE)
        yield HERE


def files(folder: Path, shape: tuple[int, ...]) -> tuple[dict[str, Any], int]:
    """A request about two phantoms with the noise of a CT, as uncompressed files, and their bytes."""
    paths = []
    for seed in (1, 2):
        image, mask = phantom(seed, shape)
        paths += [folder / f"scan{seed}.nii", folder / f"mask{seed}.nii.gz"]
        image.write(paths[-2])
        mask.write(paths[-1])
    reference = {"image": str(paths[0]), "mask": str(paths[1])}
    order = {"device": "cpu", "references": [reference], "target": str(paths[2]), "overwrite": True}
    return {**order, "output": str(folder / "found.nii.gz")}, sum(path.stat().st_size for path in paths[:3])


def phantom(seed: int, shape: tuple[int, ...]) -> tuple[Volume, Volume]:
    """A phantom with the noise of a CT, int16, and the mask of its liver, on a grid of so many voxels."""
    geometry = Geometry(shape_zyx=shape, spacing_xyz=tuple(extent / count for extent, count in zip(EXTENT_MM, shape, strict=True))[::-1])
    coarse = tuple(min(sizes) for sizes in zip(COARSE, shape, strict=True))
    drawn = subject(seed, "ct", shape_zyx=coarse, spacing_zyx=tuple(e / n for e, n in zip(EXTENT_MM, coarse, strict=True)))
    image, labels = (fine(volume.array, shape) for volume in drawn)
    noise = np.random.default_rng(seed).normal(0, 12, shape).astype(np.int16)
    return Volume(image.astype(np.int16) + noise, geometry), Volume((labels == LIVER).astype(np.uint8), geometry)


def fine(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array on a finer grid, by the nearest voxel: to draw a phantom there takes minutes."""
    return array[np.ix_(*(np.arange(new) * old // new for new, old in zip(shape, array.shape, strict=True)))]


def measured(where: str, client: LocalClient, order: dict[str, Any]) -> None:
    """Run twice, and tell."""
    try:
        client.ask("load", {"device": "cpu"})
        sent = 0
        for run in ("first", "second"):
            began = time.monotonic()
            reply = client.ask("segment", order)
            seconds, inside = time.monotonic() - began, sum(reply["timings"].values())
            total = client.transport.shipping.bytes_sent if isinstance(client.transport, SshTransport) else 0
            beside = seconds - inside
            print(f"{where:<8}{run:>8}{seconds:>10.1f}{inside:>26.1f}{beside:>9.2f}{(total - sent) / MIB:>10.2f}", flush=True)
            sent = total
        greetings = []
        for _ in range(20):
            began = time.monotonic()
            client.ask("hello", {"version": 1})
            greetings.append(time.monotonic() - began)
        print(f"{where:<8}a question and its answer: {1000 * statistics.median(greetings):.0f} ms")
    finally:
        client.close()


if __name__ == "__main__":
    main()

"""Label maps of random bodies, for synthetic images of anatomy that the available scans do not show.

A family is one body plan; its members are that body deformed, so the same label in two members is a true pair of different bodies.
Run it as `python -m training.pretrain.bodies DIRECTORY`, prepare the result like label maps of real heads, and name the dataset in
`episodes.synthetic`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mass_core.command_help import examples, seed_number
from mass_core.errors import InputError
from mass_core.volumes.volume import Geometry, Volume

from ..failures import answered
from ..runs.logbook import progress_bar
from .synthetic import RIGHT

SIZE = 112
"""Edge of a label map in voxels."""
MM = 2.0
"""Edge of a voxel."""
LABELS = 40
"""Numbers a family has: family k uses 40k + 1 to 40k + 39."""
_FAMILIES = (RIGHT - 1) // LABELS
_SYMMETRIC = 0.6
"""Share of the families whose sides mirror each other."""

Floats = NDArray[np.float32]
Labels = NDArray[np.int16]


def body(first: int, rng: np.random.Generator) -> Labels:
    """A body plan: outer layers, then organs from large to small, some with a core, and vessels.

    Args:
        first: number of the body itself; what is in it counts on from there.
        rng: of the family.

    Returns:
        [z,y,x], 0 outside of the body.
    """
    grid = np.stack(np.meshgrid(*3 * [np.linspace(-1, 1, SIZE, dtype=np.float32)], indexing="ij"))
    depth = _blob(grid, np.zeros(3), rng.uniform((0.85, 0.6, 0.7), (1.3, 0.85, 0.95)), np.eye(3), rng)
    labels = np.where(depth > 0, first + 1, 0).astype(np.int16)
    labels[depth > rng.uniform(0.03, 0.12)] = first + 2
    symmetric = rng.random() < _SYMMETRIC
    sizes = np.sort(np.exp(rng.uniform(np.log(0.04), np.log(0.5), int(rng.integers(16, 30)))))[::-1]
    number = first + 3
    for size in sizes:
        shape = _blob(grid, rng.uniform(-0.8, 0.8, 3) * (1, 0.7, 0.8), size * rng.uniform(0.5, 1.3, 3), _turn(rng), rng)
        number = _put(labels, (shape > 0) & (depth > 0.02), number, rng, shape > rng.uniform(0.2, 0.5), symmetric=symmetric)
    for _ in range(int(rng.integers(2, 6))):
        radius = rng.uniform(0.02, 0.07)
        near = _curve_distance(grid, rng)
        number = _put(labels, (near < radius) & (depth > 0.02), number, rng, near < 0.7 * radius, symmetric=symmetric)
    return labels


def member(labels: Labels, rng: np.random.Generator) -> Labels:
    """The body of another person of the family: bent, turned, scaled, and scanned over another part."""
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in labels.shape], indexing="ij"))
    middle = np.array(labels.shape, np.float32)[:, None, None, None] / 2
    linear = np.eye(3) * rng.uniform(0.88, 1.12, 3) + rng.normal(0, 0.06, (3, 3))
    places = np.einsum("ij,jzyx->izyx", linear.astype(np.float32), index - middle) + middle
    for nodes, voxels in ((5, 3.5), (12, 1.2)):
        places += np.stack([voxels * _noise(nodes, rng) for _ in range(3)])
    warped = ndimage.map_coordinates(labels, places, order=0, mode="constant", cval=0)
    kept = rng.integers(int(0.65 * SIZE), SIZE + 1, 3)
    start = [int(rng.integers(0, SIZE - n + 1)) for n in kept]
    return np.ascontiguousarray(warped[tuple(slice(a, a + int(n)) for a, n in zip(start, kept, strict=True))])


def write_families(directory: Path, families: int, members: int, seed: int) -> None:
    """Write `body_FF_M.nii.gz` for every member of every family."""
    directory.mkdir(parents=True, exist_ok=True)
    for family in progress_bar(range(families), desc="bodies", unit="family"):
        plan = body(LABELS * family, np.random.default_rng((seed, family)))
        for number in range(members):
            labels = member(plan, np.random.default_rng((seed, family, number)))
            z, y, x = labels.shape
            grid = Geometry(shape_zyx=(z, y, x), spacing_xyz=(MM, MM, MM))
            Volume(labels, grid).write(directory / f"body_{family:02}_{number}.nii.gz")


def _put(
    labels: Labels, where: NDArray[np.bool_], number: int, rng: np.random.Generator, core: NDArray[np.bool_], *, symmetric: bool
) -> int:
    """Draw a structure, and for some its core, on both sides of a symmetric body; returns the next free number."""
    hollow = rng.random() < 0.3
    if (number + hollow) % LABELS < 3 or where.sum() < 50:
        return number
    left = np.zeros(labels.shape, bool)
    left[:, :, SIZE // 2 :] = True
    for at, value in ((where, number), (where & core, number + 1))[: 1 + hollow]:
        labels[at] = value
        if symmetric and (at & left).sum() > 0.95 * at.sum():
            labels[at[:, :, ::-1]] = value + RIGHT
    return number + 1 + hollow


def _blob(
    grid: Floats, centre: NDArray[np.floating], radii: NDArray[np.floating], turn: NDArray[np.floating], rng: np.random.Generator
) -> Floats:
    """Roundish shape, positive inside and 1 in its middle."""
    own = np.einsum("ij,jzyx->izyx", (turn / radii[:, None]).astype(np.float32), grid - centre.astype(np.float32)[:, None, None, None])
    return np.asarray(1 - np.sqrt((own**2).sum(0)) + 0.22 * _noise(6, rng) + 0.05 * _noise(16, rng), np.float32)


def _turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random rotation."""
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


def _curve_distance(grid: Floats, rng: np.random.Generator) -> Floats:
    """Distance to a smooth curve through the body."""
    knots = np.cumsum(np.vstack([rng.uniform(-0.7, 0.7, 3), rng.normal(0, 0.25, (4, 3)) + 0.25 * rng.choice([-1, 1], 3)]), axis=0)
    line = np.stack([ndimage.zoom(knots[:, axis], 30, order=3) for axis in range(3)])
    drawn = np.ones(grid.shape[1:], bool)
    voxels = np.round((line + 1) / 2 * (SIZE - 1)).astype(int)
    drawn[tuple(voxels[:, ((voxels >= 0) & (voxels < SIZE)).all(0)])] = False
    return np.asarray(ndimage.distance_transform_edt(drawn) * 2 / (SIZE - 1) if not drawn.all() else np.full(drawn.shape, 9), np.float32)


def _noise(nodes: int, rng: np.random.Generator) -> Floats:
    """Smooth noise of about unit deviation over the grid, from a coarse one of `nodes` an edge."""
    coarse = rng.standard_normal((nodes,) * 3, dtype=np.float32)
    return np.asarray(ndimage.zoom(coarse, SIZE / nodes, order=1, grid_mode=True, mode="nearest"), np.float32)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.pretrain.bodies",
        description=__doc__.splitlines()[0],
        **examples("python -m training.pretrain.bodies bodies --families 12 --members 5"),
    )
    parser.add_argument("directory", type=Path, help="folder for the label maps")
    parser.add_argument("--families", type=int, default=24, help="number of body plans (default and maximum: %(default)s)")
    parser.add_argument("--members", type=int, default=5, help="bodies per plan (default: %(default)s)")
    parser.add_argument("--seed", type=seed_number, default=0, help="seed of the bodies (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write families of random bodies; 0 done, 2 bad input."""
    return answered(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> None:
    options = build_parser().parse_args(argv)
    if not 1 <= options.families <= _FAMILIES or options.members < 1:
        raise InputError(
            f"--families is {options.families}, --members {options.members}.",
            f"Choose 1 to {_FAMILIES} families, since their labels share the numbers up to {RIGHT}, and 1 member or more.",
        )
    write_families(options.directory, options.families, options.members, options.seed)


if __name__ == "__main__":
    sys.exit(main())

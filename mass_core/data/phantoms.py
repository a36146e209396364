"""Synthetic CT- and MR-like torso phantoms with known labels, for the demo and the tests.

Anatomy is a set of signed distances in patient millimetres (right, anterior, superior of the body's centre), so any grid can sample it.
A seed is a person: the same seed in both modalities has the same anatomy. Sizes are round figures of adults; CT values are those of a
contrast-enhanced abdomen in HU, MR values those of a T1-weighted scan where fat is 1.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ..config import Shape, Triple
from ..errors import InputError
from ..volumes.volume import Geometry, Volume

Array = NDArray[np.float32]

LABELS = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spine", 5: "aorta", 6: "right lung", 7: "left lung"}
"""Name of every value of a phantom's label map."""

_TISSUES: dict[str, tuple[float, float]] = {
    "air": (-1000, 0.0),
    "lung": (-830, 0.05),
    "gas": (-960, 0.01),
    "couch": (-150, 0.0),
    "fat": (-105, 1.0),
    "mesentery": (-75, 0.88),
    "muscle": (60, 0.42),
    "liver": (108, 0.6),
    "spleen": (124, 0.46),
    "cortex": (185, 0.5),
    "medulla": (105, 0.34),
    "blood": (160, 0.13),
    "vein": (150, 0.2),
    "heart": (125, 0.3),
    "gut": (32, 0.33),
    "compact bone": (640, 0.1),
    "marrow": (210, 0.72),
    "disc": (85, 0.27),
    "cord": (30, 0.45),
}
"""CT value in HU and MR value (fat 1) of each tissue."""

_TOWARDS = {"R": (-1, 0, 0), "L": (1, 0, 0), "A": (0, -1, 0), "P": (0, 1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
"""Patient directions in LPS."""


def subject(
    seed: int,
    modality: Literal["ct", "mr"] = "ct",
    *,
    shape_zyx: Shape = (76, 96, 112),
    spacing_zyx: Triple = (4.0, 3.2, 3.2),
    orientation: str = "RAS",
    oblique_degrees: float = 0.0,
) -> tuple[Volume, Volume]:
    """One person: a scan and its label map on the same grid.

    Args:
        seed: Which person; anatomy, pose and noise follow from it.
        modality: "ct" gives Hounsfield units, "mr" an arbitrary positive scale under a bias field.
        shape_zyx: Voxels along the stored axes.
        spacing_zyx: Voxel edges along the stored axes in mm.
        orientation: Where the stored x, y and z axes point: one letter each of R or L, A or P, S or I, in any order.
        oblique_degrees: Turn of the grid about the patient's left-right axis.

    Returns:
        The image (float32) and the label map (uint8, named by `LABELS`).

    Raises:
        InputError: for another modality or an impossible orientation.
    """
    if modality not in ("ct", "mr"):
        raise InputError(f"There are no phantoms of modality {modality!r}.", "Choose ct or mr.")
    geometry = _geometry(shape_zyx, spacing_zyx, orientation, oblique_degrees)
    anatomy = np.random.default_rng([seed, 0])
    appearance = np.random.default_rng([seed, 1 if modality == "ct" else 2])
    canvas = _Canvas(shape_zyx, modality, float(np.mean(spacing_zyx)), appearance)
    _draw(canvas, _points(geometry), anatomy)
    finish = _as_ct if modality == "ct" else _as_mr
    return Volume(finish(canvas.image, appearance), geometry, modality), Volume(canvas.labels, geometry)


# The grid --------------------------------------------------------------------------------------------------------------------


def _geometry(shape_zyx: Shape, spacing_zyx: Triple, orientation: str, oblique_degrees: float) -> Geometry:
    """A grid whose middle is the patient's origin."""
    axes = np.array([_TOWARDS.get(letter, (0, 0, 0)) for letter in orientation], dtype=float).T
    if axes.shape != (3, 3) or abs(np.linalg.det(axes)) != 1:
        raise InputError(f"{orientation!r} is not an orientation.", "Name three directions, one each of R/L, A/P and S/I, such as RAS.")
    angle = np.deg2rad(oblique_degrees)
    direction = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]) @ axes
    origin = -direction @ (np.array(spacing_zyx[::-1]) * (np.array(shape_zyx[::-1]) - 1) / 2)
    return Geometry(
        shape_zyx=shape_zyx,
        spacing_xyz=(spacing_zyx[2], spacing_zyx[1], spacing_zyx[0]),
        origin_xyz=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(direction.ravel().tolist()),
    )


def _points(geometry: Geometry) -> Array:
    """[3, z, y, x]: how far right, anterior and superior of the origin each voxel lies, in mm."""
    z, y, x = (np.arange(n, dtype=np.float32) for n in geometry.shape_zyx)
    points = np.empty((3, *geometry.shape_zyx), dtype=np.float32)
    for row, away in enumerate((-1, -1, 1)):
        step = away * geometry.affine[row].astype(np.float32)
        points[row] = step[0] * x + (step[1] * y)[:, None] + (step[2] * z)[:, None, None] + step[3]
    return points


def _posed(points: Array, rng: np.random.Generator) -> Array:
    """Points in the frame of the textbook body: person's pose, size and individual shape undone."""
    turn = _rotation(rng.normal(0, 3, 3).clip(-6, 6))
    body = _mapped(turn / np.float32(rng.uniform(0.94, 1.08)), points, tuple(rng.normal(0, 5, 3)))
    body[2] += 35
    bent = body.copy()
    for _ in range(4):
        wave = rng.normal(size=3) / rng.uniform(35, 60) / np.sqrt(3)
        swing = np.sin(_mapped(wave.astype(np.float32)[None], body, (0, 0, 0)) + np.float32(rng.uniform(0, 2 * np.pi)))
        bent += rng.normal(0, 3.2, 3).astype(np.float32)[:, None, None, None] * swing
    return bent


def _rotation(degrees: NDArray[np.float64] | Triple) -> Array:
    """Rotation matrix: about the first, then the second, then the third axis."""
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix().astype(np.float32)


# Shapes: signed distances in mm, negative inside -----------------------------------------------------------------------------


def _ellipsoid(points: Array, centre: Triple, radii: Triple, degrees: Triple = (0, 0, 0)) -> Array:
    radius = np.array(radii, dtype=np.float32)[:, None]
    scaled = _mapped(_rotation(degrees) / radius, points, centre)
    reach = _length(scaled)
    scaled /= radius[..., None, None]
    return reach * (reach - 1) / np.maximum(_length(scaled), np.float32(1e-6))


def _rod(points: Array, start: Triple, end: Triple, radius: float) -> Array:
    axis = np.subtract(end, start).astype(np.float32)
    along = _mapped(axis[None] / float(axis @ axis), points, start)[0].clip(0, 1)
    return _length(points - np.array(start, np.float32)[:, None, None, None] - axis[:, None, None, None] * along) - np.float32(radius)


def _mapped(matrix: Array, points: Array, centre: Triple) -> Array:
    """A matrix [n, 3] applied to points [3, z, y, x] seen from a centre."""
    moved = matrix @ points.reshape(3, -1)
    moved -= matrix @ np.array(centre, dtype=np.float32)[:, None]
    return moved.reshape(-1, *points.shape[1:])


def _length(vectors: Array) -> Array:
    return np.sqrt(np.einsum("i...,i...->...", vectors, vectors))


def _blend(first: Array, second: Array, width: float) -> Array:
    """Union of two shapes with a rounded seam."""
    share = (0.5 + 0.5 * (second - first) / width).clip(0, 1)
    return second + (first - second) * share - width * share * (1 - share)


def _repeated(along: Array, period: float, half: float) -> Array:
    """Distance along an axis to slabs of half-width `half`, one a period."""
    return np.abs((along + period / 2) % period - period / 2) - np.float32(half)


# Painting --------------------------------------------------------------------------------------------------------------------


class _Canvas:
    """Image and labels under the brush; later strokes cover earlier ones."""

    def __init__(self, shape: Shape, modality: str, edge_mm: float, rng: np.random.Generator) -> None:
        self.values: dict[str, float] = {}
        for name, (hounsfield, relative) in _TISSUES.items():
            spread = rng.normal()
            self.values[name] = hounsfield + 6 * spread * (abs(hounsfield) < 300) if modality == "ct" else relative * (1 + 0.08 * spread)
        self.edge_mm = edge_mm
        self.image = np.full(shape, self.values["air"], dtype=np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def paint(self, distance: Array, tissue: str, label: int = 0) -> None:
        """Cover what lies inside; voxels on the surface take a share of the tissue (partial volume)."""
        cover = (0.5 - distance / self.edge_mm).clip(0, 1)
        self.image[...] += cover * (np.float32(self.values[tissue]) - self.image)
        self.labels[distance < 0] = label


def _draw(canvas: _Canvas, points: Array, rng: np.random.Generator) -> None:
    """Paint a person, outside in."""

    def vary(mean: float, share: float = 0.12) -> float:
        return mean * rng.uniform(1 - share, 1 + share)

    body = _posed(points, rng)
    width, depth, fat = vary(158, 0.09), vary(112, 0.1), vary(17, 0.5)
    _couch(canvas, points, depth)
    cavity = _trunk(canvas, body, width, depth, fat)
    spine_a = -depth + fat + vary(50, 0.06)
    _chest(canvas, body, cavity, vary)
    _gut(canvas, body, cavity, rng, vary)
    _liver_and_spleen(canvas, body, cavity, vary)
    _back_muscles(canvas, body, spine_a, vary)
    _kidneys(canvas, body, spine_a, vary)
    _vessels(canvas, body, spine_a, vary)
    _spine(canvas, body, spine_a, vary)
    _ribs(canvas, body, cavity, vary)


Vary = Callable[..., float]


def _couch(canvas: _Canvas, points: Array, depth: float) -> None:
    right, anterior, _ = points
    surface = np.abs(anterior + depth + 22 - 30 * (right / 260) ** 2) - 4
    canvas.paint(np.maximum(surface, np.abs(right) - 205), "couch")


def _trunk(canvas: _Canvas, body: Array, width: float, depth: float, fat: float) -> Array:
    """Fat, muscle wall and the cavity within, whose distance is returned."""
    right, anterior, superior = body
    waist = 1 - 0.07 * np.exp(-(((superior + 60) / 60) ** 2))
    reach = ((np.abs(right) / (width * waist)) ** 2.5 + (np.abs(anterior) / (depth * waist)) ** 2.5) ** 0.4
    skin = (reach - 1) * np.float32((width + depth) / 2)
    canvas.paint(skin, "fat")
    canvas.paint(skin + fat, "muscle")
    cavity = skin + np.float32(fat + 13)
    canvas.paint(cavity, "mesentery")
    return cavity


def _chest(canvas: _Canvas, body: Array, cavity: Array, vary: Vary) -> None:
    right, anterior, superior = body
    top = vary(112, 0.08) + 8 * np.tanh(right / 30)
    dome = top - 30 * ((np.abs(right) - 65) / 60) ** 2 - 42 * ((anterior - 5) / 80) ** 2
    chest = np.maximum(cavity, (dome - superior) * 0.6)
    canvas.paint(chest, "muscle")
    middle = vary(30)
    for label, side in ((6, right), (7, -right)):
        lung = np.maximum(np.maximum(cavity + 3, (dome + 6 - superior) * 0.6), middle - side)
        canvas.paint(lung, "lung", label)
        for height in (130, 150, 170):
            root = (middle - 8 if label == 6 else 8 - middle, -8, height)
            tip = (np.sign(root[0]) * vary(95), vary(-35, 0.8), height + vary(15, 1.5))
            canvas.paint(np.maximum(_rod(body, root, tip, vary(4, 0.2)), lung), "blood", label)
    canvas.paint(_ellipsoid(body, (-vary(22), 38, vary(152, 0.04)), (vary(58), 44, vary(46)), (0, 20, 30)), "heart")


def _gut(canvas: _Canvas, body: Array, cavity: Array, rng: np.random.Generator, vary: Vary) -> None:
    right, anterior, superior = body
    for _ in range(16):
        centre = (rng.uniform(-85, 85), rng.uniform(0, 60), rng.uniform(-125, -15))
        loop = np.maximum(_ellipsoid(body, centre, (vary(24, 0.3), vary(15), vary(15)), (0, 0, rng.uniform(0, 180))), cavity + 3)
        canvas.paint(loop, "gut")
    height, reach = vary(-60), vary(92)
    around = np.arctan2(superior - height, right)
    ring = (np.hypot(right / reach, (superior - height) / 72) - 1) * 80
    colon = np.hypot(ring, anterior - vary(42, 0.2)) - (vary(17) + 3 * np.sin(14 * around))
    colon = np.maximum(colon, cavity + 3)
    canvas.paint(colon, "gut")
    filled = np.sin(rng.integers(2, 4) * around + np.float32(rng.uniform(0, 6)))
    canvas.paint(np.maximum(colon + 3, -12 * filled), "gas")
    stomach_a = vary(28, 0.25)
    stomach = _ellipsoid(body, (-vary(62), stomach_a, vary(52)), (vary(38), vary(36), vary(50)), (0, -25, 15))
    stomach = np.maximum(stomach, cavity + 3)
    canvas.paint(stomach, "muscle")
    canvas.paint(stomach + 4, "gut")
    canvas.paint(np.maximum(stomach + 4, stomach_a + vary(14, 0.5) - anterior), "gas")


def _liver_and_spleen(canvas: _Canvas, body: Array, cavity: Array, vary: Vary) -> None:
    right_lobe = _ellipsoid(body, (vary(74, 0.06), vary(6, 1), vary(50, 0.1)), (vary(66), vary(72), vary(70)), (0, -8, 0))
    left_lobe = _ellipsoid(body, (vary(8, 1), vary(48), vary(72, 0.08)), (vary(78, 0.2), vary(30), vary(32)), (0, 14, -8))
    below = _ellipsoid(body, (vary(30, 0.3), -18, -vary(38)), (72, 66, 66))
    liver = np.maximum(-_blend(-_blend(right_lobe, left_lobe, 24), below, 16), cavity + 3)
    canvas.paint(liver, "liver", 1)
    hilum = (vary(34), -4, vary(42))
    for tip in ((95, 25, 70), (80, -25, 55), (-5, 45, 75)):
        branch = _rod(body, hilum, (vary(tip[0]), vary(tip[1]), vary(tip[2])), vary(4.5, 0.2))
        canvas.paint(np.maximum(branch, liver + 5), "vein", 1)
    spleen = _ellipsoid(body, (-vary(92, 0.05), -vary(30), vary(60)), (vary(27), vary(40), vary(46)), (20, -10, 25))
    canvas.paint(np.maximum(spleen, cavity + 3), "spleen")


def _back_muscles(canvas: _Canvas, body: Array, spine_a: float, vary: Vary) -> None:
    right, anterior, superior = body
    behind = anterior - spine_a
    for side in (-1, 1):
        psoas = np.hypot(right - side * (26 - superior.clip(-120, 40) / 10), behind - 2) - vary(1) * (14 - superior.clip(-120, 40) / 10)
        canvas.paint(np.maximum(psoas, superior - 40), "muscle")
        canvas.paint(np.hypot((right - side * 32) * 0.8, behind + 44) - vary(21, 0.08), "muscle")


def _kidneys(canvas: _Canvas, body: Array, spine_a: float, vary: Vary) -> None:
    """The right one lies lower; sizes and tilts are drawn independently."""
    for label, side, height in ((2, 1, -42), (3, -1, -18)):
        centre = (side * vary(66, 0.06), spine_a + vary(14, 0.5), vary(height, 0.3))
        radii = (vary(26), vary(23), vary(52))
        tilt = (vary(10, 0.8), side * vary(-14, 0.5), side * vary(-20, 0.6))
        hilum = (centre[0] - side * (radii[0] + 2), centre[1] + 7, centre[2])
        notch = _ellipsoid(body, hilum, (vary(17), 14, vary(19)))
        kidney = -_blend(-_ellipsoid(body, centre, radii, tilt), notch, 6)
        canvas.paint(kidney, "cortex", label)
        lobes = 2.5 * np.sin((body[2] - centre[2]) / 5)
        canvas.paint(kidney + 9 + lobes, "medulla", label)
        canvas.paint(_ellipsoid(body, (hilum[0] + side * 9, hilum[1] - 3, hilum[2]), (13, 9, vary(22))), "fat")


def _vessels(canvas: _Canvas, body: Array, spine_a: float, vary: Vary) -> None:
    right, anterior, superior = body
    bend, front = vary(7, 0.8), spine_a + vary(33, 0.05)
    fork = vary(-88, 0.08)
    apart = 0.45 * np.maximum(fork - superior, 0)
    caliber = vary(10.5) * (1 + superior.clip(-120, 180) / 700) * np.where(superior < fork, 0.75, 1)
    middle = right + vary(9) + bend * np.sin(superior / 70)
    aorta = np.hypot(np.abs(middle) - apart, anterior - front - bend * np.cos(superior / 90)) - caliber
    cava = np.hypot(middle - vary(29, 0.08), (anterior - front) * 1.25) - vary(11)
    canvas.paint(np.maximum(cava, superior - 125), "vein")
    canvas.paint(aorta, "blood", 5)


def _spine(canvas: _Canvas, body: Array, spine_a: float, vary: Vary) -> None:
    right, anterior, superior = body
    period = vary(33, 0.08)
    phase = superior + vary(period, 0.5)
    front = anterior - spine_a - 6 * np.sin(superior / 80)
    beside = np.abs(right)
    waist = 1 - 0.07 * np.cos(2 * np.pi * phase / period)
    width, deep = vary(23) * waist, vary(17) * waist
    reach = np.hypot(right / width, front / deep)
    vertebra = (reach - 1) * 19
    disc = _repeated(phase + period / 2, period, vary(4.5))
    canvas.paint(vertebra - 1, "disc", 4)
    segment = np.maximum(vertebra, -disc)
    canal = np.hypot(right, front + deep + 9) - 8
    arch = np.maximum(np.maximum(np.abs(canal - 3.5) - 3.5, front + deep - 2), _repeated(phase, period, 0.36 * period))
    spinous = np.maximum(np.maximum(beside - 4, np.abs(front + deep + 32) - 16), _repeated(phase + 0.25 * front, period, 8))
    transverse = np.maximum(np.maximum(beside - 36, np.abs(front + deep + 8) - 5), _repeated(phase, period, 6))
    bone = np.minimum(np.minimum(segment, arch), np.minimum(spinous, np.maximum(transverse, -canal)))
    canvas.paint(bone, "compact bone", 4)
    canvas.paint(np.maximum(segment, -disc) + 3.5, "marrow", 4)
    canvas.paint(canal, "cord")


def _ribs(canvas: _Canvas, body: Array, cavity: Array, vary: Vary) -> None:
    right, anterior, superior = body
    shell = np.abs(cavity - 7) - 3.5
    slope = superior + 0.45 * anterior + 0.1 * np.abs(right)
    rib = np.maximum(shell, _repeated(slope, vary(27, 0.08), 5.5))
    below_margin = 15 + 0.5 * (anterior + 45) - superior
    canvas.paint(np.maximum(np.maximum(rib, below_margin), 22 - np.abs(right)), "compact bone")
    canvas.paint(np.maximum(np.maximum(rib + 2.5, below_margin), 22 - np.abs(right)), "marrow")


# The scanner -----------------------------------------------------------------------------------------------------------------


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Array:
    """Unit-variance noise of the given correlation length in voxels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return noise / noise.std()


def _as_ct(image: Array, rng: np.random.Generator) -> Array:
    """Blur of the scanner, quantum noise and slow tissue texture, in whole HU."""
    seen = ndimage.gaussian_filter(image, 0.5) + 10 * _smooth_noise(image.shape, 0.6, rng) + 5 * _smooth_noise(image.shape, 2.0, rng)
    return np.rint(seen).clip(-1024, 3071).astype(np.float32)


def _as_mr(image: Array, rng: np.random.Generator) -> Array:
    """Tissue texture, a bias field of some 30 %, Rician noise and a scale of the scanner's own."""
    seen = ndimage.gaussian_filter(image, 0.5) * (1 + 0.06 * _smooth_noise(image.shape, 1.5, rng))
    coarse = ndimage.gaussian_filter(rng.standard_normal((6, 6, 6)), 1.2)
    coarse *= 0.3 / np.abs(coarse).max()
    bias = ndimage.zoom(coarse, [n / 6 for n in image.shape], order=1)
    seen *= np.exp(ndimage.gaussian_filter(bias.astype(np.float32), [n / 24 for n in image.shape]))
    noise = 0.025 * rng.standard_normal((2, *image.shape), dtype=np.float32)
    scale = 10 ** rng.uniform(2.3, 4.3)
    return (np.hypot(seen + noise[0], noise[1]) * scale).astype(np.float32)

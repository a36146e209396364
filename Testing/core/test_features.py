"""Features as colours: principal components with known answers, places on odd grids, blending, files, the command."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from mass_core.cli import main
from mass_core.config import ModelConfig, Recipe
from mass_core.data import phantoms
from mass_core.devices import DeviceUse
from mass_core.errors import Cancelled, InputError, MassError
from mass_core.inference.blending import blend_weights
from mass_core.inference.features import Basis, Painting, look, paint, sample, view, view_spacing
from mass_core.inference.segmenter import Segmenter
from mass_core.inference.sliding_window import positions
from mass_core.model.compute import Compute
from mass_core.pictures.colour_volume import render
from mass_core.progress import Steps
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights.checkpoint import load_model
from Testing.core.worker_process import LONG, Files, Recorder
from Testing.core.worker_process import scan as balls

TURN = np.deg2rad(20)
GRIDS = {
    "plain": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "swapped": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    "left-handed": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "oblique": np.array([[math.cos(TURN), -math.sin(TURN), 0], [math.sin(TURN), math.cos(TURN), 0], [0, 0, 1]]),
}
CPU = Compute(device=torch.device("cpu"), dtype=torch.float32)
BALL_MM, RADIUS_MM = np.array([20.0, -15.0, 10.0]), 24.0


class Echo(torch.nn.Module):
    """A network whose decoder gives back ten times the image and two maps that are the same everywhere."""

    config = ModelConfig(channels=(3, 32, 32, 32), task_rows=0)

    def encode_image(self, image_N1DHW: torch.Tensor) -> list[torch.Tensor]:
        return [image_N1DHW]

    def decoder(self, maps: Any, tokens: Any) -> tuple[torch.Tensor, None]:
        (image,) = maps
        assert [stage.shape for stage in tokens] == [(len(image), 1, 11, 32)] * 3 and not any(stage.any() for stage in tokens)
        return torch.cat([torch.ones_like(image), 10 * image, 0 * image], dim=1), None


def echo(**changes: Any) -> Segmenter:
    recipe = Recipe(window_zyx=(32, 32, 32), spacing_zyx=(4.0, 4.0, 4.0), modality="ct", body_margin_zyx=(2, 2, 2), **changes)
    device = {"device": torch.device("cpu"), "use": DeviceUse()}
    model = SimpleNamespace(network=Echo(), recipe=recipe, fingerprint="echo", name="echo", **device)
    return Segmenter(model, recipe)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> Segmenter:
    model = load_model(tiny_weights, "cpu")
    return Segmenter(model, model.recipe.changed(modality="ct", overlap=0.25))


def painted(segmenter: Segmenter, scan: Volume, basis: Basis | None = None) -> Painting:
    seen = view(segmenter, scan, view_spacing(scan.geometry, segmenter.recipe), Steps())
    return paint(segmenter, seen, basis or Basis.of([sample(segmenter, seen, Steps())]), Steps())


def grid_around(direction: np.ndarray, shape_zyx: tuple[int, int, int], spacing_xyz: tuple[float, float, float]) -> Geometry:
    """A grid whose middle is the world's."""
    half = direction @ ((np.array(shape_zyx[::-1]) - 1) / 2 * spacing_xyz)
    return Geometry(
        shape_zyx=shape_zyx, spacing_xyz=spacing_xyz, origin_xyz=tuple((-half).tolist()), direction=tuple(direction.ravel().tolist())
    )


def places(geometry: Geometry) -> np.ndarray:
    """Position of every voxel, LPS mm [z,y,x,3]."""
    z, y, x = np.indices(geometry.shape_zyx)
    return np.stack([x, y, z, np.ones_like(x)], axis=-1) @ geometry.affine[:3].T


def ball_in_a_body(geometry: Geometry) -> Volume:
    """A body, a sphere of 70 mm, with a bright ball in it, at places in the world: the same patient on any grid."""
    where = places(geometry)
    image = np.full(geometry.shape_zyx, -1000.0, np.float32)
    image[np.linalg.norm(where, axis=-1) < 70] = 0
    image[np.linalg.norm(where - BALL_MM, axis=-1) < RADIUS_MM] = 400
    return Volume(image, geometry)


def noisy(shape: tuple[int, int, int] = (40, 44, 36), seed: int = 0) -> Volume:
    """A body with something in it everywhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 150, [n // 4 for n in shape])
    return Volume(coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2).astype(np.float32), grid_around(np.eye(3), shape, (3.0, 3.0, 3.0)))


def test_principal_components_of_known_features() -> None:
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    vectors = 7 + (rng.normal(size=(200_000, 5)) * [4, 3, 2, 1, 0.1]) @ axes.T
    basis = Basis.of([vectors[:50_000], vectors[50_000:]])
    assert basis.explained == pytest.approx(np.array([16, 9, 4]) / 30.01, abs=0.005)
    for weight, axis in zip(basis.weight_3C, axes.T, strict=False):
        assert abs(weight @ axis) / np.linalg.norm(weight) > 0.999
        assert weight[np.abs(weight).argmax()] > 0
    colours = basis.colours(torch.from_numpy(vectors.T.astype(np.float32)).reshape(1, 5, 200, 100, 10)).numpy()
    limits = np.percentile(colours[0], (1, 99), axis=(1, 2, 3))
    np.testing.assert_allclose(limits, [[0, 0, 0], [1, 1, 1]], atol=1e-3)


def test_equal_samples_give_equal_colours_whatever_the_sign_of_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(5000, 8)) * np.arange(1, 9)
    once = Basis.of([vectors])
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    other = Basis.of([vectors])
    np.testing.assert_allclose(once.weight_3C, other.weight_3C)
    np.testing.assert_allclose(once.bias_3, other.bias_3)


def test_features_that_are_the_same_everywhere_are_refused() -> None:
    with pytest.raises(InputError, match="the same everywhere in the scan"):
        Basis.of([np.full((100, 4), 3.7, np.float32)])


@pytest.mark.parametrize("name", GRIDS)
def test_colours_lie_where_the_scan_shows_what_they_stand_for(name: str) -> None:
    """Ball and body are told apart at their places in the world, on grids of every kind, and what is outside the body is black."""
    scan = ball_in_a_body(grid_around(GRIDS[name], (40, 48, 56), (4.0, 3.5, 5.0)))
    found = painted(echo(), scan)
    assert found.geometry == scan.geometry and found.rgb.dtype == np.uint8 and found.rgb.shape == (40, 48, 56, 3)
    where, voxel = places(scan.geometry), 5.0
    from_ball, from_middle = np.linalg.norm(where - BALL_MM, axis=-1), np.linalg.norm(where, axis=-1)
    red = found.rgb[..., 0]
    assert (red[from_ball < RADIUS_MM - 2 * voxel] == 255).all()
    assert (red[(from_ball > RADIUS_MM + 2 * voxel) & (from_middle < 70 - 3 * voxel)] < 200).all()
    assert (found.rgb[from_middle > 70 + voxel] == 0).all()


def test_brightness_is_the_first_component() -> None:
    """With one feature that differs, red is a straight line through the scan's values between its percentiles."""
    geometry = grid_around(np.eye(3), (40, 40, 40), (4.0, 4.0, 4.0))
    scan = Volume(places(geometry)[..., 0].astype(np.float32), geometry)  # -78 to 78 HU along x
    found = painted(echo(), scan)
    low, high = np.percentile(scan.array, (1, 99))
    expected = np.clip((scan.array - low) / (high - low), 0, 1) * 255
    assert np.abs(found.rgb[..., 0] - expected).max() <= 255 * 3 / 156, "percentiles are those of a sample"
    assert (found.rgb[..., 1:] == found.rgb[0, 0, 0, 1:]).all(), "components without variance are one colour"


@pytest.mark.parametrize("name", ["flipped", "swapped", "left-handed"])
def test_a_scan_stored_otherwise_has_the_same_colours(tiny: Segmenter, name: str) -> None:
    plain = noisy()
    order = [int(np.abs(GRIDS[name][:, axis]).argmax()) for axis in range(3)]  # world axis along each index x, y, z
    shape_xyz = [plain.geometry.shape_zyx[2 - axis] for axis in order]
    geometry = grid_around(GRIDS[name], (shape_xyz[2], shape_xyz[1], shape_xyz[0]), (3.0, 3.0, 3.0))
    index = np.rint((places(geometry) - plain.geometry.origin_xyz) / 3).astype(int)
    moved = lambda array: array[index[..., 2], index[..., 1], index[..., 0]]  # noqa: E731
    basis = Basis.of([sample(tiny, view(tiny, plain, (3.0, 3.0, 3.0), Steps()), Steps())])
    one, other = painted(tiny, plain, basis), painted(tiny, Volume(moved(plain.array), geometry), basis)
    assert np.abs(other.rgb.astype(int) - moved(one.rgb)).max() <= 1
    assert one.rgb.std(axis=(0, 1, 2)).min() > 20


def test_twice_the_same(tiny: Segmenter) -> None:
    first, again = painted(tiny, noisy()), painted(tiny.with_recipe(tiny.recipe), noisy())
    np.testing.assert_array_equal(first.rgb, again.rgb)
    seen = view(tiny, noisy(), (3.0, 3.0, 3.0), Steps())
    drawn = [sample(tiny, seen, Steps(), seed) for seed in (0, 7, 7)]
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[1], drawn[2])


def test_colours_blended_are_features_blended(tiny: Segmenter) -> None:
    """Window by window, as few numbers are kept, the same comes out as with all features of all windows."""
    scan = noisy()
    seen = view(tiny, scan, (3.0, 3.0, 3.0), Steps())
    basis = Basis.of([sample(tiny, seen, Steps())])
    network, array = tiny.model.network, torch.from_numpy(seen.prepared.array)
    weights, sums = blend_weights((32, 32, 32), tiny.recipe.blend_floor), torch.zeros(8, *array.shape)
    total = torch.zeros(array.shape)
    tokens = [torch.zeros(1, 1, 11, channels) for channels in (128, 64, 32)]
    for z, y, x in positions(scan.geometry.shape_zyx, (32, 32, 32), tiny.recipe.overlap):
        part = np.s_[z : z + 32, y : y + 32, x : x + 32]
        with torch.inference_mode():
            maps, _ = network.decoder(network.encode_image(array[part][None, None]), tokens)
        sums[(slice(None), *part)] += maps[0] * weights
        total[part] += weights
    expected = basis.colours((sums / total)[None])[0].clamp(0, 1).mul(255).permute(1, 2, 3, 0).numpy()
    found = paint(tiny, seen, basis, Steps()).rgb
    assert seen.prepared.record.working.shape_zyx == scan.geometry.shape_zyx and seen.body.all()
    np.testing.assert_allclose(found[:, ::-1, ::-1], expected, atol=0.6)  # the network sees it turned to right, anterior, superior


def test_a_short_scan_and_a_thick_one(tiny: Segmenter) -> None:
    """Shorter than the window along one axis, and of other voxels than the working grid."""
    short = noisy((12, 40, 36))
    assert painted(tiny, short).rgb.shape == (12, 40, 36, 3)
    thick = Volume(short.array, grid_around(np.eye(3), (12, 40, 36), (2.0, 2.0, 7.0)))
    assert painted(tiny, thick).rgb[..., 0].std() > 10


def test_like_tissue_of_two_people_looks_alike() -> None:
    """With the bundled weights and one basis, lungs look like lungs rather than like liver."""
    model = load_model("small", "cpu")
    segmenter = Segmenter(model, model.recipe.changed(modality="ct"))
    people = [phantoms.subject(seed, "ct", shape_zyx=(38, 48, 56), spacing_zyx=(8.0, 6.4, 6.4)) for seed in (0, 1)]
    spacing = view_spacing(people[0][0].geometry, segmenter.recipe)
    seen = [view(segmenter, image, spacing, Steps()) for image, _ in people]
    basis = Basis.of([sample(segmenter, one, Steps()) for one in seen])
    pictures = [paint(segmenter, one, basis, Steps()).rgb.astype(float) for one in seen]
    values = sorted(set(np.unique(people[0][1].array)) & set(np.unique(people[1][1].array)) - {0})[:4]
    means = np.array([[p[labels.array == v].mean(axis=0) for v in values] for p, (_, labels) in zip(pictures, people, strict=True)])
    distances = np.linalg.norm(means[0][:, None] - means[1][None], axis=-1)
    assert (distances.argmin(axis=1) == np.arange(len(values))).sum() >= len(values) - 1, distances


def test_memory_that_does_not_suffice_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, decoder, batches = echo(), Echo.decoder, []

    def full(self: Echo, maps: Any, tokens: Any) -> Any:
        batches.append(len(maps[0]))
        if len(maps[0]) > 1:
            raise RuntimeError("CUDA out of memory")
        return decoder(self, maps, tokens)

    monkeypatch.setattr(Echo, "decoder", full)
    monkeypatch.setattr(Segmenter, "compute", lambda self, labels: replace(CPU, batch=2))
    found = painted(segmenter, ball_in_a_body(grid_around(np.eye(3), (40, 48, 56), (4.0, 4.0, 4.0))))
    assert max(batches) == 2 and any("one at a time" in note for note in found.warnings)


def test_a_run_can_be_stopped() -> None:
    told: list[str] = []
    steps = Steps(lambda stage, fraction, eta: told.append(stage), lambda: "features" in told)
    segmenter, scan = echo(), ball_in_a_body(grid_around(np.eye(3), (40, 48, 56), (4.0, 4.0, 4.0)))
    seen = view(segmenter, scan, (4.0, 4.0, 4.0), steps)
    basis = Basis.of([sample(segmenter, seen, steps)])
    with pytest.raises(Cancelled):
        paint(segmenter, seen, basis, steps)
    assert list(dict.fromkeys(told)) == ["prepare", "sample", "features"]


@pytest.mark.parametrize(
    ("shape_zyx", "spacing_xyz", "edge"),
    [
        ((128, 128, 128), (4.0, 4.0, 3.0), (48.0) ** (1 / 3)),
        ((300, 512, 512), (0.8, 0.8, 1.0), 3.0),
        ((35, 50, 35), (1.0, 1.0, 1.0), 50 / 32),
        ((20, 20, 20), (0.5, 0.5, 0.5), 0.8),
        ((20, 40, 40), (9.0, 9.0, 9.0), 6.0),
    ],
)
def test_at_which_voxel_size_a_scan_is_looked_at(shape_zyx: Any, spacing_xyz: Any, edge: float) -> None:
    recipe = Recipe(spacing_zyx=None, window_zyx=(32, 32, 32))
    geometry = Geometry(shape_zyx=shape_zyx, spacing_xyz=spacing_xyz)
    assert view_spacing(geometry, recipe) == pytest.approx((edge,) * 3)
    assert view_spacing(geometry, Recipe(spacing_zyx=(2.0, 1.0, 1.0))) == (2.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["colours.nrrd", "colours.nii.gz", "colours.mha"])
def test_a_file_holds_three_bytes_a_voxel_in_their_place(tmp_path: Path, name: str) -> None:
    geometry = grid_around(GRIDS["oblique"] @ np.diag([1.0, -1, 1]), (6, 7, 8), (1.0, 2.0, 3.0))
    rgb = np.random.default_rng(0).integers(0, 256, (6, 7, 8, 3), np.uint8)
    Painting(rgb=rgb, geometry=geometry, explained=(0.5, 0.3, 0.1), modality="ct", warnings=()).write(tmp_path / name)
    image = sitk.ReadImage(str(tmp_path / name))
    assert image.GetPixelID() == sitk.sitkVectorUInt8 and image.GetNumberOfComponentsPerPixel() == 3
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), rgb)
    green = Volume.read(tmp_path / name, frame=1)
    np.testing.assert_array_equal(green.array, rgb[..., 1])
    assert green.geometry.matches(geometry, 1e-4)


def test_the_picture_shows_the_patients_right_on_the_left() -> None:
    geometry = grid_around(np.eye(3), (40, 40, 40), (4.0, 4.0, 4.0))  # x grows to the left
    rgb = np.zeros((40, 40, 40, 3), np.uint8)
    rgb[:, :, :20, 0], rgb[:, :, 20:, 1] = 255, 255
    page = np.asarray(render(Volume(np.zeros((40, 40, 40), np.float32), geometry), rgb))
    axial = page[420:820, 10:410].astype(int)
    assert (axial[100:150, 50:150, 0] > 200).all() and (axial[100:150, 250:350, 1] > 200).all()
    assert (page[20:400, 50:150, 0] == page[20:400, 50:150, 1]).mean() > 0.99, "grey above"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for seed in (0, 1):
        noisy(seed=seed).write(folder / f"scan{seed}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no image")
    return folder


def lines(capsys: pytest.CaptureFixture[str], event: str) -> list[dict[str, Any]]:
    return [line for text in capsys.readouterr().out.splitlines() if (line := json.loads(text))["event"] == event]


def common(weights: Path, *more: object) -> list[str]:
    return ["--json", "features", "--weights", str(weights), "--device", "cpu", "--modality", "ct", *map(str, more)]


def test_the_command_paints_scans_in_common_colours(
    scans: Path, tiny_weights: Path, tiny: Segmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = [scans / "scan0.nii.gz", scans / "scan1.nii.gz"]
    options = ("--target", *targets, "--output-dir", tmp_path / "new", "--picture", tmp_path / "new/view.png", "--overlap", "0.25")
    assert main(common(tiny_weights, *options)) == 0
    results = lines(capsys, "result")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        *("scan0_features.nii.gz", "scan1_features.nii.gz", "view_scan0.png", "view_scan1.png"),
    }
    volumes = [Volume.read(target) for target in targets]
    basis = Basis.of([sample(tiny, view(tiny, volume, (3.0, 3.0, 3.0), Steps()), Steps()) for volume in volumes])
    for volume, result in zip(volumes, results, strict=True):
        assert result["explained"] == pytest.approx(basis.explained, abs=1e-4) and result["spacing_zyx"] == [3.0, 3.0, 3.0]
        found = sitk.GetArrayFromImage(sitk.ReadImage(result["output"]))
        np.testing.assert_array_equal(found, painted(tiny, volume, basis).rgb)
        with Image.open(result["picture"]) as page:
            assert page.size[0] > 1000
    assert main(common(tiny_weights, *options)) == 2
    assert "exist already" in lines(capsys, "failed")[0]["message"]


def test_a_broken_scan_does_not_stop_the_others(
    scans: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = (scans / "broken.nii.gz", scans / "scan1.nii.gz")
    assert main(common(tiny_weights, "--target", *targets, "--output-dir", tmp_path)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["scan1_features.nii.gz"]
    assert lines(capsys, "failed")[0]["target"] == str(targets[0])
    assert main(common(tiny_weights, "--target", targets[0], "--output", tmp_path / "new/x.nrrd")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["scan1_features.nii.gz"]


def order(files: Files, **changes: Any) -> dict[str, Any]:
    return {**files.common, "target": str(files.target), "output": str(files.folder / "colours.nrrd"), **changes}


def test_the_worker_gives_what_the_library_gives(worker: Recorder, files: Files) -> None:
    reply = worker.ask("features", order(files))
    model = load_model(files.common["weights"], "cpu")
    expected = look(Segmenter(model, model.recipe.changed(modality="ct")), balls(1)[0], Steps())
    assert set(reply["result"]) == {"output", "explained", "modality", "seed", "warnings"}
    assert reply["result"]["explained"] == pytest.approx(expected.explained)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(reply["result"]["output"])), expected.rgb)
    assert {"prepare", "sample", "features", "place", "write"} <= set(reply["timings"])


def test_the_worker_refuses_what_cannot_be(worker: Recorder, files: Files) -> None:
    before = files.names()
    for changes, message in (
        ({"output": str(files.folder / "colours.txt")}, "no ending that names an image format"),
        ({"target": str(files.folder / "absent.nrrd")}, "There is no file"),
        ({"references": []}, "references is not known"),
        ({"output": str(files.target)}, "is an input of this run"),
    ):
        with pytest.raises(MassError, match=message):
            worker.ask("features", order(files, **changes))
    assert files.names() == before


def test_the_worker_can_be_stopped_in_the_middle(worker: Recorder, files: Files) -> None:
    before = files.names()
    call = worker.request("features", order(files, options={"modality": "ct", **LONG}))
    worker.until(lambda: any(kind == "features" and 0 < fraction < 1 for kind, fraction in worker.events))
    call.cancel()
    worker.until(lambda: call.state != "waiting")
    assert call.state == "cancelled" and files.names() == before

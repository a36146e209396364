"""Sections of `Testing.benchmarks.gpu`: each is a function of the scale that returns numbers, named with their units.

Endings of names: _s and _ms time, _gb memory (10^9 bytes), _share from 0 to 1, _per_s, _dice, _difference.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mass_core.config import ModelConfig, Recipe, Shape
from mass_core.devices import DeviceUse, Peak
from mass_core.encoding.task import Task
from mass_core.errors import Cancelled, DeviceError
from mass_core.inference.segmenter import Segmentation, Segmenter
from mass_core.volumes.volume import Volume
from mass_core.weights.checkpoint import load_model

from .inference import CHANNELS, STEPS, measure, write_own_weights
from .remote import LIVER, phantom

PATIENCE_S = 2.0
"""A cancelled run shall have ended by then."""
ROUNDED = {"tf32": 0.1, "bfloat16": 0.35}
"""Largest root mean square of differences allowed, as a share of the logits': random weights make much of small differences (0.21 on a
CPU in bfloat16)."""


ALIKE = 0.99
"""Least Dice of label maps that may differ by rounding: random weights make many voxels doubtful."""


class NotHere(Exception):
    """Something a section needs is not at hand; says what to do about it."""


@dataclass(kw_only=True)
class Result:
    """Numbers by name, and what is not as it should be, one sentence each."""

    numbers: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Device and sizes of a measurement."""

    device: torch.device
    released: Path | None = None
    """A checkout of the released code."""
    data: Path | None = None
    """The data folder, with the golden cases."""
    edge: int = 128
    """Of a window, in voxels."""
    channels: tuple[int, ...] = CHANNELS
    repeats: int = 10
    scan_zyx: Shape = (300, 512, 512)
    recipe: Recipe = Recipe()
    golden: tuple[str, ...] = ("tiny64", "tiny_aniso", "base64", "base128")
    sam2: dict[str, Any] = field(
        default_factory=lambda: {
            "configuration": "configs/sam2.1/sam2.1_hiera_l.yaml",
            **{"image_size": 1024, "slices": 48, "size": 512, "seeds": 2, "objects": 4, "together": 64, "precision": "bfloat16"},
        }
    )
    training_edge: int = 192
    """Of the scans trained on, in voxels of 1.5 mm."""
    training: tuple[str, ...] = ("steps=12", "batch_size=4")
    """Settings of a run: the paper's 32 samples of a step are those of 8 GPUs."""

    @classmethod
    def miniature(cls, **place: Any) -> "Scale":
        """Everything as small as it can be: to try the script, not to measure anything."""
        network = "model.channels=8,32,32,32", "model.position_size=16", "model.task_rows=0", "preprocess.window_zyx=16,16,16"
        run = "steps=2", "batch_size=1", "workers=0", "precision=float32", "early_window=16", "episodes.smallest_voxels=1"
        return cls(
            **place,
            edge=16,
            channels=(8, 32, 32, 32),
            repeats=1,
            scan_zyx=(20, 20, 24),
            recipe=Recipe(window_zyx=(16, 16, 16), spacing_zyx=(16.0, 16.0, 16.0), body_margin_zyx=(0, 0, 0), overlap=0.25),
            golden=("tiny64",),
            sam2={
                "configuration": "configs/sam2.1/sam2.1_hiera_t.yaml",
                **{"image_size": 64, "slices": 3, "size": 32, "seeds": 1, "objects": 1, "together": 2, "precision": "float32"},
            },
            training_edge=32,
            training=(*run, "episodes.task_slots=2", *network),
        )


def table(scale: Scale, code: str) -> Result:
    """The paper's table 8 for one code: milliseconds of each step, bfloat16 on a GPU, and the memory it takes.

    Raises:
        NotHere: if the released code is not at hand.
    """
    if code == "released" and scale.released is None:
        raise NotHere("the released code is not at hand; RELEASED=FOLDER names a checkout of it")
    rows = measure(
        whats=STEPS,
        code=code,
        size=scale.edge,
        repeats=scale.repeats,
        device=str(scale.device),
        released=None if scale.released is None else str(scale.released),
        channels=scale.channels,
    )
    found = Result()
    for row in rows:
        found.numbers |= {f"{row['what']}_ms": 1000 * row["wall_s"], f"{row['what']}_peak_gb": row["peak_gb"]}
    return found


def golden(scale: Scale) -> Result:
    """Differences of logits from the released network's, for each golden case and precision: the largest, and the share they have.

    Raises:
        NotHere: if the golden cases are not at hand.
    """
    from Testing.parity import golden as cases

    if scale.data is None or not (scale.data / "golden").is_dir():
        raise NotHere("the golden cases are not at hand; MASS_SHARED names the folder with them")
    recipe, found = cases.recipe(scale.data), Result()
    for case in scale.golden:
        expected = np.load(scale.data / f"golden/{case}.npz")["logits_every_4th"]
        network = cases.network(recipe, recipe.CASES[case][0]).to(scale.device)
        query, reference, masks = (torch.from_numpy(array).to(scale.device) for array in recipe.inputs(case, cases.SALT))
        for precision in ("float32", *ROUNDED):
            with torch.inference_mode(), _precision(scale.device, precision):
                logits = network.segment(query, network.encode_reference(reference, masks))
            differences = logits[:, :, ::4, ::4, ::4].float().cpu().numpy() - expected
            largest, share = float(np.abs(differences).max()), float(np.sqrt(np.mean(differences**2) / np.mean(expected**2)))
            found.numbers |= {f"{case}_{precision}_difference": largest, f"{case}_{precision}_rms_share": share}
            if not (share <= ROUNDED[precision] if precision in ROUNDED else largest <= cases.LOGITS):
                found.wrong.append(f"{case}: logits in {precision} differ by {largest:.2g}, by {share:.1%} on average.")
    return found


@contextmanager
def _precision(device: torch.device, name: str) -> Iterator[None]:
    """Computing in float32, with the products of an NVIDIA GPU rounded to tf32, or in bfloat16."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name != "float32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def whole_scan(scale: Scale, *, compiled: bool = False) -> Result:
    """A whole CT through the base network: reference, first run, second run with the scan prepared.

    Raises:
        NotHere: if it is to be compiled, and the device is none PyTorch compiles for.
    """
    try:
        scene = Scene.of(scale, compiled=compiled)
    except DeviceError as error:
        raise NotHere(error.message) from error
    peak = Peak(scale.device)
    began = time.perf_counter()
    task = scene.task()
    numbers = {"reference_s": time.perf_counter() - began}
    for run in ("first", "second"):
        began = time.perf_counter()
        segmentation = scene.segmenter.segment(scene.target, task)
        numbers |= {f"{run}_s": time.perf_counter() - began, f"{run}_windows_s": segmentation.timings["segment"]}
    return Result(numbers=numbers | {"peak_gb": _gb(peak)})


def switches(scale: Scale) -> Result:
    """The same CT with each switch of the device off: seconds of its windows, and that the same is found."""
    numbers, wrong, whole = {}, [], None
    for off in ((), *((name,) for name in DeviceUse.names())):
        scene = Scene.of(scale, use=DeviceUse.without(off))
        task = scene.task()
        for _ in range(2):
            found = scene.segmenter.segment(scene.target, task)
        whole = whole or found
        name = f"without_{off[0].replace('-', '_')}" if off else "with_all"
        numbers |= {f"{name}_s": found.timings["segment"], f"{name}_dice": _agreement(found, whole)}
        if numbers[f"{name}_dice"] < ALIKE:
            wrong.append(f"{name.replace('_', ' ')} another label map is found: Dice {numbers[f'{name}_dice']:.3f}.")
    return Result(numbers=numbers, wrong=wrong)


def bundled_weights(scale: Scale) -> Result:
    """The same CT with the bundled weights, aligned references included; the second run is told."""
    target, truth = phantom(1, scale.scan_zyx)
    segmenter = Segmenter(load_model("small", str(scale.device)))
    task = segmenter.encode([phantom(2, scale.scan_zyx)])
    peak = Peak(scale.device)
    segmenter.segment(target, task)
    began = time.perf_counter()
    found = segmenter.segment(target, task)
    seconds = {f"{stage}_s": spent for stage, spent in found.timings.items()}
    return Result(numbers={"whole_s": time.perf_counter() - began, **seconds, "liver_dice": _dice(found, truth), "peak_gb": _gb(peak)})


def alignment(scale: Scale) -> Result:
    """Alignment alone of one reference with the CT: first run, and the second, which finds both prepared."""
    target, truth = phantom(1, scale.scan_zyx)
    model = load_model("small", str(scale.device))
    segmenter = Segmenter(model, replace(model.recipe, align="only"))
    task = segmenter.encode([phantom(2, scale.scan_zyx)])
    peak, numbers = Peak(scale.device), {}
    for run in ("first", "second"):
        found = segmenter.segment(target, task)
        numbers[f"{run}_s"] = found.timings["align"]
    return Result(numbers={**numbers, "liver_dice": _dice(found, truth), "peak_gb": _gb(peak)})


def full_memory(scale: Scale) -> Result:
    """A run whose memory ends is done once more with less, and finds the same."""
    scene, peaks, found = Scene.of(scale), {}, {}
    task, batched = scene.task(), scene.segmenter.compute
    several = replace(batched(1), batch=max(4, batched(1).batch))
    for name, compute in (("one", several.frugal()), ("several", several)):
        setattr(scene.segmenter, "compute", lambda labels, compute=compute: compute)  # noqa: B010 - a method
        peak = Peak(scale.device)
        found[name] = scene.segmenter.segment(scene.target, task)
        peaks[name] = _gb(peak)
    with _memory_ends(scale, scene.segmenter, (peaks["one"] + peaks["several"]) / 2):
        survived = scene.segmenter.segment(scene.target, task)
    dice = _agreement(survived, found["one"])
    result = Result(numbers={"one_window_peak_gb": peaks["one"], "several_windows_peak_gb": peaks["several"], "agreement_dice": dice})
    if not any("memory did not suffice" in warning for warning in survived.warnings):
        result.wrong.append("Memory did not end although it was made short.")
    if dice < 0.999:
        result.wrong.append(f"After memory ended another label map was found: Dice {dice:.3f}.")
    return result


@contextmanager
def _memory_ends(scale: Scale, segmenter: Segmenter, gb: float) -> Iterator[None]:
    """On a GPU no more memory than that can be had; elsewhere several windows at a time are refused, as a full GPU does."""
    if scale.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(gb * 1e9 / torch.cuda.get_device_properties(scale.device).total_memory, scale.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, scale.device)
        return
    network = segmenter.model.network
    plain = network.encode_image

    def encode_image(batch: torch.Tensor) -> list[torch.Tensor]:
        if len(batch) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. (This is a test.)")
        return plain(batch)

    network.encode_image = encode_image  # type: ignore[method-assign]
    try:
        yield
    finally:
        network.encode_image = plain  # type: ignore[method-assign]


def cancel(scale: Scale) -> Result:
    """Seconds from the wish to stop in the middle of the windows until the run has ended."""
    scene = Scene.of(scale)
    task = scene.task()
    began = time.perf_counter()
    windows_s = scene.segmenter.segment(scene.target, task).timings["segment"]
    whole_s = time.perf_counter() - began
    wish, wished = threading.Event(), [0.0]

    def want() -> None:
        wished[0] = time.perf_counter()
        wish.set()

    reached: list[float] = []

    def progress(stage: str, share: float, left: float | None) -> None:
        if stage == "segment" and not reached:
            reached.append(share)
            threading.Timer(windows_s / 3, want).start()

    try:
        scene.segmenter.segment(scene.target, task, progress=progress, cancelled=wish.is_set)
    except Cancelled:
        took = time.perf_counter() - wished[0]
    else:
        return Result(numbers={"run_s": whole_s}, wrong=["The run ended before it was cancelled."])
    wrong = [] if took <= PATIENCE_S else [f"It took {took:.1f} s to cancel, {PATIENCE_S:g} s are allowed."]
    return Result(numbers={"run_s": whole_s, "cancelled_after_s": took}, wrong=wrong)


def sam2(scale: Scale) -> Result:
    """Masks carried through a volume by SAM2 with random weights: the package's predictor and ours."""
    try:
        from .sam2_masks import compared
    except ImportError as error:
        raise NotHere(f"SAM2 is not installed ({error}); `make .venv/dev.stamp` installs it") from error
    theirs, ours, different, _ = compared(device=scale.device, **scale.sam2)
    numbers = {"stock_s": theirs.seconds, "ours_s": ours.seconds, "differing_voxels_share": different}
    return Result(numbers=numbers | {f"{name}_peak_gb": (one.peak or 0) / 1e9 for name, one in (("stock", theirs), ("ours", ours))})


def pretraining(scale: Scale, recipe: str) -> Result:
    """Steps of pretraining: their speed, the share of time the loader was waited for, peak memory."""
    from training.pretrain.loop import main as pretrain

    from .training import logged

    with tempfile.TemporaryDirectory() as place:
        data, output = training_data(Path(place) / "data", scale.training_edge), Path(place) / "run"
        words = ["--recipe", recipe, "--data", str(data), "--output", str(output), "--device", str(scale.device)]
        peak = Peak(scale.device)
        if pretrain([*words, "--set", "log_every=1", "validate_every=0", *scale.training]):
            raise RuntimeError("training.pretrain refused the run, see above")
        speeds, size = logged(output), next(int(text.partition("=")[2]) for text in scale.training if text.startswith("batch_size="))
        numbers = {"step_s": size / speeds["samples_per_s"], "samples_per_s": speeds["samples_per_s"]}
        return Result(numbers=numbers | {"loader_waiting_share": speeds["data_wait"], "peak_gb": _gb(peak)})


def training_data(folder: Path, edge: int) -> Path:
    """A dataset of three phantoms with masks, cubes of so many voxels."""
    from mass_core.data.dataset import Case, Dataset, write_case
    from mass_core.data.phantoms import subject
    from mass_core.masks.from_labels import label_masks
    from mass_core.masks.mask_set import MaskSet

    cases, coarse = [], min(edge, 96)
    for seed in range(3):
        image, labels = subject(seed, "ct", shape_zyx=(coarse,) * 3, spacing_zyx=(1.5 * 192 / coarse,) * 3)
        index = np.ix_(*[np.arange(edge) * coarse // edge] * 3)
        case = Case(
            name=f"phantom{seed}", patient=f"phantom{seed}", modality="ct", shape_zyx=(edge,) * 3, spacing_zyx=(1.5, 1.5, 1.5),
            origin_xyz=(0.0, 0.0, 0.0), direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), masks="mask_set.masks",
        )  # fmt: skip
        grid = Volume(labels.array[index], replace(labels.geometry, shape_zyx=(edge,) * 3, spacing_xyz=(1.5, 1.5, 1.5)))
        masks, _ = label_masks(grid, grid.geometry)
        standard = (image.array[index] - image.array.mean()) / image.array.std()
        write_case(folder, case, standard.astype(np.float16), masks=MaskSet.of(masks, case.shape_zyx, case.spacing_zyx))
        cases.append(case)
    Dataset(folder=folder, name="phantoms", cases=tuple(cases), splits={"train": tuple(case.name for case in cases)}).write()
    return folder


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scan, a reference, and the network of a scale with random weights."""

    segmenter: Segmenter
    target: Volume
    reference: tuple[Volume, Volume]

    @classmethod
    def of(cls, scale: Scale, *, compiled: bool = False, use: DeviceUse = DeviceUse()) -> "Scene":  # noqa: B008 - frozen
        """The same every time."""
        with tempfile.TemporaryDirectory() as place:
            weights = Path(place) / "random.safetensors"
            write_own_weights(weights, ModelConfig(channels=scale.channels, position_size=scale.edge), scale.recipe)
            segmenter = Segmenter(load_model(weights, str(scale.device), use=use), compile=compiled)
        return cls(segmenter=segmenter, target=phantom(1, scale.scan_zyx)[0], reference=phantom(2, scale.scan_zyx))

    def task(self) -> Task:
        """The reference's liver."""
        return self.segmenter.encode([self.reference])


SECTIONS: dict[str, tuple[Callable[[Scale], Result], float]] = {
    "table 8, ours, plain": (lambda scale: table(scale, "ours plain"), 60),
    "table 8, ours, channels last": (lambda scale: table(scale, "ours channels-last"), 60),
    "table 8, released": (lambda scale: table(scale, "released"), 60),
    "golden cases": (golden, 60),
    "whole CT": (whole_scan, 90),
    "switches": (switches, 120),
    "cancel": (cancel, 90),
    "memory ends": (full_memory, 120),
    "alignment": (alignment, 60),
    "bundled weights": (bundled_weights, 60),
    "pretraining, small": (lambda scale: pretraining(scale, "small"), 60),
    "pretraining, paper": (lambda scale: pretraining(scale, "paper"), 90),
    "SAM2": (sam2, 90),
    "table 8, ours, compiled": (lambda scale: table(scale, "ours compiled"), 150),
    "table 8, ours, CUDA graphs": (lambda scale: table(scale, "ours CUDA graphs"), 150),
    "whole CT, compiled": (lambda scale: whole_scan(scale, compiled=True), 180),
}
"""Every section with the most seconds it may take; those that may take long to compile come last."""


def _gb(peak: Peak) -> float:
    return (peak.measured() or 0) / 1e9


def _dice(found: Segmentation, truth: Volume) -> float:
    a, b = found.labels.array == LIVER, truth.array > 0
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def _agreement(one: Segmentation, other: Segmentation) -> float:
    a, b = one.labels.array > 0, other.labels.array > 0
    return float(2 * (a & b).sum() / (a.sum() + b.sum())) if a.any() or b.any() else 1.0

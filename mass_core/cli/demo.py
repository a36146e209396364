"""mass demo: one reference, three new subjects, CT-like and MR-like. Phantoms and bundled weights; no data, no network."""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..command_help import examples
from ..outputs import all_or_none, check_free, folders_ready

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..inference.segmenter import Segmenter
    from ..volumes.volume import Volume

MODALITIES: tuple[Literal["ct", "mr"], ...] = ("ct", "mr")
REFERENCE = 0
"""Seed of the person in whom the structures are marked."""
SUBJECTS = (1, 2, 3)
"""Seeds of those in whom they are found."""
COLORS = {
    1: (0.95, 0.60, 0.25),
    2: (0.35, 0.78, 0.98),
    3: (0.50, 0.90, 0.40),
    4: (0.98, 0.88, 0.35),
    5: (0.98, 0.35, 0.35),
    6: (0.72, 0.55, 0.98),
    7: (0.98, 0.58, 0.80),
}
"""Red, green, blue of the phantoms' labels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One phantom: the reference, or a subject with what was found in it."""

    name: str
    """Prefix of its files."""
    title: str
    image: "Volume"
    truth: "Volume"
    found: "Volume | None" = None
    dice: Mapping[int, float]
    """By label; empty for the reference."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "demo", help="segment phantoms: needs no data and no network", **examples("mass demo", "mass demo --output phantoms --overwrite")
    )
    parser.add_argument("--output", type=Path, default=Path("mass-demo"), metavar="DIR", help="folder for results (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--weights", default="small", metavar="W", help="file, or name of bundled weights (default: %(default)s)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Segment the phantoms, print the Dice, write everything."""
    from ..inference.segmenter import Segmenter
    from ..weights.checkpoint import load_model

    began = time.monotonic()
    files = file_names(arguments.output)
    check_free(files, overwrite=arguments.overwrite)
    with folders_ready(files):
        segmenter = Segmenter(load_model(arguments.weights, arguments.device))
        studies: dict[str, list[Scan]] = {modality: _study(segmenter, modality, arguments.terminal) for modality in MODALITIES}
        with all_or_none(files) as place:
            for scan in (scan for study in studies.values() for scan in study):
                for file, volume in _volumes(arguments.output, scan).items():
                    volume.write(place[file])
            _picture(studies).save(place[arguments.output / "demo.png"])
    dice = {scan.name: dict(scan.dice) for study in studies.values() for scan in study if scan.dice}
    closing = _closing(arguments.output, time.monotonic() - began)
    arguments.terminal.result(f"{table(studies)}\n\n{closing}", dice=dice, files=[str(file) for file in files])
    return 0


def file_names(folder: Path) -> list[Path]:
    """Everything the demo writes."""
    scans = [f"{modality}_{name}" for modality in MODALITIES for name in ("reference", *(f"subject{n + 1}" for n in range(len(SUBJECTS))))]
    kinds = [(scan, kind) for scan in scans for kind in (("", "_mask") if scan.endswith("reference") else ("", "_seg", "_truth"))]
    return [*(folder / f"{scan}{kind}.nii.gz" for scan, kind in kinds), folder / "demo.png"]


def _volumes(folder: Path, scan: Scan) -> dict[Path, "Volume"]:
    """A scan's files."""
    masks = {"_mask": scan.truth} if scan.found is None else {"_seg": scan.found, "_truth": scan.truth}
    return {folder / f"{scan.name}{kind}.nii.gz": volume for kind, volume in {"": scan.image, **masks}.items()}


def _study(segmenter: "Segmenter", modality: Literal["ct", "mr"], terminal: Any) -> list[Scan]:
    """The reference of a modality and its three subjects, segmented."""
    from ..data.phantoms import LABELS, subject
    from ..evaluation.metrics import dice

    image, truth = subject(REFERENCE, modality)
    task = segmenter.encode([(image, truth)], progress=terminal.progress)
    scans = [Scan(name=f"{modality}_reference", title=f"{modality.upper()}-like, reference: marked", image=image, truth=truth, dice={})]
    for number, seed in enumerate(SUBJECTS, start=1):
        began = time.monotonic()
        image, truth = subject(seed, modality)
        found = segmenter.segment(image, task, progress=terminal.progress).labels
        scores = {value: dice(found.array == value, truth.array == value) for value in LABELS}
        mean = sum(scores.values()) / len(scores)
        title = f"subject {number}: found, mean Dice {mean:.2f}"
        scans.append(Scan(name=f"{modality}_subject{number}", title=title, image=image, truth=truth, found=found, dice=scores))
        terminal.result(
            f"{modality.upper()}-like subject {number}: mean Dice {mean:.2f} ({time.monotonic() - began:.1f} s)",
            subject=f"{modality}_subject{number}",
            mean_dice=mean,
        )
    return scans


def table(studies: Mapping[str, Sequence[Scan]]) -> str:
    """Dice by structure, subject and modality, for people."""
    from ..data.phantoms import LABELS

    columns = [[scan.dice for scan in study if scan.dice] for study in studies.values()]
    heads = "".join(f"  {f'{modality.upper()}-like':<{6 * (len(SUBJECTS) + 1)}}" for modality in studies)
    below = f"  {''.join(f'{n:>6}' for n in range(1, len(SUBJECTS) + 1))}{'mean':>6}" * len(studies)
    lines = [f"\n{'Dice':<13}{heads}".rstrip(), f"{'subject':<13}{below}"]
    for value, name in LABELS.items():
        cells = [[scores[value] for scores in column] for column in columns]
        lines.append(f"{name:<13}" + "".join(_cells(row) for row in cells))
    means = [[sum(scores.values()) / len(scores) for scores in column] for column in columns]
    lines.append(f"{'mean':<13}" + "".join(_cells(row) for row in means))
    return "\n".join(lines)


def _cells(row: Sequence[float]) -> str:
    return "  " + "".join(f"{score:6.2f}" for score in (*row, sum(row) / len(row)))


def _closing(folder: Path, seconds: float) -> str:
    """The place of the results, and the command for one's own scans."""
    return (
        f"{seconds:.0f} s. The picture is {folder / 'demo.png'}; scans, masks and results lie beside it.\n"
        "To segment the liver of the first subject again, as you would with your own files:\n"
        f"mass segment --reference {folder / 'ct_reference.nii.gz'} {folder / 'ct_reference_mask.nii.gz'} "
        f"--target {folder / 'ct_subject1.nii.gz'} --labels 1 --output liver.nii.gz"
    )


def _picture(studies: Mapping[str, Sequence[Scan]]) -> "Image":
    """One column a modality: the reference on top, the subjects below."""
    from PIL import Image, ImageDraw, ImageFont

    from ..data.phantoms import LABELS
    from ..pictures.label_map import render

    font, pages = ImageFont.load_default(size=22), []
    for modality, study in studies.items():
        column = []
        for scan in study:
            shown = render(scan.image, scan.found or scan.truth, names=LABELS, colors=COLORS, modality="ct" if modality == "ct" else "mr")
            page = Image.new("RGB", (shown.width, shown.height + 34), shown.getpixel((0, 0)))
            page.paste(shown, (0, 34))
            ImageDraw.Draw(page).text((12, 10), scan.title, fill=(235, 235, 235), font=font)
            column.append(page)
        pages.append(column)
    width, height = max(p.width for c in pages for p in c), max(p.height for c in pages for p in c)
    whole = Image.new("RGB", (width * len(pages), height * max(map(len, pages))), pages[0][0].getpixel((0, 0)))
    for x, column in enumerate(pages):
        for y, page in enumerate(column):
            whole.paste(page, (x * width, y * height))
    return whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS)

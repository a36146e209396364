"""The paper's tables and figures: what fills each of their cells."""

from collections.abc import Callable
from dataclasses import dataclass

from .inputs import DATA, LABELS
from .plan import RESNET, Cell, Part, Planner

SEGMENTERS = {
    "Scratch": ("scratch", "none"),
    "MG": ("finetuned", "mg"),
    "MAE": ("finetuned", "mae"),
    "S3D": ("finetuned", "s3d"),
    "SimCLR": ("finetuned", "simclr"),
    "MASS-IC": ("in-context", "mass"),
    "MASS-FT": ("finetuned", "mass"),
    "Full supervision": ("scratch", "none"),
    "SuPreM": ("finetuned", "suprem-unet"),
    "Iris (IC)": ("in-context", "iris"),
    "Iris (FT)": ("finetuned", "iris"),
    **{f"OM-{name}": ("finetuned", f"openmind-{name.lower()}") for name in ("MG", "MAE", "S3D", "SimCLR")},
    "AnatoMix": ("finetuned", "anatomix"),
    "Merlin": ("finetuned", "merlin"),
    "MASS (IC)": ("in-context", "mass"),
    "MASS (FT)": ("finetuned", "mass"),
}
"""Method of `mass evaluate` and weights (`Planner.weights`) of each row."""
ORGANS = ("bcv", "amos_mr", "ss_hn", "acdc", "pelvic")
"""Datasets of the one-shot mean of table 4c and figure 2, which the paper does not name: those of table 2 with one shot."""
GROWING = {
    "BCV": "bcv",
    "+ KiTS": "kits",
    "+ LiTS": "lits",
    "+ TotalSeg CT": "totalseg_ct",
    "+ AMOS MR": "amos_mr",
    "+ TotalSeg MR": "totalseg_mr",
    "+ BraTS": "brats",
}
REGIONS = {"Abdomen CT": "bcv", "Head & Neck CT": "ss_hn", "Abdomen MR": "amos_mr"}
CHANNELS = {
    "Linear mapping": ("linear", ("--channels", "linear")),
    "Single window replication": ("single", ("--channels", "single")),
    "Three-channel windows": ("", ()),
    "Three-channel + multi-axis": ("axes", ("--all-axes",)),
}
"""Name and options of `mass masks` of table 5."""


def _magnitude(factor: float) -> tuple[str, ...]:
    """The paper's augmentation with everything as many times as strong."""
    low, high = 1 - 0.2 * factor, 1 + 0.3 * factor
    ranges = [f"appearance.{name}={low:.3g},{high:.3g}" for name in ("multiply", "gamma", "contrast")]
    blur = f"appearance.blur_voxels={0.7 * factor:.3g},{1.5 * factor:.3g}"
    levels = {
        "appearance.add": 0.15,
        "appearance.noise": 0.04,
        "episodes.rotation_degrees": 30,
        "episodes.scale": 0.3,
        "episodes.shear": 0.1,
    }
    return (*ranges, blur, *(f"{name}={factor * value:.3g}" for name, value in levels.items()))


AUGMENTATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Spatial only": ("spatial", ("appearance.probability=0",)),
    "Appearance only": ("appearance", ("episodes.affine_probability=0",)),
    "Both": ("", ()),
    "Small": ("small", _magnitude(0.5)),
    "Medium": ("", ()),
    "Large": ("large", _magnitude(2)),
}
"""Name and settings of pretraining of table 9; of the magnitudes the paper gives medium only."""


def table1(plan: Planner, row: str, column: str, *large_scale: str) -> Cell:
    """Evaluated on a dataset; pretrained on it, or those of `large_scale` on all."""
    dataset, _, shots = column.partition(":")
    method, key = SEGMENTERS[row]
    weights = plan.weights(key, plan.upstream, "upstream") if key in large_scale else plan.weights(key, (dataset,))
    return plan.segmented(row, column, weights, method, (dataset,), shots)


def table2(plan: Planner, row: str, column: str) -> Cell:
    """Pretrained at large scale, evaluated on each dataset; table 6 is the same with standard deviations."""
    return table1(plan, row, column, "mass", "iris")


def table3(plan: Planner, row: str, column: str) -> Cell:
    """Classification of whole scans."""
    task, _, percent = column.partition(":")
    key = "mass" if row == "MASS" else SEGMENTERS[row][1]
    return plan.classified(row, column, plan.weights(key, plan.upstream, "upstream"), task, percent, full=row == "Scratch")


def table4a(plan: Planner, row: str, column: str) -> Cell:
    """Masks beside expert labels."""
    dataset = {"BCV": "bcv", "SS H&N": "ss_hn"}[row]
    if column == "dice":
        return plan.segmented(row, column, plan.weights("mass", (dataset,)), "in-context", (dataset,), "1")
    part, name = plan.masked(dataset), f"statistics/masks_{dataset}"
    words = ("training.reproduce.measure", "masks", "--dataset", part.word, "--output", plan.output / name / "numbers.json")
    return Cell(row, column, ((plan.run(name, words, part),),), column)


def table4b(plan: Planner, row: str, column: str) -> Cell:
    """Methods that make masks."""
    dataset = column.partition(":")[0]
    if row == "Full supervision":
        return plan.segmented(row, column, plan.weights("none", (dataset,)), "scratch", (dataset,), "all")
    method = {"TotalSegmentator": "labels", "SAM2": "sam2", "SLIC": "slic"}[row]
    return _from_masks(plan, row, column, dataset, plan.masked(dataset, plan.masks_of(dataset, method)))


def table4c(plan: Planner, row: str, column: str) -> Cell:
    """Image encoders."""
    if row == "MASS-ResUNet":
        return _one_shot_or_classes(plan, row, column, plan.weights("mass", plan.upstream, "upstream"))
    parts = [plan.masked(name) for name in plan.upstream]
    return _one_shot_or_classes(plan, row, column, plan.pretrained("mass_upstream_resnet152", parts, settings=(RESNET,)))


def table5(plan: Planner, row: str, column: str) -> Cell:
    """Images that SAM2 is shown."""
    name, options = CHANNELS[row]
    masks = plan.masks_of("bcv", "sam2", f"sam2_{name}".rstrip("_"), options)
    return _from_masks(plan, row, column, "bcv", plan.masked("bcv", masks))


def table7(plan: Planner, row: str, column: str) -> Cell:
    """Data of the large-scale pretraining, of MASS alone."""
    parts = [plan.labelled(name) for name in plan.upstream]
    words = ["training.reproduce.measure", "corpus", "--dataset", *(part.word for part in parts)]
    name = "statistics/corpus"
    run = plan.run(name, [*words, "--output", plan.output / name / "numbers.json"], *parts)
    return Cell(row, column, ((run,),) if row == "MASS" and column != "supervision" else (), column)


SPEEDS = {
    "Full in-context inference, ms": "full_ms",
    "Reference encoding, ms": "encode_ms",
    "Query inference, ms": "query_ms",
    "Query inference FPS": "query_fps",
    "Peak memory, GB": "peak_gb",
}


def table8(plan: Planner, row: str, column: str) -> Cell:
    """Speed, memory and parameters of the network."""
    if row in SPEEDS:
        speed = ("Testing.benchmarks.inference", "--section", "gpu", "--json", plan.output / "speed/inference/rows.json")
        return Cell(row, column, ((plan.run("speed/inference", speed),),), SPEEDS[row])
    words = ("training.reproduce.measure", "parameters", "--output", plan.output / "statistics/parameters/numbers.json")
    return Cell(row, column, ((plan.run("statistics/parameters", words),),), row.partition(",")[0])


def table9(plan: Planner, row: str, column: str) -> Cell:
    """Kinds and magnitudes of augmentation."""
    name, settings = AUGMENTATIONS[row]
    if not name:
        return plan.segmented(row, column, plan.weights("mass", ("bcv",)), "in-context", ("bcv",), "1")
    part = plan.masked("bcv")
    weights = plan.pretrained(f"mass_{part.name}_{name}", [part], settings=settings)
    return plan.segmented(row, column, weights, "in-context", ("bcv",), "1")


def fig2(plan: Planner, row: str, column: str) -> Cell:
    """More and more data."""
    count = list(GROWING).index(row) + 1
    corpus = tuple(GROWING.values())[:count]
    return _one_shot_or_classes(plan, row, column, plan.weights("mass", corpus, "" if count == 1 else f"first{count}"))


def fig3(plan: Planner, row: str, column: str) -> Cell:
    """Masks on slices, and (figure 4) in three planes: one sheet for each scan."""
    return Cell(row, column, ((plan.masks_of(REGIONS[row]),),), "picture")


def fig6(plan: Planner, row: str, column: str) -> Cell:
    """Segmentation in context after one reference."""
    dataset = next(name for name, data in DATA.items() if data.title == row)
    weights, scans = plan.weights("mass", plan.upstream, "upstream"), _scans(plan, dataset)
    name, place = f"pictures/one-shot_{dataset}", plan.output / f"scans/{dataset}"
    words = ["mass", "segment", "--weights", weights.word, "--reference", place / "reference.nii.gz", place / "reference_labels.nii.gz"]
    words += ["--target", place / "target.nii.gz", "--align", "off", *_out(plan, name)]
    return Cell(row, column, ((plan.run(name, words, weights, scans),),), "picture")


def fig7(plan: Planner, row: str, column: str) -> Cell:
    """Features as colours."""
    dataset = REGIONS[row]
    weights, scans = plan.weights("mass", plan.upstream, "upstream"), _scans(plan, dataset)
    name = f"pictures/features_{dataset}"
    words = ["mass", "features", "--weights", weights.word, "--target", plan.output / f"scans/{dataset}/target.nii.gz"]
    return Cell(row, column, ((plan.run(name, [*words, *_out(plan, name)], weights, scans),),), "picture")


def _out(plan: Planner, name: str) -> list[object]:
    folder = plan.output / name
    files = ["--output", folder / "result.nii.gz", "--picture", folder / "picture.png", "--overwrite"]
    return ["--modality", "mr", "--body-crop", "none", *files]


def _scans(plan: Planner, dataset: str) -> Part:
    """A reference and a target of a dataset as files."""
    part, name = plan.labelled(dataset), f"scans/{dataset}"
    run = plan.run(name, ["training.reproduce.measure", "scans", "--dataset", part.word, "--output", plan.output / name], part)
    return Part("", name, (run,))


def _from_masks(plan: Planner, row: str, column: str, dataset: str, part: Part) -> Cell:
    """In context after pretraining with some masks; the dataset's own name tells them apart."""
    weights = plan.pretrained(f"mass_{part.name}", [part])
    return plan.segmented(row, column, weights, "in-context", (dataset,), "1")


def _one_shot_or_classes(plan: Planner, row: str, column: str, weights: Part) -> Cell:
    if column == "classification":
        return plan.classified(row, column, weights, "rsna_ich", "5")
    return plan.segmented(row, column, weights, "in-context", ORGANS, "1")


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper."""

    title: str
    paper: str
    """Name of the file of its numbers, without ending."""
    cell: Callable[[Planner, str, str], Cell]
    """From row and column to what fills them."""


TABLES: dict[str, Table] = {
    "table1": Table("Table 1: pretrained on one dataset, few-shot segmentation, Dice in %", "table1", table1),
    "table2": Table("Table 2: large-scale pretraining, few-shot segmentation, Dice in %", "table6", table2),
    "table3": Table("Table 3: classification, AUC in %", "table3", table3),
    "table4a": Table("Table 4a: masks beside expert labels, Dice in %", "table4a", table4a),
    "table4b": Table("Table 4b: methods that make masks, one-shot Dice in context in %", "table4b", table4b),
    "table4c": Table("Table 4c: image encoders, one-shot Dice in context and AUC of RSNA ICH (5 %) in %", "table4c", table4c),
    "table5": Table("Table 5: images shown to SAM2, one-shot Dice in context in %", "table5", table5),
    "table6": Table("Table 6: table 2 with standard deviations", "table6", table2),
    "table7": Table("Table 7: data of large-scale pretraining", "table7", table7),
    "table8": Table("Table 8: speed, memory and parameters", "table8", table8),
    "table9": Table("Table 9: augmentation, one-shot Dice in context in %", "table9", table9),
    "fig2": Table("Figure 2: growing data, one-shot Dice in context and AUC of RSNA ICH (5 %) in %", "fig2", fig2),
    "fig3": Table("Figure 3: SAM2's masks on slices", "fig3", fig3),
    "fig4": Table("Figure 4: SAM2's masks in 3D", "fig3", fig3),
    "fig6": Table("Figure 6: segmentation in context after one reference", "fig6", fig6),
    "fig7": Table("Figure 7: features as colours", "fig7", fig7),
}
SHOWN = {name: one.title for table in (DATA, LABELS) for name, one in table.items()}

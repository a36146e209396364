"""mass evaluate: in-context segmentation of labelled scans, scored against their ground truth."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..command_help import examples, seed_number
from ..errors import InputError
from ..outputs import check_free, check_no_input, folders_ready
from .common.options import add_decision, add_preparation, add_weights, chosen_recipe, load
from .common.shards import add_shard, shard_of

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..evaluation.scoring import Score, Trial
    from ..inference.segmenter import Segmenter
    from ..weights.checkpoint import Model

_METHODS = ("copied", "aligned", "in-context", "default", "adapted", "finetuned", "scratch")
_NETWORKS = ("finetuned", "scratch")
"""Methods that train a network for every draw."""
_ALL = "all"
"""Number of references: every training scan that shows a structure."""
_DECIDED = {
    "--ct-clip": "ct_clip_hu",
    "--body-crop": "body_crop",
    "--body-margin": "body_margin_zyx",
    "--body-threshold": "body_threshold_hu",
}
"""Options that took effect when the dataset was prepared, and their fields of the recipe."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="compute Dice and surface distances on a prepared dataset with labels",
        description="References are drawn from the training scans, the same for all methods and structures. DIR receives scores.csv "
        "(every scan), summary.csv, summary.json and summary.md (every structure, and the layout of the paper's tables), pictures of the "
        "worst results, and the tasks and networks in models. The same command resumes a stopped evaluation. In a dataset of several "
        "modalities, --modality selects the scans of one.",
        **examples(
            "mass evaluate --weights small --dataset dataset --split test --shots 1 3 5 --repeats 5 --output results",
            "mass evaluate --weights small --dataset dataset --methods scratch in-context adapted finetuned --shots 5 --output compared",
        ),
    )
    add_weights(parser)
    compared = parser.add_argument_group("comparison")
    compared.add_argument("--dataset", required=True, type=Path, metavar="DIR", help="folder made by mass prepare --labels")
    compared.add_argument(
        "--methods",
        nargs="+",
        default=["in-context"],
        choices=_METHODS,
        help="methods to compare (default: in-context, the network alone; `default` is what mass segment does)",
    )
    compared.add_argument("--split", default="test", choices=("train", "val", "test"), help="split to evaluate on (default: %(default)s)")
    compared.add_argument(
        "--shots", nargs="+", type=_number, default=[1], metavar="K", help="numbers of references; all: every training scan (default: 1)"
    )
    compared.add_argument("--repeats", type=int, default=1, metavar="R", help="number of random draws of references (default: %(default)s)")
    compared.add_argument("--seed", type=seed_number, default=0, metavar="N", help="seed of the draws (default: %(default)s)")
    compared.add_argument("--labels", nargs="+", type=int, metavar="N", help="structures to evaluate (default: all named in the dataset)")
    compared.add_argument("--cases", type=int, metavar="N", help="only the first N scans")
    results = parser.add_argument_group("results")
    results.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    results.add_argument(
        "--pictures", type=int, default=4, metavar="N", help="number of pictures of the worst results (default: %(default)s)"
    )
    results.add_argument("--overwrite", action="store_true", help="replace results made with other settings")
    compared.add_argument(
        "--self-reference", action="store_true", help="instead, segment each scan with an augmented copy of itself as reference"
    )
    add_shard(compared, "a block of consecutive scans, in all draws")
    tuning = parser.add_argument_group("tuning")
    tuning.add_argument("--seconds", type=float, default=30.0, metavar="S", help="time to adapt a task (default: %(default)g)")
    tuning.add_argument("--epochs", type=int, metavar="N", help="epochs of finetuned and scratch (default: the recipe's)")
    tuning.add_argument("--recipe-finetune", metavar="NAME", help="recipe of finetuned and scratch (default: by the size of the network)")
    tuning.add_argument("--set", nargs="*", default=[], action="extend", metavar="FIELD=VALUE", help="change settings of that recipe")
    add_preparation(parser)
    add_decision(parser)
    parser.set_defaults(run=run)


def _number(text: str) -> int | str:
    """A number of references, or the word all."""
    return text if text == _ALL else int(text)


def run(arguments: argparse.Namespace) -> int:
    """Encode the references, segment the scans, score them, write the results."""
    from ..data.opening import open_dataset
    from ..evaluation.results_folder import RESULTS, SETTINGS

    shard = shard_of(arguments)
    epochs = 1 if arguments.epochs is None else arguments.epochs
    if min([*(count for count in arguments.shots if count != _ALL), arguments.repeats, epochs]) < 1:
        raise InputError(
            f"--shots {arguments.shots}, --repeats {arguments.repeats}, --epochs {arguments.epochs}.", "All must be at least 1."
        )
    if arguments.seconds <= 0:
        raise InputError(f"--seconds is {arguments.seconds:g}.", "Give more than 0.")
    dataset = _of_modality(open_dataset(arguments.dataset), arguments)
    cases = dataset.splits[arguments.split][: arguments.cases]
    if not cases:
        raise InputError(f"{arguments.dataset} has no scans in its split {arguments.split}.", "Choose another --split.")
    labels = tuple(arguments.labels or sorted(dataset.label_names))
    if not labels:
        raise InputError(f"{arguments.dataset} has no label names.", "Choose labels with --labels N...")
    if arguments.self_reference and shard.requested:
        raise InputError("--self-reference runs in one process only.", "Leave out --shard, or torchrun.")
    if arguments.self_reference:
        return _self_reference(arguments, dataset, cases, labels)
    if arguments.split == "val" and set(arguments.methods) & set(_NETWORKS):
        arguments.terminal.warn("Finetuning uses the split val for early stopping, so scores on it are too optimistic.")
    check_no_input([arguments.output / name for name in (*RESULTS, SETTINGS)], [arguments.dataset, arguments.weights])
    with folders_ready([arguments.output / "scores.csv"]):
        bench = _Bench(arguments, dataset, labels)
        bench.work(cases)
        if bench.is_whole(cases):
            bench.draw_worst()
            _write_tables(arguments, dataset, bench)
    return 0


def _self_reference(arguments: argparse.Namespace, dataset: "Dataset", cases: Sequence[str], labels: Sequence[int]) -> int:
    """Run the self-reference test on every scan, write and print the results."""
    from ..evaluation.scoring import segmenter_for
    from ..evaluation.self_reference import NAME, Recognition, markdown, recognise, summarised
    from ..evaluation.tables import as_csv
    from ..files import write_bytes
    from ..progress import Steps

    output = arguments.output / "self_reference.csv"
    check_free([output], overwrite=arguments.overwrite, inputs=[arguments.dataset, arguments.weights])
    with folders_ready([output]):
        segmenter = segmenter_for(_segmenter(arguments, load(arguments)), dataset)
        steps, found = Steps(arguments.terminal.progress), list[Recognition]()
        for number, case in enumerate(cases, 1):
            found += recognise(dataset, segmenter, case, labels, arguments.repeats, arguments.seed)
            steps.at(NAME, number, len(cases))
        write_bytes(output, as_csv(found, Recognition, method=NAME, seed=arguments.seed).encode())
    rows = summarised(found, dataset)
    arguments.terminal.result(markdown(rows), method=NAME, seed=arguments.seed, rows=rows, output=str(output))
    return 0


def _of_modality(dataset: "Dataset", arguments: argparse.Namespace) -> "Dataset":
    """A dataset restricted to the modality requested; scans of unknown modality are taken to have it.

    Raises:
        InputError: if there are none, finetuning would see others too, or an option comes too late for prepared scans.
    """
    if late := [option for option, name in _DECIDED.items() if getattr(arguments, name) is not None]:
        raise InputError(
            f"{', '.join(late)}: the scans of {dataset.folder} are cropped and clipped already.",
            "Leave it out, or give it to mass prepare.",
        )
    wanted = arguments.modality
    if wanted in (None, "auto"):
        return dataset
    known = sorted({case.modality for case in dataset.cases})
    cases = tuple(replace(case, modality=wanted) for case in dataset.cases if case.modality in (wanted, "auto"))
    if not cases:
        raise InputError(f"--modality is {wanted}, but the scans of {dataset.folder} are {', '.join(known)}.", "Leave --modality out.")
    if len(cases) < len(dataset.cases):
        if tuned := sorted(set(arguments.methods) & set(_NETWORKS)):
            raise InputError(
                f"--modality is {wanted}, but {' and '.join(tuned)} would be validated on scans of {' and '.join(known)}.",
                "Prepare a dataset of one modality: mass prepare has --modality too.",
            )
        arguments.terminal.warn(f"{len(dataset.cases) - len(cases)} scans of other modalities than {wanted} are left out.")
    names = {case.name for case in cases}
    splits = {split: tuple(name for name in members if name in names) for split, members in dataset.splits.items()}
    return replace(dataset, cases=cases, splits=splits)


class _Bench:
    """All trials of a command, with what was found so far."""

    def __init__(self, arguments: argparse.Namespace, dataset: "Dataset", labels: tuple[int, ...]) -> None:
        from ..evaluation.results_folder import EvaluationFolder
        from ..evaluation.trials import Conditions, Trials

        self._arguments = arguments
        self._dataset = dataset
        self._labels = labels
        self.references = _references(arguments, dataset, labels)
        """The training scans each trial is given."""
        model = load(arguments)
        conditions = Conditions(
            dataset=dataset,
            labels=labels,
            weights=arguments.weights,
            model=model,
            segmenter=partial(_segmenter, arguments),
            seed=arguments.seed,
            seconds=arguments.seconds,
            epochs=arguments.epochs,
            recipe=arguments.recipe_finetune,
            precision=arguments.precision,
            settings=tuple(arguments.set),
        )
        self.folder: EvaluationFolder = EvaluationFolder(
            arguments.output,
            _settings(arguments, _segmenter(arguments, model), dataset, labels),
            overwrite=arguments.overwrite,
            part=shard_of(arguments).suffix,
        )
        self.trials: Trials = Trials(conditions, arguments.output / "models", arguments.terminal.progress)

    def work(self, cases: Sequence[str]) -> None:
        """Score all scans of this process's share in all trials, except those scored before."""
        from ..evaluation.scoring import scan, score_scan
        from ..progress import Steps

        # Neighbours share a trial: what it takes to be made ready, training perhaps, is the work of few processes.
        share = shard_of(self._arguments).block([(trial, name) for trial in self.references for name in cases])
        steps, done = Steps(self._arguments.terminal.progress), 0
        for trial, references in self.references.items():
            own = [name for one, name in share if one == trial]
            left = [name for name in own if not self.folder.has(trial, name)]
            done += len(own) - len(left)
            if not left:
                continue
            segment = self.trials.ready(trial, references)
            for name in left:
                image, truth = scan(self._dataset, name)
                found = segment(image)
                self.folder.add(score_scan(trial, name, self._labels, truth, found.array, found.warnings))
                done += 1
                steps.at("evaluate", done, len(share))

    def is_whole(self, cases: Sequence[str]) -> bool:
        """True if all scans are scored in all trials, by this process and others; else prints how many are."""
        self.folder.refresh()
        finished = sum(self.folder.has(trial, name) for trial in self.references for name in cases)
        wanted = len(self.references) * len(cases)
        if finished == wanted:
            self.folder.write_whole()
        else:
            self._arguments.terminal.log(f"{finished} of {wanted} results are done; the last shard to finish writes the tables.")
        return finished == wanted

    def draw_worst(self) -> None:
        """Draw the results with the lowest Dice, the worst of each scan and structure; they are computed again for this."""
        from ..evaluation.scoring import scan
        from ..pictures import label_map, panels
        from ..progress import Steps
        from ..volumes.volume import Volume

        names = {1: "agreed", 2: "missed", 3: "too much"}
        colors = {1: (0.2, 0.8, 0.35), 2: (1.0, 0.75, 0.1), 3: (1.0, 0.3, 0.3)}
        wanted = {self._picture(place, score): score for place, score in enumerate(self._worst(), 1)}
        for path in set(self._arguments.output.glob("worst*.png")) - set(wanted):
            path.unlink()
        steps = Steps(self._arguments.terminal.progress)
        for number, (path, score) in enumerate(wanted.items()):
            steps.at("pictures", number, len(wanted))
            if path.exists():
                continue
            segment = self.trials.ready(score.trial, self.references[score.trial])
            image, truth = scan(self._dataset, score.case)
            a, b = truth.array == score.label, segment(image).array == score.label
            errors = Volume((a & b) + 2 * (a & ~b) + 3 * (b & ~a).astype("uint8"), truth.geometry)
            panels.write_png(path, label_map.render(image, errors, names=names, colors=colors, modality="mr"))

    def _worst(self) -> list["Score"]:
        """Of the trials of this command."""
        worst: dict[tuple[str, int], Score] = {}
        for score in self.folder.scores:
            if score.dice is not None and score.trial in self.references:
                place = score.case, score.label
                worst[place] = min(worst.get(place, score), score, key=_dice)
        return sorted(worst.values(), key=_dice)[: max(0, self._arguments.pictures)]

    def _picture(self, place: int, score: "Score") -> Path:
        label = self._dataset.label_names.get(score.label, f"label {score.label}").replace(" ", "_").replace("/", "_")
        where = f"{score.case}_{label}_{score.method}_{score.shots}shot_draw{score.draw}"
        return self._arguments.output / f"worst{place}_{where}_{score.dice:.2f}.png"


def _dice(score: "Score") -> float:
    return score.dice or 0.0


def _segmenter(arguments: argparse.Namespace, model: "Model") -> "Segmenter":
    from ..inference.segmenter import Segmenter

    return Segmenter(model, chosen_recipe(arguments, model.recipe), precision=arguments.precision)


def _references(arguments: argparse.Namespace, dataset: "Dataset", labels: Sequence[int]) -> dict["Trial", tuple[str, ...]]:
    """The training scans of every trial: every method after every draw; all methods get the same scans."""
    from ..data.dataset import shown_labels
    from ..evaluation.scoring import Trial, draw_scans
    from ..progress import Steps

    shown = shown_labels(dataset, dataset.splits["train"], Steps(arguments.terminal.progress))
    whole = sum(bool(values & set(labels)) for values in shown.values())
    counts = sorted({whole if shots == _ALL else shots for shots in arguments.shots})
    drawn = {shots: draw_scans(shown, labels, shots, arguments.repeats, arguments.seed) for shots in counts}
    return {
        Trial(method=method, shots=shots, draw=draw): scans
        for method in dict.fromkeys(arguments.methods)
        for shots, draws in drawn.items()
        for draw, scans in enumerate(draws)
    }


def _settings(arguments: argparse.Namespace, segmenter: "Segmenter", dataset: "Dataset", labels: Sequence[int]) -> dict[str, Any]:
    """Settings the results depend on."""
    from ..config import to_dict

    settings = {
        "weights": segmenter.model.fingerprint,
        "dataset": str(dataset.folder.resolve()),
        "split": arguments.split,
        "labels": labels,
        "seed": arguments.seed,
        "precision": arguments.precision,
        "recipe": to_dict(segmenter.recipe),
    }
    if "adapted" in arguments.methods:
        settings["seconds"] = arguments.seconds
    if set(arguments.methods) & set(_NETWORKS):
        settings |= {"epochs": arguments.epochs, "recipe_finetune": arguments.recipe_finetune, "set": sorted(arguments.set)}
    return settings


def _write_tables(arguments: argparse.Namespace, dataset: "Dataset", bench: _Bench) -> None:
    """Write the tables in three forms, and print them."""
    from ..evaluation.tables import Row, as_csv, layout, markdown, means, table
    from ..files import write_bytes, write_json

    trials = dict.fromkeys(score.trial for score in bench.folder.scores)
    records = {trial: made for trial in trials if (made := bench.trials.record(trial)) is not None}
    rows = table(bench.folder.scores, dataset.label_names)
    cells = means(bench.folder.scores, {trial: made.seconds for trial, made in records.items()})
    text = f"{layout(cells, dataset.name)}\n{markdown(rows)}"
    record = {
        "made_by": f"mass {__version__}",
        "weights": str(arguments.weights),
        "dataset": dataset.name,
        **{name: getattr(arguments, name) for name in ("split", "repeats", "seed")},
        "means": [asdict(cell) for cell in cells],
        "rows": [asdict(row) for row in rows],
        "trials": [{**asdict(trial), **asdict(made)} for trial, made in records.items()],
    }
    write_bytes(arguments.output / "summary.csv", as_csv(rows, Row).encode())
    write_json(arguments.output / "summary.json", record)
    write_bytes(arguments.output / "summary.md", text.encode())
    arguments.terminal.result(text, **record)

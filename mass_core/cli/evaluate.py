"""mass evaluate: how well structures are found in scans whose labels are known."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import InputError
from ..outputs import check_free, folders_ready
from . import self_reference
from .options import add_decision, add_preparation, add_weights, chosen_recipe, load

if TYPE_CHECKING:
    from ..dataset import Dataset
    from ..evaluation import Score
    from ..segmenter import Segmenter
    from ..task import Task

_FILES = ("scores.csv", "summary.csv", "summary.json", "summary.md")


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="Dice and distances on a prepared dataset with labels",
        description="References are drawn among the training scans, for each structure by itself. DIR receives scores.csv (every scan), "
        "summary.csv, summary.json and summary.md (every structure), and pictures of the worst results.",
    )
    add_weights(parser)
    parser.add_argument("--dataset", required=True, type=Path, metavar="DIR", help="what mass prepare wrote, with --labels")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="scans to judge (default: %(default)s)")
    parser.add_argument("--shots", nargs="+", type=int, default=[1], metavar="K", help="references for a task (default: 1)")
    parser.add_argument("--repeats", type=int, default=1, metavar="R", help="draws of references (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)")
    parser.add_argument("--labels", nargs="+", type=int, metavar="N", help="structures (default: all named in the dataset)")
    parser.add_argument("--cases", type=int, metavar="N", help="only the first so many scans")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--pictures", type=int, default=4, metavar="N", help="of the worst results (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of another run")
    parser.add_argument("--self-reference", action="store_true", help="only: each scan with itself, turned and changed, as its reference")
    add_preparation(parser)
    add_decision(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Learn, segment, judge and write."""
    from ..dataset import Dataset

    if min([*arguments.shots, arguments.repeats]) < 1:
        raise InputError(f"--shots {arguments.shots}, --repeats {arguments.repeats}.", "Both must be at least 1.")
    check_free([arguments.output / name for name in _FILES], overwrite=arguments.overwrite)
    dataset = Dataset.read(arguments.dataset)
    cases = dataset.splits[arguments.split][: arguments.cases]
    if not cases:
        raise InputError(f"{arguments.dataset} has no scans in its split {arguments.split}.", "Choose another --split.")
    labels = arguments.labels or sorted(dataset.label_names)
    if not labels:
        raise InputError(f"{arguments.dataset} names no labels.", "Say which with --labels N...")
    if arguments.self_reference:
        return self_reference.run(arguments, dataset, cases, labels)
    with folders_ready([arguments.output / _FILES[0]]):
        segmenter, tasks = _learned(arguments, dataset, labels)
        scores = _scores(arguments, dataset, segmenter, tasks, cases)
        _tell(arguments, dataset, scores)
    return 0


def _learned(arguments: argparse.Namespace, dataset: "Dataset", labels: Sequence[int]) -> tuple["Segmenter", dict[int, list["Task"]]]:
    """The segmenter, and for each number of references a task for each draw."""
    from ..evaluation import learn, segmenter_for
    from ..segmenter import Segmenter

    model = load(arguments)
    recipe = chosen_recipe(arguments, model.recipe, name=arguments.recipe)
    segmenter = segmenter_for(Segmenter(model, recipe, precision=arguments.precision), dataset)
    counts = sorted(set(arguments.shots))
    tasks = {}
    for number, shots in enumerate(counts):
        arguments.terminal.progress("encode", number / len(counts), None)
        tasks[shots] = learn(dataset, segmenter, labels, shots, arguments.repeats, arguments.seed)
    return segmenter, tasks


def _scores(
    arguments: argparse.Namespace, dataset: "Dataset", segmenter: "Segmenter", tasks: dict[int, list["Task"]], cases: Sequence[str]
) -> list["Score"]:
    """Of all cases; the table of scans is written anew after each, so that little is lost where a run ends early."""
    from ..atomic import write_bytes
    from ..evaluation import Score, as_csv, evaluate
    from ..progress import Steps

    steps = Steps(arguments.terminal.progress)
    worst = _Worst(max(0, arguments.pictures))
    scores: list[Score] = []
    for number, some in enumerate(evaluate(dataset, segmenter, cases, tasks, worst.look), 1):
        scores += some
        write_bytes(arguments.output / "scores.csv", as_csv(scores, Score).encode())
        steps.at("evaluate", number, len(cases))
    worst.draw(arguments.output, dataset)
    return scores


class _Worst:
    """The results with the least Dice, kept for pictures."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[float, str, int, Any, Any]] = []

    def look(self, scores: Sequence["Score"], image: Any, truth: Any, found: Any) -> None:
        """Keep what is worse than what is kept; of a scan and a structure the worst only."""
        for score in scores:
            before = next((kept for kept in self._kept if kept[1:3] == (score.case, score.label)), None)
            if score.dice is None or (before is not None and before[0] <= score.dice):
                continue
            rivals = [one for one in self._kept if one is not before]
            if len(rivals) < self._count or score.dice < rivals[-1][0]:
                kept = [*rivals, (score.dice, score.case, score.label, image, _errors(truth, found, score.label))]
                self._kept = sorted(kept, key=lambda one: one[0])[: self._count]

    def draw(self, folder: Path, dataset: "Dataset") -> None:
        """Write the pictures."""
        from ..picture import draw

        names = {1: "agreed", 2: "missed", 3: "too much"}
        colors = {1: (0.2, 0.8, 0.35), 2: (1.0, 0.75, 0.1), 3: (1.0, 0.3, 0.3)}
        for place, (score, case, value, image, errors) in enumerate(self._kept, 1):
            label = dataset.label_names.get(value, f"label {value}").replace(" ", "_").replace("/", "_")
            draw(folder / f"worst{place}_{case}_{label}_{score:.2f}.png", image, errors, names=names, colors=colors, modality="mr")


def _errors(truth: Any, found: Any, label: int) -> Any:
    """Where a structure was found rightly (1), missed (2), found too much (3)."""
    from ..volume import Volume

    a, b = truth.array == label, found == label
    return Volume((a & b) + 2 * (a & ~b) + 3 * (b & ~a).astype("uint8"), truth.geometry)


def _tell(arguments: argparse.Namespace, dataset: "Dataset", scores: list["Score"]) -> None:
    """Tables in three forms."""
    from ..atomic import write_bytes
    from ..evaluation import Row, as_csv, markdown, table

    rows = table(scores, dataset.label_names)
    text = markdown(rows)
    record = {
        "made_by": f"mass {__version__}",
        "weights": str(arguments.weights),
        "dataset": dataset.name,
        **{name: getattr(arguments, name) for name in ("split", "repeats", "seed")},
        "rows": [asdict(row) for row in rows],
    }
    write_bytes(arguments.output / "summary.csv", as_csv(rows, Row).encode())
    write_bytes(arguments.output / "summary.json", json.dumps(record, indent=1).encode())
    write_bytes(arguments.output / "summary.md", text.encode())
    arguments.terminal.result(text, **record)

"""Runs that fill the cells of the paper's tables: commands, each with a folder of its own, and what they need.

A run is known by its folder below `--output`, so tables share what they have in common.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mass_core.weights.published import PUBLISHED

from . import work
from .inputs import DATA, LABELS, UPSTREAM, Data, Need, is_prepared

IRIS = ("episodes.expert_share=1", "episodes.pair_share=1")
"""Settings of pretraining with experts' label maps, the reference from another patient, as Iris is trained."""
RESNET = "model.encoder=resnet152"
"""Setting of the other image encoder of table 4c."""
FROM_CHANCE = ("random_encoder=true", "encoder_rate=5e-4")
"""Settings of classification with all parameters trained, at the rate the paper gives for the classifier."""
SAM2_WEIGHTS = "sam2.1_hiera_large"
_SEEDED = ("masks", "datasets", "pretrain", "classify")
"""Kinds of runs that take --seed; evaluations have their own for each draw."""


@dataclass(frozen=True)
class Run:
    """A command and its folder."""

    name: str
    """Folder below the output; its first part is the kind of run."""
    words: tuple[str, ...]
    """The command: `mass` or a module, then its arguments."""
    after: tuple["Run", ...] = ()
    needs: tuple[Need, ...] = ()
    tflop: float = 0.0

    @property
    def kind(self) -> str:
        """masks, datasets, pretrain, evaluate, classify, statistics, scans, pictures or speed."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Part:
    """A file or folder on a command line, and what must be there before."""

    word: str
    name: str
    """In folders of runs."""
    after: tuple[Run, ...] = ()
    needs: tuple[Need, ...] = ()
    network: str = "paper"
    """Of weights, to count work."""


@dataclass(frozen=True)
class Cell:
    """A number of a table: the mean over runs, then over draws."""

    row: str
    column: str
    draws: tuple[tuple[Run, ...], ...]
    field: str = "dice"
    """Of the outcome of a run."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them."""
        return tuple(run for draw in self.draws for run in draw)


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Makes runs.

    Args:
        data: folder of the datasets, as published or prepared.
        output: folder of all runs.
        recipe: named configuration of pretraining, finetuning and classification.
        masks: method of `mass masks`, except where methods are compared.
        mass: weights taken for MASS instead of large-scale pretraining.
        upstream: datasets of the large-scale pretraining.
        draws: repetitions of a cell, with other labelled scans.
        seed: of all runs that draw; draws of labelled scans count on from it. None: 0 of those, the recipe's of trainings.
        more: options added to commands, by kind of run.
    """

    data: Path
    output: Path
    recipe: str = "paper"
    masks: str = "sam2"
    mass: str | None = None
    upstream: tuple[str, ...] = UPSTREAM
    draws: int = 3
    seed: int | None = None
    more: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def run(self, name: str, words: Iterable[object], *parts: Part, needs: Sequence[Need] = (), tflop: float = 0.0) -> Run:
        """A run that takes some parts."""
        after = tuple(run for part in parts for run in part.after)
        needed = tuple(need for part in parts for need in part.needs)
        kind = name.partition("/")[0]
        seed = ("--seed", str(self.seed)) if self.seed is not None and kind in _SEEDED else ()
        whole = (*map(str, words), *seed, *self.more.get(kind, ()))
        return Run(name, whole, after, (*needed, *needs), tflop)

    def labelled(self, name: str) -> Part:
        """A dataset with label maps, prepared by the user or by a run."""
        data = DATA.get(name, Data(title=name, source="a dataset of your own, made by mass prepare"))
        if is_prepared(self.data / name) or not data.kind:
            return Part(str(self.data / name), name, needs=(Need(data.title, self.data / name, data.source),))
        return self._prepared(name, name, ())

    def masked(self, name: str, masks: Run | None = None) -> Part:
        """A dataset with class-agnostic masks: those of a run, else those the user prepared, else those of the planner's method."""
        if masks is None and (is_prepared(self.data / name) or name not in DATA):
            return self.labelled(name)
        masks = masks or self.masks_of(name)
        return self._prepared(masks.name.partition("/")[2], name, ("--masks", self.output / masks.name), masks)

    def masks_of(self, name: str, method: str = "", label: str = "", options: Sequence[str] = ()) -> Run:
        """Class-agnostic masks of a dataset as published.

        Args:
            name: of the dataset.
            method: of `mass masks`; empty: the planner's.
            label: distinguishes sets of options in the name of the folder.
            options: more of `mass masks`.
        """
        data, method = DATA[name], method or self.masks
        words: list[object] = ["mass", "masks", *self._scans(name), "--output", self.output / "masks" / f"{name}_{label or method}"]
        words += ["--method", method, "--picture", *options]
        needs = [self._published(name)]
        if method == "sam2":
            words += ["--profile", data.profile]
            needs.append(Need(SAM2_WEIGHTS))
        if method == "labels":
            made = self.data / f"{name}_totalsegmentator"
            words += ["--labels", made]
            needs.append(Need(f"{data.title} segmented by TotalSegmentator", made, "https://github.com/wasserth/TotalSegmentator"))
        tflop = work.SAM2 * data.scans if method == "sam2" else 0.0
        return self.run(f"masks/{name}_{label or method}", words, needs=needs, tflop=tflop)

    def pretrained(self, name: str, parts: Sequence[Part], method: str = "mass", settings: Sequence[str] = ()) -> Part:
        """Weights pretrained on some datasets with masks.

        Args:
            name: of the weights, in the names of runs.
            parts: the datasets.
            method: mass, or one of `training.baselines`.
            settings: that change the recipe.
        """
        folder = self.output / "pretrain" / name
        words: list[object] = ["training.pretrain" if method == "mass" else "training.baselines", "--recipe", self.recipe]
        words += ["--data", *(part.word for part in parts)] if parts else []
        file = folder / ("last.safetensors" if method == "mass" else "weights.safetensors")
        words += ["--output", folder, "--resume", "auto"] if method == "mass" else ["--output", file, "--method", method]
        changes = [*(["validate_every=0"] if method == "mass" else []), *settings]
        words += ["--set", *changes] if changes else []
        other = RESNET in settings
        tflop = work.STEPS * work.BATCH * work.PRETRAIN["resnet152" if other else method]
        run = self.run(f"pretrain/{name}", words, *parts, tflop=tflop)
        return Part(str(file), name, (run,), network="resnet152" if other else "paper")

    def weights(self, key: str, corpus: Sequence[str], corpus_name: str = "") -> Part:
        """Weights a row of a table is about.

        Args:
            key: published weights, mass, iris, or a method of `training.baselines`.
            corpus: names of the datasets for those that are pretrained here.
            corpus_name: in the names of runs (default: of the only dataset).
        """
        if key in PUBLISHED:
            return Part(key, key, needs=(Need(key),), network=PUBLISHED[key].encoder)
        if key == "none":
            return self.pretrained("none", (), "none")
        if key == "mass" and corpus_name == "upstream" and self.mass:
            return Part(self.mass, f"mass_{Path(self.mass).stem}", needs=(Need(self.mass),))
        parts = [self.masked(one) for one in corpus]
        name = f"{key}_{corpus_name or parts[0].name}"
        return self.pretrained(name, parts, settings=IRIS) if key == "iris" else self.pretrained(name, parts, key)

    def segmented(self, row: str, column: str, weights: Part, method: str, datasets: Sequence[str], shots: str) -> Cell:
        """Dice of a method of `mass evaluate`, mean over some datasets."""
        draws = tuple(tuple(self._evaluated(weights, method, name, shots, draw) for name in datasets) for draw in range(self.draws))
        return Cell(row, column, draws)

    def classified(self, row: str, column: str, weights: Part, task: str, percent: str, *, full: bool = False) -> Cell:
        """AUC of a classifier: on a frozen encoder, or with everything learned from chance."""
        labels = LABELS[task]
        place = self.data / labels.folder
        table = Need(labels.title, place / labels.table, labels.source)
        name = f"classify/{task}/{'scratch' if full else weights.name}/{percent}-percent"
        words = ["training.classify", "--weights", weights.word, "--labels", place / labels.table, "--images", place / "images"]
        words += ["--output", self.output / name, "--recipe", self.recipe, "--resume", "auto", "--full" if full else "--frozen"]
        words += ["--set", f"train_share={int(percent) / 100:g}", *(FROM_CHANCE if full else [])]
        train = labels.scans[0] * int(percent) / 100
        passes = 3 * work.EPOCHS * train if full else train + labels.scans[1] - labels.scans[0]
        run = self.run(name, words, weights, needs=[table], tflop=passes * work.ENCODE[weights.network])
        return Cell(row, column, ((run,),), "auc")

    def _evaluated(self, weights: Part, method: str, dataset: str, shots: str, draw: int) -> Run:
        part, data = self.labelled(dataset), DATA.get(dataset, Data(title=dataset))
        name = f"evaluate/{dataset}/{weights.name}_{method}/{shots}-shot/draw{draw}"
        words: list[object] = ["mass", "evaluate", "--weights", weights.word, "--dataset", part.word, "--methods", method, "--shots", shots]
        words += ["--seed", (self.seed or 0) + draw, "--pictures", 0, "--output", self.output / name]
        words += ["--labels", *data.labels] if data.labels else []
        crop = work.TUNE[weights.network]
        tflop = data.scans * work.EVALUATED * work.WINDOWS * crop / 3
        if method != "in-context":
            words += ["--recipe-finetune", self.recipe]
            tflop += work.TUNING * crop
        return self.run(name, words, weights, part, tflop=tflop)

    def _prepared(self, name: str, dataset: str, masks: Sequence[object], *after: Run) -> Part:
        folder, shares = self.output / "datasets" / name, DATA[dataset].shares
        words = ["mass", "prepare", *self._scans(dataset), "--output", folder, *masks, "--shares", *(f"{share:g}" for share in shares)]
        run = self.run(f"datasets/{name}", words, Part("", "", after), needs=[self._published(dataset)])
        return Part(str(folder), name, (run,))

    def _scans(self, name: str) -> list[object]:
        data = DATA[name]
        return [self._place(name), "--dataset-kind", data.kind, *(["--modality", data.modality] if data.modality else [])]

    def _place(self, name: str) -> Path:
        """Folder of the scans as published; beside a prepared dataset of that name it has a longer one."""
        folder = DATA[name].folder or name
        return self.data / (f"{folder}_published" if is_prepared(self.data / folder) else folder)

    def _published(self, name: str) -> Need:
        return Need(f"{DATA[name].title} as published", self._place(name), DATA[name].source)

"""Fits what is known about alignment on validation patients: how far it can be trusted, and how it adds up with the network.

    python -m Testing.benchmarks.fit_alignment --data headneck_ct hippocampus_mr --weights small --references 6 --targets 6

Each folder holds images/, labels/ and split.json with `labels`, `train` and `val`. References come from `train`, targets from `val`; the
split `test` is never read. References of one folder are also aligned with targets of the others: there nothing is to be found. Prints the
constants of `mass_core/alignment/prior.py` and `Recipe.fusion`.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

from mass_core import Segmenter
from mass_core.alignment.align import Target, align
from mass_core.alignment.atlas import Atlas, make_atlas
from mass_core.alignment.prior import _WEIGHTS, Evidence, combined, evidence
from mass_core.config import Recipe
from mass_core.evaluation.metrics import dice
from mass_core.volumes.volume import slices

from .one_shot import Collection

_EVERY = 7
"""Of the voxels in a prior's box one in so many is used."""


@dataclass(frozen=True)
class Sample:
    """One structure after one reference in one target."""

    group: str
    facts: Evidence
    dice: float
    terms: np.ndarray | None = None
    """[N,4] distance, trust left open: distance, log odds of the network, truth, share."""


def gather(collections: Sequence[Collection], references: int, targets: int, segmenter: Segmenter | None, seed: int) -> Iterator[Sample]:
    """Every structure of every pair; Dice 0 where reference and target are of different collections."""
    recipe = segmenter.recipe if segmenter else Recipe(ct_clip_hu=(-500.0, 500.0))
    atlases = {collection.folder.name: list(_atlases(collection, references, recipe, seed)) for collection in collections}
    for mine, theirs in itertools.product(collections, collections):
        few = slice(None) if mine is theirs else slice(2)
        for case in theirs.splits["val"][:targets][few]:
            image, labels = theirs.case(case)
            target = Target(image, recipe, torch.device("cpu"))
            for name, atlas in atlases[mine.folder.name][few]:
                found = align(atlas, target)
                print(
                    mine.folder.name,
                    name,
                    theirs.folder.name,
                    case,
                    "no alignment" if found is None else f"{found.residual:.4f}",
                    flush=True,
                )
                if found is None:
                    continue
                for value in atlas.distances:
                    truth = labels.array == value if mine is theirs else np.zeros(labels.array.shape, bool)
                    prior = combined([found], value, image.geometry, (0, 0, 0, 0))
                    if prior is None or (mine is theirs and not truth.any()):
                        continue
                    overlap = dice(prior.distance > 0, truth[slices(prior.box)]) * bool(truth.any())
                    yield Sample(f"{mine.folder.name} in {theirs.folder.name}", evidence(found, value), float(overlap))


def _atlases(collection: Collection, count: int, recipe: Recipe, seed: int) -> Iterator[tuple[str, Atlas]]:
    """References that show every structure, by chance."""
    made = 0
    for name in map(str, np.random.default_rng(seed).permutation(collection.splits["train"])):
        image, labels = collection.case(name)
        if set(collection.labels) <= set(np.unique(labels.array)):
            yield name, make_atlas(image, labels, list(collection.labels), recipe, torch.device("cpu"))
            made += 1
        if made == count:
            return


def logistic(design: np.ndarray, truth: np.ndarray, weight: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """Weights of a logistic regression, the offset first; columns are scaled for the ridge."""
    scale = design.std(0) + 1e-9
    columns = np.column_stack([np.ones(len(design)), design / scale])
    weight = weight / weight.sum()

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        score = columns @ w
        chance = 1 / (1 + np.exp(-np.clip(score, -30, 30)))
        value = -(weight * (truth * np.log(chance + 1e-12) + (1 - truth) * np.log(1 - chance + 1e-12))).sum() + ridge * (w[1:] ** 2).sum()
        return float(value), columns.T @ (weight * (chance - truth)) + 2 * ridge * np.r_[0, w[1:]]

    found = minimize(loss, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B").x
    return np.r_[found[0], found[1:] / scale]


def fit_trust(samples: Sequence[Sample]) -> None:
    """Print the weights of the evidence, groups counted alike, with what they would have said."""
    names = list(_WEIGHTS)
    design = np.array([[asdict(sample.facts)[name] for name in names] for sample in samples])
    reached = np.array([float(np.clip((sample.dice - 0.3) / 0.4, 0, 1)) for sample in samples])
    groups = [sample.group for sample in samples]
    weight = np.array([1 / groups.count(group) for group in groups])
    found = logistic(design, reached, weight)
    said = 1 / (1 + np.exp(-(found[0] + design @ found[1:])))
    np.savez(
        "/tmp/evidence.npz",
        design=np.array([list(asdict(x.facts).values()) for x in samples]),
        dice=[x.dice for x in samples],
        group=groups,
    )
    print("_OFFSET =", round(float(found[0]), 3))
    print("_WEIGHTS =", {name: round(float(value), 3) for name, value in zip(names, found[1:], strict=True)})
    for group in dict.fromkeys(groups):
        some = np.array([g == group for g in groups])
        wrong = np.mean((said[some] >= 0.5) != (np.array([s.dice for s in samples])[some] >= 0.5))
        print(
            group,
            f"{some.sum()} structures, Dice {np.mean([s.dice for s in samples if s.group == group]):.3f}, "
            f"trust {said[some].mean():.3f}, trusted {np.mean(said[some] >= 0.5):.2f}, on the wrong side {wrong:.2f}",
        )


def main() -> None:
    """Gather, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--references", type=int, default=6)
    parser.add_argument("--targets", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    collections = [Collection.read(folder) for folder in arguments.data]
    fit_trust(list(gather(collections, arguments.references, arguments.targets, None, arguments.seed)))


if __name__ == "__main__":
    main()

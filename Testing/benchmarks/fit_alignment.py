"""Fits what is known about alignment on validation patients: how far it can be trusted, and how it adds up with the network.

    python -m Testing.benchmarks.fit_alignment --data headneck_ct hippocampus_mr --weights small --references 6 --targets 6

Each folder holds images/, labels/ and split.json with `labels`, `train` and `val`. References come from `train`, targets from `val`; the
split `test` is never read. References of one folder are also aligned with targets of the others: there nothing is to be found. Prints the
constants of `mass_core/alignment/prior.py` and `Recipe.fusion`.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

from mass_core import Segmenter, Task, Volume, load_model
from mass_core.alignment.align import Target, align
from mass_core.alignment.atlas import Atlas, make_atlas
from mass_core.alignment.fusion import evidence_terms
from mass_core.alignment.prior import LEAST_TRUST, WEIGHTS, Evidence, Prior, combined, evidence
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
    """[N,5] for some voxels the terms of `evidence_terms`, and the truth; None: the network was not asked."""


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
                task = segmenter.encode([mine.case(name)]) if segmenter and mine is theirs else None
                found = align(atlas, target)
                print(
                    mine.folder.name,
                    name,
                    theirs.folder.name,
                    case,
                    f"{found.residual:.4f}",
                    flush=True,
                )
                for value in atlas.distances:
                    truth = labels.array == value if mine is theirs else np.zeros(labels.array.shape, bool)
                    prior = combined([found], value, image.geometry, (0, 1, 1, 0, 0))
                    if prior is None or (mine is theirs and not truth.any()):
                        continue
                    overlap = float(dice(prior.distance > 0, truth[slices(prior.box)])) if truth.any() else 0.0
                    terms = _terms(segmenter, task.only([value]), image, prior, truth) if segmenter and task else None
                    yield Sample(f"{mine.folder.name} in {theirs.folder.name}", evidence(found, value), overlap, terms)


def _atlases(collection: Collection, count: int, recipe: Recipe, seed: int) -> Iterator[tuple[str, Atlas]]:
    for name in complete_references(collection, count, seed):
        yield name, make_atlas(*collection.case(name), list(collection.labels), recipe, torch.device("cpu"))


def complete_references(collection: Collection, count: int, seed: int) -> Iterator[str]:
    """Training patients that have every structure, by chance."""
    found = 0
    for name in map(str, np.random.default_rng(seed).permutation(collection.splits["train"])):
        if found < count and set(collection.labels) <= set(np.unique(collection.case(name)[1].array)):
            found += 1
            yield name


def _terms(segmenter: Segmenter, task: Task, image: Volume, prior: Prior, truth: np.ndarray) -> np.ndarray | None:
    """What both say of some voxels of a structure's box, and whether they belong to it; None where alignment is not trusted."""
    if prior.trust < LEAST_TRUST:
        return None
    result = segmenter.segment(image, task, probabilities=True, near=[prior.box])
    assert result.probabilities is not None
    probability = result.probabilities[task.labels[0].value].array[slices(prior.box)]
    size = max(1, int((prior.distance > 0).sum()))
    prior = replace(prior, sureness=float(np.sort(probability, axis=None)[-size:].mean()))
    columns = [*evidence_terms(prior, prior.distance, probability), truth[slices(prior.box)]]
    return np.stack([column.ravel()[::_EVERY] for column in columns], axis=1).astype(np.float32)


def fit_fusion(samples: Sequence[Sample], threshold: float) -> None:
    """Print the weights with the highest mean soft Dice, sets counted alike, and what alignment, network and both reach with them."""
    known = [sample for sample in samples if sample.terms is not None and sample.terms[:, 4].any()]
    tensors = [torch.from_numpy(sample.terms) for sample in known if sample.terms is not None]
    groups = [sample.group for sample in known]
    shares = [1 / groups.count(group) for group in groups]
    weights = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.03)
    for _ in range(400):
        optimiser.zero_grad()
        loss = torch.zeros(())
        for terms, share in zip(tensors, shares, strict=True):
            chance = torch.sigmoid(weights[0] + terms[:, :4] @ weights[1:])
            loss = loss - share * 2 * (chance * terms[:, 4]).sum() / (chance.sum() + terms[:, 4].sum())
        loss.backward()
        optimiser.step()
    found = weights.detach().numpy()
    # The sum shall reach the recipe's threshold where it is likelier than not, whatever a user changes that to.
    offset = float(found[0]) + float(np.log(threshold / (1 - threshold)))
    print("fusion =", [round(value, 3) for value in (offset, *map(float, found[1:]))])
    for group in dict.fromkeys(groups):
        rows = []
        for sample in known:
            if sample.group == group and sample.terms is not None:
                terms, inside = sample.terms[:, :4], sample.terms[:, 4] > 0
                said = (terms[:, 0] + terms[:, 1] > 0, terms[:, 2] + terms[:, 3] > 0, found[0] + terms @ found[1:] > 0)
                rows.append([dice(one, inside) for one in said])
        print(group, len(rows), "structures; alignment, network, both:", np.mean(rows, axis=0).round(3))


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
    names = list(WEIGHTS)
    design = np.array([[asdict(sample.facts)[name] for name in names] for sample in samples])
    reached = np.array([float(np.clip((sample.dice - 0.3) / 0.4, 0, 1)) for sample in samples])
    groups = [sample.group for sample in samples]
    own = {group: len(set(group.split(" in "))) == 1 for group in groups}
    weight = np.array([1 / groups.count(group) / list(own.values()).count(own[group]) for group in groups])
    found = logistic(design, reached, weight)
    said = 1 / (1 + np.exp(-(found[0] + design @ found[1:])))
    print("OFFSET =", round(float(found[0]), 3))
    print("WEIGHTS =", {name: round(float(value), 3) for name, value in zip(names, found[1:], strict=True)})
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
    parser.add_argument("--weights", help="also fit how the network of these weights adds up with alignment")
    parser.add_argument("--references", type=int, default=6)
    parser.add_argument("--targets", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    collections = [Collection.read(folder) for folder in arguments.data]
    segmenter = None
    if arguments.weights:
        model = load_model(arguments.weights)
        segmenter = Segmenter(model, model.recipe.changed(align="off"), precision="bfloat16")
    samples = list(gather(collections, arguments.references, arguments.targets, segmenter, arguments.seed))
    fit_trust(samples)
    if segmenter:
        fit_fusion(samples, segmenter.recipe.threshold)


if __name__ == "__main__":
    main()

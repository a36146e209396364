"""Fits what is known about alignment on validation patients: how far it can be trusted, and how it adds up with the network.

    python -m Testing.benchmarks.fit_alignment --data headneck_ct hippocampus_mr --weights small --references 6 --targets 6 --bodies 12

Each folder holds images/, labels/ and split.json with `labels`, `train` and `val`. References come from `train`, targets from `val`; the
split `test` is never read. References of one folder are also aligned with targets of the others: there nothing is to be found. Random
bodies (`training.pretrain.bodies`), two of each family, stand for what the network knows little about. Prints the constants of
`mass_core/alignment/trust.py` and `fusion.py`, and `Recipe.fusion`; `--write FILE` records the latter in a copy of the weights.
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
from mass_core.alignment import fusion as fusing
from mass_core.alignment.align import Target, align
from mass_core.alignment.atlas import make_atlas
from mass_core.alignment.fusion import NetworkEvidence, evidence_terms
from mass_core.alignment.prior import Prior, combined
from mass_core.alignment.trust import LEAST_TRUST, WEIGHTS, Evidence, evidence
from mass_core.config import Recipe
from mass_core.evaluation.metrics import dice
from mass_core.volumes.volume import Geometry
from mass_core.weights.checkpoint import save_weights
from training.pretrain.bodies import MM, body, member
from training.pretrain.synthetic import synthetic_image

from .one_shot import Collection

_EVERY = 7
"""Of the voxels in a prior's box one in so many is used."""


@dataclass(frozen=True)
class Sample:
    """One structure after one reference in one target."""

    group: str
    facts: Evidence
    dice: float
    network: "NetworkSample | None" = None
    """None: the network was not asked."""


@dataclass(frozen=True)
class NetworkSample:
    """Evidence and probabilities of the network for one structure near its aligned place."""

    facts: NetworkEvidence
    dice: float
    prior: Prior
    probability: np.ndarray
    """Float32 in the prior's box."""
    truth: np.ndarray
    """Bool, in the same box."""

    def terms(self, reliability: float) -> np.ndarray:
        """[N,5] for some voxels the terms of `evidence_terms`, and the truth."""
        prior = replace(self.prior, reliability=reliability)
        columns = [*evidence_terms(prior, prior.distance, self.probability), self.truth]
        known = ~prior.unknown(prior.distance)
        return np.stack([column[known][::_EVERY] for column in columns], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Pair:
    """A labelled reference and a target; of another group, the target shows none of the reference's structures."""

    reference: tuple[Volume, Volume]
    target: tuple[Volume, Volume]
    groups: tuple[str, str]

    @property
    def values(self) -> list[int]:
        """Labels of the reference; where the target shows the same kind of structures, those it has."""
        here, there = (set(np.unique(labels.array).tolist()) - {0} for _, labels in (self.reference, self.target))
        return sorted(here & there if self.groups[0] == self.groups[1] else here)


def pairs_of(collections: Sequence[Collection], references: int, targets: int, seed: int) -> Iterator[Pair]:
    """Training patients with validation patients of every collection; fewer where nothing is to be found."""
    names = {collection.folder.name: list(complete_references(collection, references, seed)) for collection in collections}
    for mine, theirs in itertools.product(collections, collections):
        few = slice(None) if mine is theirs else slice(2)
        for case, name in itertools.product(theirs.splits["val"][:targets][few], names[mine.folder.name][few]):
            yield Pair(mine.case(name), theirs.case(case), (mine.folder.name, theirs.folder.name))


def body_pairs(families: int, seed: int) -> Iterator[Pair]:
    """Two members of each family of random bodies, and one of each with one of the next; every third pair differs in contrast."""
    members = [tuple(_member(family, number, seed) for number in range(2)) for family in range(families)]
    for family, (reference, target) in enumerate(members):
        yield Pair(reference, target, ("bodies", "bodies"))
        yield Pair(reference, members[(family + 1) % families][1], ("bodies", "others"))


def _member(family: int, number: int, seed: int) -> tuple[Volume, Volume]:
    labels = member(body(0, np.random.default_rng((seed, family))), np.random.default_rng((seed, family, number)))
    contrast = 1000 + family + 500 * number * (family % 3 == 0)
    image = synthetic_image(labels, np.random.default_rng((seed, family, number, 1)), contrast)
    z, y, x = labels.shape
    grid = Geometry(shape_zyx=(z, y, x), spacing_xyz=(MM, MM, MM))
    # The body itself and its outermost layer are no structures anybody outlines.
    few = np.flatnonzero(np.bincount(labels.ravel(), minlength=2) > 200)
    few = few[few > 2][:10]
    return Volume(200 * image + 500, grid, modality="mr"), Volume(np.where(np.isin(labels, few), labels, 0).astype(np.uint16), grid)


def gather(pairs: Iterator[Pair], recipe: Recipe, segmenter: Segmenter | None) -> Iterator[Sample]:
    """Every structure of every pair; Dice 0 where there is nothing to be found."""
    for pair in pairs:
        (image, labels), own = pair.target, pair.groups[0] == pair.groups[1]
        atlas = make_atlas(*pair.reference, pair.values, recipe, torch.device("cpu")) if pair.values else None
        if atlas is None:
            continue
        task = _learned(segmenter, pair) if segmenter and own else None
        target = Target(image, recipe, torch.device("cpu"))
        found = align(atlas, target)
        print(*pair.groups, f"{found.residual:.4f}", flush=True)
        for value in atlas.distances:
            truth = labels.array == value if own else np.zeros(labels.array.shape, bool)
            prior = combined([found], value, target, (0, 1, 1, 0, 0))
            if prior is None:
                continue
            overlap = float(dice(prior.distance > 0, truth[prior.box.slices()])) if truth.any() else 0.0
            network = _asked(segmenter, task.only([value]), image, prior, truth) if segmenter and task else None
            yield Sample(" in ".join(pair.groups), evidence(found, value), overlap, network)


def _learned(segmenter: Segmenter, pair: Pair) -> Task:
    """The task of a reference, with what alignment needs to know of the network."""
    fusion = segmenter.recipe.fusion or (0.0, 1.0, 1.0, 0.0, 0.0)
    return segmenter.with_recipe(segmenter.recipe.changed(align="auto", fusion=fusion)).encode([pair.reference], pair.values)


def complete_references(collection: Collection, count: int, seed: int) -> Iterator[str]:
    """Training patients that have every structure, by chance."""
    found = 0
    for name in map(str, np.random.default_rng(seed).permutation(collection.splits["train"])):
        if found < count and set(collection.labels) <= set(np.unique(collection.case(name)[1].array)):
            found += 1
            yield name


def _asked(segmenter: Segmenter, task: Task, image: Volume, prior: Prior, truth: np.ndarray) -> NetworkSample | None:
    """Evidence and probabilities of the network in a structure's box, with the truth; None where alignment is not trusted."""
    if prior.trust < LEAST_TRUST:
        return None
    result = segmenter.segment(image, task, probabilities=True, near=[prior.box])
    assert result.probabilities is not None
    probability = result.probabilities[task.labels[0].value].array[prior.box.slices()]
    aligned, found, inside = prior.distance > 0, probability >= segmenter.recipe.threshold, truth[prior.box.slices()]
    sure = float(np.sort(probability, axis=None)[-max(1, int(aligned.sum())) :].mean())
    facts = NetworkEvidence(task.labels[0].self_dice or 0.0, sure, float(dice(aligned, found)) if aligned.any() else 0.0)
    return NetworkSample(facts, float(dice(found, inside)) if inside.any() else 0.0, prior, probability, inside)


def fit_reliability(samples: Sequence[Sample]) -> list[float]:
    """Print the weights of the evidence of how well the network does, sets counted alike; the estimate for each sample with a network."""
    known = [sample for sample in samples if sample.network]
    facts = [asdict(sample.network.facts) for sample in known if sample.network]
    design = np.array([[one[name] for name in fusing.WEIGHTS] for one in facts])
    reached = np.array([sample.network.dice for sample in known if sample.network])
    groups = [sample.group for sample in known]
    found = logistic(design, reached, np.array([1 / groups.count(group) for group in groups]))
    said = 1 / (1 + np.exp(-(found[0] + design @ found[1:])))
    print("network: OFFSET =", round(float(found[0]), 3))
    print("network: WEIGHTS =", {name: round(float(value), 3) for name, value in zip(fusing.WEIGHTS, found[1:], strict=True)})
    print(f"network: correlation {np.corrcoef(said, reached)[0, 1]:.3f}, mean error {np.abs(said - reached).mean():.3f}")
    return [float(value) for value in said]


def fit_fusion(samples: Sequence[Sample], threshold: float) -> tuple[float, ...]:
    """Print and return the weights with the highest mean soft Dice, sets counted alike, with what alignment, network and both reach."""
    asked = [sample for sample in samples if sample.network]
    voxels = [sample.network.terms(worth) for sample, worth in zip(asked, fit_reliability(samples), strict=True) if sample.network]
    tensors = [torch.from_numpy(terms) for terms in voxels if terms[:, 4].any()]
    groups = [sample.group for sample, terms in zip(asked, voxels, strict=True) if terms[:, 4].any()]
    shares = [1 / groups.count(group) for group in groups]
    weights = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.1], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.03)
    for _ in range(400):
        optimiser.zero_grad()
        loss = torch.zeros(())
        for terms, share in zip(tensors, shares, strict=True):
            # Neither may speak against what it sees.
            chance = torch.sigmoid(weights[0] + terms[:, :4] @ weights[1:].clamp(min=0))
            loss = loss - share * 2 * (chance * terms[:, 4]).sum() / (chance.sum() + terms[:, 4].sum())
        loss.backward()
        optimiser.step()
    found = np.asarray(torch.cat([weights[:1], weights[1:].clamp(min=0)]).detach())
    # The sum shall reach the recipe's threshold where it is likelier than not, whatever a user changes that to.
    offset = float(found[0]) + float(np.log(threshold / (1 - threshold)))
    fusion = (round(offset, 3), *(round(value, 3) for value in found[1:].tolist()))
    print("fusion =", list(fusion))
    for group in dict.fromkeys(groups):
        rows = []
        for own, both in zip(groups, tensors, strict=True):
            if own == group:
                terms, inside = both[:, :4].numpy(), both[:, 4].numpy() > 0
                said = (terms[:, 0] + terms[:, 1] > 0, terms[:, 2] + terms[:, 3] > 0, found[0] + terms @ found[1:] > 0)
                rows.append([dice(one, inside) for one in said])
        print(group, len(rows), "structures; alignment, network, both:", np.mean(rows, axis=0).round(3))
    return fusion


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
    """Print the weights of the evidence, groups counted alike, own sets three times as much as others, with what they would have said."""
    names = list(WEIGHTS)
    design = np.array([[asdict(sample.facts)[name] for name in names] for sample in samples])
    reached = np.array([float(np.clip((sample.dice - 0.3) / 0.4, 0, 1)) for sample in samples])
    groups = [sample.group for sample in samples]
    own = {group: len(set(group.split(" in "))) == 1 for group in groups}
    weight = np.array([(3 if own[group] else 1) / groups.count(group) / list(own.values()).count(own[group]) for group in groups])
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
    parser.add_argument("--bodies", type=int, default=0, help="families of random bodies")
    parser.add_argument("--write", type=Path, help="a copy of the weights that records the fusion")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    collections = [Collection.read(folder) for folder in arguments.data]
    segmenter, recipe = None, Recipe(ct_clip_hu=(-500.0, 500.0))
    if arguments.weights:
        model = load_model(arguments.weights)
        segmenter, recipe = Segmenter(model, model.recipe.changed(align="off"), precision="bfloat16"), model.recipe
    pairs = itertools.chain(
        pairs_of(collections, arguments.references, arguments.targets, arguments.seed), body_pairs(arguments.bodies, arguments.seed)
    )
    samples = list(gather(pairs, recipe, segmenter))
    fit_trust(samples)
    if segmenter:
        fusion = fit_fusion(samples, segmenter.recipe.threshold)
        if arguments.write:
            recorded = model.recipe.changed(fusion=fusion)
            save_weights(arguments.write, model.network, recorded, model.provenance, dtype=torch.float16, licence=model.licence)


if __name__ == "__main__":
    main()

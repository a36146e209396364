"""Estimated quality of a segmentation without ground truth: expected Dice, a flag, and reasons (docs/quality.md)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..encoding.task import Task
from ..inference.segmenter import Decision, Segmenter
from ..progress import Report, Steps
from ..volumes.volume import Volume
from .evidence import Evidence, QualityProbe, Reference

GOOD, USABLE = 0.7, 0.5
"""Expected Dice from which a result is good, and below which it is unreliable."""
_FORMULAS: tuple[dict[str, float], ...] = (
    {"": -4.46, "cycle": 1.99, "own": 2.88, "extent": -0.74, "aligned": 1.89},
    {"": -3.61, "cycle": 2.30, "own": 3.70, "extent": -1.58},
    {"": -2.48, "own": 4.48, "extent": -1.73},
    {"": -1.63, "scaled": 3.67, "extent": -2.47},
)
"""Of the logarithm of expected Dice / (1 - expected Dice), with the sum under the empty name: with references and the trust of their
alignment, with references, a task alone, fixed classes. Fitted by Testing/benchmarks/quality.py to 218 results with the weights
`20a01313426b` and alignment on validation patients (134 hippocampus MR, 84 of head-and-neck CT without larynx and oesophagus, both sets
counted alike; 48 of structures that are not there)."""
_TYPICAL = {"cycle": 0.696, "own": 0.77, "scaled": 0.785, "extent": 0.45, "aligned": 0.73}
"""Means over the same results, for what is not known."""
_STRANGE = 2.0
"""Ratio of volumes, or of extents, from which it is reported."""
_FAR = 0.75
"""Extents away from the expected place from which it is reported."""
_LOW = {"cycle": 0.4, "own": 0.6, "scaled": 0.6}
"""Dice below which it is reported."""
_NOTHING = "Nothing was found: the scan may not show the structure, or the network missed it."
_ABSENT = "The scan may not show the structure at all."
"""Reason where the network, with the result as its reference, finds something else in its own scan and in those of the references."""
_SLIGHT = "No single measure is abnormal, but self-consistency is lower than in good results."


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Estimated quality of one label; None: not known."""

    expected_dice: float | None
    """None: nothing was found."""
    flag: Literal["good", "check", "unreliable"]
    reasons: tuple[str, ...] = ()
    """Reasons to doubt the result, a sentence each."""
    cycle: float | None = None
    """Cycle consistency: mean Dice with the references' own masks when the result is the reference and their scans are the targets."""
    agreement: float | None = None
    """Dice of the result with what is found after itself as the reference or, by fixed classes, at a coarser working spacing."""
    volume_ratio: float | None = None
    """Volume over the mean of the references."""
    extent_ratio: float | None = None
    """Of the extents along the patient's axes over those in the references the one furthest from 1."""

    def text(self) -> str:
        """One line for people."""
        expected = "" if self.expected_dice is None else f", expected Dice {self.expected_dice:.2f}"
        return " ".join([f"{self.flag}{expected}.", *self.reasons])

    def to_json(self) -> dict[str, Any]:
        """As JSON values, rounded."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def assess(
    segmenter: Segmenter,
    task: Task,
    target: Volume,
    found: Volume,
    references: Sequence[Reference] | None = None,
    *,
    decisions: Mapping[int, Decision] | None = None,
    progress: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[int, Quality]:
    """Estimate the quality of a result.

    Args:
        segmenter: with the weights and the recipe of the result.
        task: what was looked for.
        target: the scan.
        found: label map, as a rule of `segmenter.segment`; another grid than the target's is resampled by position.
        references: images with label maps the task was learned from; None: the cycle is left out.
        decisions: of the segmentation, by label; None: of a label map from elsewhere.
        progress: called for every inference, as stage `assess`.
        cancelled: called between windows; true stops the run.

    Returns:
        The quality of every label of the task, by value.

    Raises:
        MassError: if the label map holds labels, but none of the task's, or a scan or the memory does not serve.
        Cancelled: if `cancelled` said so.
    """
    probe = QualityProbe(segmenter, task, target, found, cancelled)
    known = probe.gather(references or [], Steps(progress, cancelled))
    known = {value: with_decision(evidence, (decisions or {}).get(value)) for value, evidence in known.items()}
    return {label.value: quality_from(known[label.value], several=label.references > 1) for label in task.labels}


def with_decision(evidence: Evidence, decision: Decision | None) -> Evidence:
    """Evidence with what alignment said when the label was decided."""
    if decision is None or (decision.trust is None and not decision.reason):
        return evidence
    return replace(evidence, aligned=decision.trust or 0.0)


def quality_from(evidence: Evidence, *, several: bool = False) -> Quality:
    """The quality computed from evidence; `several`: there was more than one reference."""
    if not evidence.ml:
        return Quality(expected_dice=None, flag="check", reasons=(_NOTHING,))
    expected = expected_dice(evidence)
    return Quality(
        expected_dice=expected,
        flag="good" if expected >= GOOD else "check" if expected >= USABLE else "unreliable",
        reasons=tuple(_reasons(evidence, "references" if several else "reference")) or ((_SLIGHT,) if expected < GOOD else ()),
        cycle=evidence.cycle,
        agreement=evidence.scaled if evidence.own is None else evidence.own,
        volume_ratio=evidence.volume_ratio,
        extent_ratio=evidence.extent_ratio,
    )


def expected_dice(evidence: Evidence) -> float:
    """The Dice to be expected of a label that was found, from 0 to 1."""
    known = {name: _TYPICAL[name] if value is None else value for name, value in signs(evidence).items()}
    if evidence.cycle is not None:
        formula = _FORMULAS[1 if evidence.aligned is None else 0]
    else:
        formula = _FORMULAS[3 if evidence.own is None else 2]
    total = formula[""] + sum(weight * known[name] for name, weight in formula.items() if name)
    return 1 / (1 + math.exp(-total))


def signs(evidence: Evidence) -> dict[str, float | None]:
    """Inputs of the formula for the expected Dice; None: not known. Volume and position added nothing to it."""
    return {
        "cycle": evidence.cycle,
        "own": evidence.own,
        "scaled": evidence.scaled,
        "extent": _strangeness(evidence),
        "aligned": evidence.aligned,
    }


def _strangeness(evidence: Evidence) -> float | None:
    """Absolute log ratio of the extents to those in the references; None: not known, or smaller because the scan cuts the label off."""
    if evidence.extent_ratio is None or (evidence.cut and evidence.extent_ratio < 1):
        return None
    return abs(math.log(evidence.extent_ratio))


def _reasons(evidence: Evidence, references: str) -> Iterator[str]:
    """Reasons to doubt a result, in words."""
    volume, extent = evidence.volume_ratio, evidence.extent_ratio
    if evidence.cycle is not None and evidence.cycle < _LOW["cycle"]:
        yield f"With this result as reference, the network does not recover the structure in the {references} (Dice {evidence.cycle:.2f})."
    if evidence.own is not None and evidence.own < _LOW["own"]:
        yield f"With this result as reference, the network segments something else in the same scan (Dice {evidence.own:.2f})."
    if evidence.scaled is not None and evidence.scaled < _LOW["scaled"]:
        yield f"At a coarser voxel size the result differs (Dice {evidence.scaled:.2f})."
    if volume is not None and not 1 / _STRANGE <= volume <= _STRANGE:
        yield f"The structure is {volume:.2g} times as large as in the {references}."
    elif extent is not None and not 1 / _STRANGE <= extent <= _STRANGE:
        yield f"Along one direction the structure is {extent:.2g} times as long as in the {references}."
    if evidence.offset is not None and evidence.offset > _FAR:
        yield f"It lies {evidence.offset:.1f} times its own length from its position in the {references}."
    if all(value is not None and value < _LOW[name] for name, value in (("cycle", evidence.cycle), ("own", evidence.own))):
        yield _ABSENT
    if evidence.cut:
        yield "It reaches the border of the scan: a part of it may be missing."

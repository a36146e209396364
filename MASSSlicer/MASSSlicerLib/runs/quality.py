"""Estimated quality of a result for each structure (docs/quality.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

GOOD, CHECK, UNRELIABLE = "good", "check", "unreliable"
WORDS = {GOOD: _("good"), CHECK: _("check"), UNRELIABLE: _("unreliable")}
COLORS = {GOOD: "#2e9e4f", CHECK: "#e0a100", UNRELIABLE: "#d03030"}
_WORST_FIRST = (UNRELIABLE, CHECK, GOOD)


@dataclass(frozen=True)
class Quality:
    """Estimated quality of one structure in one scan."""

    flag: str
    """good, check or unreliable."""
    expected_dice: float | None
    """Overlap with what an expert would draw, 0 to 1; None: not known."""
    reasons: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Quality:
        """From the worker's reply."""
        return cls(values["flag"], values["expected_dice"], tuple(values["reasons"]))

    @property
    def rank(self) -> tuple[int, float]:
        """Sort key, the worst first."""
        return _WORST_FIRST.index(self.flag), 1.0 if self.expected_dice is None else self.expected_dice

    def text(self) -> str:
        """Text in the table."""
        return WORDS[self.flag] if self.expected_dice is None else f"{WORDS[self.flag]} {self.expected_dice:.2f}"


def worst(qualities: Mapping[str, Quality]) -> str | None:
    """Name of the structure that needs attention most; None: nothing was estimated."""
    return min(qualities, key=lambda name: qualities[name].rank, default=None)


def summary(qualities: Mapping[str, Quality]) -> str:
    """The worst quality in a word, with its structure where there are several."""
    name = worst(qualities)
    if name is None:
        return ""
    return qualities[name].text() if len(qualities) == 1 else f"{qualities[name].text()} ({name})"


def details(qualities: Mapping[str, Quality]) -> str:
    """Every structure with its reasons, a line each, the worst first."""
    ordered = sorted(qualities.items(), key=lambda item: item[1].rank)
    lines = [" ".join([f"{name}: {_expected(quality)}", *quality.reasons]) for name, quality in ordered]
    return "\n".join(lines)


def _expected(quality: Quality) -> str:
    word = WORDS[quality.flag]
    if quality.expected_dice is None:
        return _("{word}.").format(word=word)
    return _("{word}, expected Dice {dice:.2f}.").format(word=word, dice=quality.expected_dice)

"""Warnings about a result: with its label and its share, and only where it matters."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mass_core.config import Recipe
from mass_core.encoding.task import Task, TaskLabel
from mass_core.inference.segmenter import _ABSENT, Decision, Segmenter, _not_aligned, _surplus
from mass_core.outputs import serious
from mass_core.volumes.intensity import choose_modality, normalise
from mass_core.volumes.volume import Geometry, Volume


@pytest.mark.parametrize(
    ("share", "parts", "told"), [(0.02, 1, "2% of the segmented volume"), (0.41, 2, "only 2 components. Check"), (0.93, 1, "93%")]
)
def test_the_share_left_out_is_told_with_its_label(share: float, parts: int, told: str) -> None:
    label = TaskLabel(value=3, name="spleen", parts=parts, spacing_zyx=(1.0, 1.0, 1.0), tokens=())
    text = _surplus(label, share)
    assert text.startswith("spleen: ") and told in text
    assert ("Check the result" in text) == (share >= 0.4) == (serious([text]) == (text,))


def test_of_a_label_that_was_not_found_nothing_was_left_out() -> None:
    found = np.array([[[1, 1, 0, 1, 0]]], np.uint8)
    known = tuple(TaskLabel(value=value, name=f"n{value}", spacing_zyx=(1.0, 1.0, 1.0), tokens=()) for value in (1, 2))
    task = Task(labels=known, fingerprint="", weights="", recipe=Recipe(), modality="ct")
    notes = Segmenter._without_surplus(SimpleNamespace(recipe=Recipe()), found, task, Geometry(shape_zyx=found.shape))  # type: ignore[arg-type]
    assert found.tolist() == [[[1, 1, 0, 0, 0]]] and [note.partition(":")[0] for note in notes] == ["n1"]


def test_what_is_not_in_the_scan_is_a_serious_warning() -> None:
    decisions = {1: Decision(by="alignment", reason=_ABSENT), 2: Decision(by="network", reason="the references differ too much")}
    told = tuple(_not_aligned(decisions, {1: "spleen", 2: "liver"}))
    assert len(told) == 2 and serious(told) == told[:1] and told[0].startswith("Not in this scan: spleen")


@pytest.mark.parametrize("shift", [0, 24, 1024])
@pytest.mark.parametrize("given", [True, False], ids=["header", "option"])
def test_a_ct_without_values_below_zero_is_told(shift: int, given: bool) -> None:
    array = (np.arange(-1000, 1000).reshape(10, 10, 20) + 1000 + shift).astype(np.int16)
    volume = Volume(array, Geometry(shape_zyx=array.shape), "ct" if given else None)
    recipe = replace(Recipe(), modality="auto" if given else "ct")
    modality, note = choose_modality(volume, recipe)
    assert modality == "ct" and "no value below 0" in note and "1024" in note
    assert choose_modality(replace(volume, array=array - 1100), recipe) == ("ct", "")


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 1.0, 1e4])
def test_small_units_are_seen_like_others(scale: float) -> None:
    values = np.random.default_rng(0).random((8, 9, 10)).astype(np.float32)
    np.testing.assert_allclose(normalise(values * np.float32(scale), "mr", Recipe()), normalise(values, "mr", Recipe()), atol=1e-4)

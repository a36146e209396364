"""The bundled weights: size, integrity, agreement with the model card, and segmentation of unseen phantoms."""

from pathlib import Path

import pytest

from mass_core import Segmenter, Volume, load_model
from mass_core.data import phantoms
from mass_core.evaluation.metrics import dice
from mass_core.weights.store import locate

CARD = Path(__file__).resolve().parents[2] / "mass_core" / "weights" / "README.md"


@pytest.fixture(scope="module")
def small():
    return load_model("small", "cpu")


def test_file_is_small_and_the_card_is_about_it(small) -> None:
    card = CARD.read_text(encoding="utf-8")
    assert locate("small").stat().st_size <= 25e6
    assert small.fingerprint[:12] in card and small.licence in card
    assert f"{small.provenance['steps']:,} steps" in card


def test_card_tells_of_every_structure_and_the_floors() -> None:
    card = CARD.read_text(encoding="utf-8")
    for word in ("anterior hippocampus", "brainstem", "oesophagus", "mandible", "copied", "aligned", "network alone", "never taught"):
        assert word in card


@pytest.mark.parametrize(("modality", "least"), [("ct", 0.5), pytest.param("mr", 0.4, marks=pytest.mark.slow)])
def test_liver_of_a_phantom_is_found(small, modality, least) -> None:
    """Phantoms are in no training set. The reference is one person, the target another."""
    (image, truth), (target, wanted) = (phantoms.subject(seed, modality) for seed in (0, 1))
    segmenter = Segmenter(small)
    liver = Volume((truth.array == 1).astype("uint8"), truth.geometry)
    found = segmenter.segment(target, segmenter.encode([(image, liver)])).labels
    assert dice(found.array == 1, wanted.array == 1) > least

"""Positions of structures in their scan, with known answers."""

import math

import numpy as np
import pytest

from mass_core.encoding.location import Location, closeness, extent_mm, mean_triple
from mass_core.volumes.volume import Geometry

SCAN = Geometry(shape_zyx=(10, 20, 40), spacing_xyz=(1.0, 2.0, 5.0), origin_xyz=(-100.0, 30.0, 7.0))
"""40 x 40 x 50 mm."""


def test_a_place_is_counted_from_the_middle_of_the_scan() -> None:
    middle = Location.of((4.5, 9.5, 19.5), SCAN, SCAN)
    assert middle.centre_mm == pytest.approx((0, 0, 0)) and middle.scan_mm == pytest.approx((40, 40, 50))
    assert Location.of((6.5, 9.5, 9.5), SCAN, SCAN).centre_mm == pytest.approx((-10, 0, 10))


def test_the_same_place_in_a_scan_stored_otherwise() -> None:
    """x and z run the other way: the patient's left stays left."""
    flipped = Geometry(
        shape_zyx=(10, 20, 40), spacing_xyz=(1.0, 2.0, 5.0), origin_xyz=(-61.0, 30.0, 52.0), direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)
    )
    assert flipped.box_mm == pytest.approx(np.array(SCAN.box_mm))
    assert Location.of((9 - 6.5, 9.5, 39 - 9.5), flipped, flipped).centre_mm == pytest.approx((-10, 0, 10))


def test_a_mask_on_another_grid_than_the_scan() -> None:
    part = Geometry(shape_zyx=(2, 2, 2), spacing_xyz=(1.0, 2.0, 5.0), origin_xyz=(-90.0, 30.0, 7.0))
    assert Location.of((0, 0, 0), part, SCAN).centre_mm == pytest.approx(Location.of((0, 0, 10), SCAN, SCAN).centre_mm)


def test_closeness_falls_off_as_a_gaussian() -> None:
    place = Location.of((4.5, 9.5, 19.5), SCAN, SCAN)
    near = closeness(place, SCAN, 10.0)
    assert near((4.5, 9.5, 19.5)) == pytest.approx(1)
    assert near((6.5, 9.5, 19.5)) == pytest.approx(math.exp(-0.5))
    assert near((4.5, 9.5, 39.5)) == pytest.approx(math.exp(-2))


def test_places_say_nothing_without_a_distance_or_in_scans_of_another_region() -> None:
    place = Location.of((0, 0, 0), SCAN, SCAN)
    far = (9.0, 19.0, 39.0)
    assert closeness(place, SCAN, 0.0)(far) == closeness(None, SCAN, 10.0)(far) == 1
    longer = Geometry(shape_zyx=(15, 20, 40), spacing_xyz=SCAN.spacing_xyz)
    assert closeness(place, longer, 10.0)(far) == 1
    assert closeness(place, Geometry(shape_zyx=(12, 20, 40), spacing_xyz=SCAN.spacing_xyz), 10.0)(far) < 0.1


def test_the_mean_of_places() -> None:
    first, second = Location((0, 0, 0), (10, 10, 10)), Location((2, 4, -6), (20, 10, 10))
    assert Location.mean([first, second]) == Location((1, 2, -3), (15, 10, 10))


def test_places_in_scans_of_other_regions_cannot_be_compared() -> None:
    place = Location((0.0, 0.0, 0.0), (300.0, 200.0, 400.0))
    assert place.same_region(Location((90.0, 0.0, 0.0), (250.0, 250.0, 400.0)))
    assert not place.same_region(Location((0.0, 0.0, 0.0), (300.0, 200.0, 250.0)))


def test_extent_follows_the_patient_not_the_array() -> None:
    """One step of x goes to posterior, one of y to the left, one of z to superior."""
    grid = Geometry(shape_zyx=(10, 20, 30), spacing_xyz=(1.0, 2.0, 3.0), direction=(0, 1, 0, 1, 0, 0, 0, 0, 1))
    assert extent_mm(grid) == (40.0, 30.0, 30.0)
    assert mean_triple([(1.0, 2.0, 3.0), (3.0, 2.0, 5.0)]) == (2.0, 2.0, 4.0)

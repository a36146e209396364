"""Splits of cases into train, val and test, by patient."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import InputError

SPLITS = ("train", "val", "test")


def check_splits(splits: Mapping[str, Iterable[str]], patients: Mapping[str, str]) -> None:
    """Check that no patient is in two splits and that every case named exists.

    Args:
        splits: names of the cases in each split.
        patients: patient of each case.

    Raises:
        InputError: naming the patients, or the cases that do not exist.
    """
    sides: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if name not in patients:
                raise InputError(f"The split {split} names {name!r}, but there is no such case.", "Correct the list or add the scan.")
            before = sides.setdefault(patients[name], split)
            if before != split:
                raise InputError(
                    f"Patient {patients[name]!r} is in {before} and in {split}.",
                    "Put all scans of a patient in one split; otherwise results are too optimistic.",
                )


def split_by_patient(patients: Mapping[str, str], shares: Sequence[float], seed: int = 0) -> dict[str, tuple[str, ...]]:
    """Split patients into train, val and test.

    A patient's place in line is a hash of its name, so the same patients are dealt alike wherever their scans come from.

    Args:
        patients: patient of each case.
        shares: of train, val and test, sum 1.
        seed: another one deals differently.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"The shares of train, val and test are {tuple(shares)}.", "Give three numbers from 0 to 1 whose sum is 1.")
    line = sorted(set(patients.values()), key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
    ends = np.round(np.cumsum(shares) * len(line)).astype(int).tolist()
    sides = {patient: SPLITS[sum(place >= end for end in ends)] for place, patient in enumerate(line)}
    return {split: tuple(name for name in sorted(patients) if sides[patients[name]] == split) for split in SPLITS}

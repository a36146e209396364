"""Agreement of two masks."""

import numpy as np


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks of equal shape: 2 |A and B| / (|A| + |B|); not a number when both are empty."""
    a, b = first.astype(bool, copy=False), second.astype(bool, copy=False)
    size = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / size if size else float("nan")

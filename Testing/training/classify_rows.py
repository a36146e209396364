"""A table of labels for the tests of classification."""

import csv
from pathlib import Path

ROWS = [
    {"filename": f"s{n}", "label": ("ball", "plate")[n % 2], "split": split}
    for n, split in enumerate(["train"] * 8 + ["val"] * 4 + ["test"] * 4)
]
"""Eight scans to learn from, four to choose by, four to judge."""


def write_csv(path: Path, rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path

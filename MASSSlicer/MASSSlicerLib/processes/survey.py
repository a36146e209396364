"""Reads which labels label maps contain: a script for the Python that runs the worker, with mass_core on PYTHONPATH.

Reads a JSON list of files from standard input and prints a line for each: `mask` with `labels` (value, name, colour, terminology), or with
`error`. One label map is in memory at a time, and not in that of Slicer.
"""

import json
import os
import sys
from pathlib import Path

MARK = "MASSSlicer-survey "
"""Prefix of every line of ours, as libraries print lines too."""


def main() -> None:
    """Read one file after the other."""
    here = str(Path(__file__).resolve().parent)  # its files are Slicer's, and must not hide those of libraries
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") != here]
    for mask in json.load(sys.stdin):
        sys.stdout.write(f"{MARK}{json.dumps({'mask': mask, **_labels_of(mask)})}\n")
        sys.stdout.flush()


def _labels_of(mask: str) -> dict[str, object]:
    """Labels of a label map, or why they cannot be read."""
    import numpy as np

    from mass_core.errors import MassError
    from mass_core.volumes.appearance import read_appearance
    from mass_core.volumes.mask_files import read_label_map

    try:
        array = read_label_map(Path(mask)).array
    except MassError as error:
        return {"error": f"{error.message} {error.cure}".strip()}
    known = read_appearance(mask)
    styles = {int(value): known.get(int(value)) for value in np.unique(array) if value}
    return {"labels": [{"value": value, **({} if style is None else vars(style))} for value, style in styles.items()]}


if __name__ == "__main__":
    main()

"""The log a run leaves, read again."""

import json
from pathlib import Path

from mass_core.errors import InputError


def read_log(path: Path) -> dict[str, dict[int, float]]:
    """Values by name and step; of a step that was run again the last one.

    Raises:
        InputError: if there is no log.
    """
    if not path.exists():
        raise InputError(f"There is no {path}.", "Give the folder of a run.")
    values: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the line a killed run was writing
            continue
        for name, value in record.items():
            if name != "step":
                values.setdefault(name, {})[record["step"]] = value
    return values

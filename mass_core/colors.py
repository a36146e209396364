"""Names and colours of labels, and colours for labels that come without one."""

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GOLDEN = 0.618034


@dataclass(frozen=True)
class LabelStyle:
    """Name, colour and coded meaning of a label."""

    name: str
    color: tuple[float, float, float] | None = None
    """Red, green, blue from 0 to 1."""
    terminology: str = ""
    """Coded meaning, as 3D Slicer writes it."""

    @classmethod
    def of(cls, label: Mapping[str, Any], name: str = "") -> "LabelStyle":
        """The style in a label's JSON values; `name` is for one without."""
        color = label.get("color")
        return cls(label.get("name") or name, None if color is None else tuple(color), label.get("terminology") or "")


def read_color(text: str) -> tuple[float, float, float] | None:
    """Red, green and blue written as three numbers, limited to 0 to 1; None: there are not three."""
    numbers = re.findall(r"-?\d*\.?\d+(?:[eE][-+]?\d+)?", text)
    if len(numbers) != 3:
        return None
    red, green, blue = (min(1.0, max(0.0, float(number))) for number in numbers)
    return red, green, blue


def distinct(number: int) -> tuple[float, float, float]:
    """The colour of the label of this number, from 0: red, green, blue from 0 to 1; neighbours lie a golden ratio of the circle apart."""
    return colorsys.hsv_to_rgb((0.11 + _GOLDEN * number) % 1, 0.6, 0.9)

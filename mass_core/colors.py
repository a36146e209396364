"""Colours for labels that come without one."""

import colorsys

_GOLDEN = 0.618034


def distinct(number: int) -> tuple[float, float, float]:
    """The colour of the label of this number, from 0: red, green, blue from 0 to 1; neighbours lie a golden ratio of the circle apart."""
    return colorsys.hsv_to_rgb((0.11 + _GOLDEN * number) % 1, 0.6, 0.9)

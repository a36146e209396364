"""Alignment of a reference with a target: where the reference's structures lie in the target, as far as place and shape tell."""

"""Mask-guided self-supervised pretraining."""

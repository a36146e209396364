"""Masks from 2D slices: a 2D model's masks, followed through the volume and merged."""

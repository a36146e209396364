"""Masks from supervoxels and their hierarchy."""

"""Volumes: reading, geometry, resampling, preprocessing."""

"""Random views, poses and intensities."""

"""Datasets and scans on disk: finding, preparing, reading and writing them."""

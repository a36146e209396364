"""Optimisers that PyTorch lacks."""

"""Nodes of the scene to files and back."""

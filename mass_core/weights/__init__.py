"""Weights files and the store of named weights; the bundled weights lie here."""

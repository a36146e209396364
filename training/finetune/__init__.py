"""Finetuning to fixed classes."""

"""Segmenting, finetuning and features for nodes of the scene."""

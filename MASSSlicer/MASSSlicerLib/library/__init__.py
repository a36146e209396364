"""Saved tasks, models and weights."""

"""Packages the module needs: whether they are there, installing them."""

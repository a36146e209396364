"""Pieces that several commands are made of: options, the loop over scans, shares of the work, tables."""

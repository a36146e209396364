"""Metrics, quality estimates and evaluation on labelled scans."""

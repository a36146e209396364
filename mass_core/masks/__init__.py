"""Class-agnostic masks of unlabelled scans: making them, keeping them."""

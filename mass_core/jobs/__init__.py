"""What the worker does for each request."""

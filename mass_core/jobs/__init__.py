"""The use cases, one file each: the command `mass` and the worker call the same ones."""

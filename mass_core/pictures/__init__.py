"""PNG pictures of label maps, masks and features."""

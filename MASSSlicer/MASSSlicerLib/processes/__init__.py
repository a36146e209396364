"""Other processes: worker, download, survey."""

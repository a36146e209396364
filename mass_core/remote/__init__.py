"""A worker on another computer, over ssh: its lines and the files it needs share one stream. Standard library only."""

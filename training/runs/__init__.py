"""Parts common to all training runs: processes, state, folder, log."""

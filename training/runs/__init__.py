"""What all training runs share: processes, state, folder, log."""

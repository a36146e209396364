"""Pretraining and finetuning of MASS: run as `python -m training.<script>` or `torchrun -m training.<script>` from the project's root."""

import os

# Waiting threads of PyTorch sleep instead of spinning; has to be said before PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

"""Arithmetic of the paper's runs, and the GPU hours that follow.

Operations were counted by PyTorch on tensors without contents (`Testing/training/test_reproduce_work.py` does so again); a
multiplication and an addition are two. Hours assume that an H100 does 4 % of its 989 TFLOP a second in bfloat16, what the paper's own
inference reaches (docs/training.md); optimisers, loading and validation are not counted.
"""

RATE = 0.04 * 989e12
"""Operations a second."""
PRETRAIN = {"mass": 10.5, "resnet152": 8.5, "mae": 8.0, "s3d": 8.7, "mg": 8.0, "simclr": 4.0, "none": 0.0}
"""TFLOP of a sample, forwards and backwards: two views of 128³ voxels, 13 masks. `resnet152` is MASS with that encoder."""
TUNE = {"paper": 8.0, "resnet152": 7.2, "openmind": 17.3, "suprem-unet": 10.4, "merlin": 7.3, "anatomix": 1.8}
"""TFLOP of a crop, forwards and backwards, in the window of each network, 13 classes."""
ENCODE = {"paper": 0.75, "resnet152": 0.46, "openmind": 1.1, "suprem-unet": 0.61, "merlin": 0.46, "anatomix": 0.11}
"""TFLOP of the image encoder for an input of 96 x 128 x 192 voxels, forwards."""
SAM2 = 31_500.0
"""TFLOP of SAM2's masks of one CT: the middle of what docs/masks.md counts."""
WINDOWS = 30
"""Windows of a scan, assumed."""
EVALUATED = 0.2
"""Share of the scans that is evaluated (section 7.5)."""
STEPS, BATCH = 100_000, 32
"""Of pretraining by the recipe `paper`."""
TUNING = 50 * 100 * 4
"""Crops of finetuning by the recipe `paper`, without early stopping."""
EPOCHS = 50
"""Of classification by the recipe `paper`."""


def hours(tflop: float) -> float:
    """GPU hours of some TFLOP."""
    return tflop * 1e12 / RATE / 3600

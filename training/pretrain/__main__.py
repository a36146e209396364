"""python -m training.pretrain: the command of pretraining."""

import sys

from .loop import main

if __name__ == "__main__":
    sys.exit(main())

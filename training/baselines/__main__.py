"""python -m training.baselines: the command of the other ways to pretrain."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())

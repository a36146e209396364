"""python -m training.classify: the command of the training of classifiers."""

import sys

from .loop import main

if __name__ == "__main__":
    sys.exit(main())

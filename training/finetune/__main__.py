"""python -m training.finetune: the command of finetuning."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())

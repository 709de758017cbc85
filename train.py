"""Train a few-shot learner: ``python train.py --help``."""

import sys

from fewshot_pl.cli import train

if __name__ == "__main__":
    sys.exit(train())

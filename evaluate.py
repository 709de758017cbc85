"""Evaluate a checkpoint: ``python evaluate.py --help``."""

import sys

from fewshot_pl.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())

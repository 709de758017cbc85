"""Export the network of a checkpoint: ``python export.py --help``."""

import sys

from fewshot_pl.cli import export

if __name__ == "__main__":
    sys.exit(export())

"""Label images by a few examples of each class: ``python predict.py --help``."""

import sys

from fewshot_pl.cli import predict

if __name__ == "__main__":
    sys.exit(predict())

"""Training from the command line: its flags, the run that they start, and the result that it saves."""

from fewshot_pl.training.cli import TrainCLI
from fewshot_pl.training.command import train

__all__ = ["TrainCLI", "train"]

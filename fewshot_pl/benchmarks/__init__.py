"""The benchmarks; what is exported here is what ``--data`` accepts."""

from fewshot_pl.benchmarks.cifar import CIFARFS, FC100
from fewshot_pl.benchmarks.glyphs import Glyphs
from fewshot_pl.benchmarks.image_folder import ImageFolder
from fewshot_pl.benchmarks.mini_imagenet import MiniImageNet
from fewshot_pl.benchmarks.omniglot import Omniglot
from fewshot_pl.benchmarks.sinusoid import Sinusoid

__all__ = ["CIFARFS", "FC100", "Glyphs", "ImageFolder", "MiniImageNet", "Omniglot", "Sinusoid"]

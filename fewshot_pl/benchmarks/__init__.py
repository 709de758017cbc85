"""The benchmarks; what is exported here is what ``--data`` accepts."""

from fewshot_pl.benchmarks.cifar import CIFARFS, FC100
from fewshot_pl.benchmarks.cub import CUB
from fewshot_pl.benchmarks.dtd import DTD
from fewshot_pl.benchmarks.fgvc_aircraft import FGVCAircraft
from fewshot_pl.benchmarks.fungi import Fungi
from fewshot_pl.benchmarks.glyphs import Glyphs
from fewshot_pl.benchmarks.image_folder import ImageFolder
from fewshot_pl.benchmarks.mini_imagenet import MiniImageNet
from fewshot_pl.benchmarks.multi_source import MultiSource
from fewshot_pl.benchmarks.omniglot import Omniglot
from fewshot_pl.benchmarks.quickdraw import Quickdraw
from fewshot_pl.benchmarks.sinusoid import Sinusoid
from fewshot_pl.benchmarks.tiered_imagenet import TieredImageNet
from fewshot_pl.benchmarks.vgg_flowers import VGGFlowers

__all__ = [
    "CIFARFS",
    "CUB",
    "DTD",
    "FC100",
    "FGVCAircraft",
    "Fungi",
    "Glyphs",
    "ImageFolder",
    "MiniImageNet",
    "MultiSource",
    "Omniglot",
    "Quickdraw",
    "Sinusoid",
    "TieredImageNet",
    "VGGFlowers",
]

"""Networks that turn images into feature vectors."""

from fewshot_pl.backbones.build import ImageShape, build_backbone, num_features
from fewshot_pl.backbones.conv4 import Conv4, Conv4Maps
from fewshot_pl.backbones.conv_block import ConvBlock
from fewshot_pl.backbones.learner import Learner, build_learner
from fewshot_pl.backbones.normalization import EpisodicBatchNorm2d, Norm
from fewshot_pl.backbones.relation_head import RelationHead

__all__ = [
    "Conv4",
    "Conv4Maps",
    "ConvBlock",
    "EpisodicBatchNorm2d",
    "ImageShape",
    "Learner",
    "Norm",
    "RelationHead",
    "build_backbone",
    "build_learner",
    "num_features",
]

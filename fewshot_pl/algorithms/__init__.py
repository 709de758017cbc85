"""The algorithms: one paper, one file, one class. This list is the registry."""

from fewshot_pl.algorithms.anil import ANIL
from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.algorithms.boil import BOIL
from fewshot_pl.algorithms.lstm_meta_learner import LSTMMetaLearner
from fewshot_pl.algorithms.maml import MAML
from fewshot_pl.algorithms.matching_net import MatchingNet
from fewshot_pl.algorithms.meta_sgd import MetaSGD
from fewshot_pl.algorithms.metagan import MetaGAN
from fewshot_pl.algorithms.platipus import PLATIPUS
from fewshot_pl.algorithms.protonet import ProtoNet
from fewshot_pl.algorithms.relation_net import RelationNet
from fewshot_pl.algorithms.reptile import Reptile

__all__ = [
    "ANIL",
    "BOIL",
    "MAML",
    "PLATIPUS",
    "FewShotAlgorithm",
    "LSTMMetaLearner",
    "MatchingNet",
    "MetaGAN",
    "MetaSGD",
    "ProtoNet",
    "RelationNet",
    "Reptile",
]

"""Prototypical Networks (Snell, Swersky, Zemel 2017)."""

from typing import Any, Literal

from torch import Tensor

from fewshot_pl.algorithms.metric import MetricAlgorithm
from fewshot_pl.functional.precision import at_least_float32, without_autocast
from fewshot_pl.functional.prototypes import class_means, negative_cosines, squared_distances

_DISTANCES = {"squared_euclidean": squared_distances, "cosine": negative_cosines}


class ProtoNet(MetricAlgorithm):
    """Classify a query by its distance to the mean feature of each class.

    p(y = n | x) = softmax_n(-d(f(x), c_n)), where the prototype c_n is the mean of f over the support of class n, and d
    is the squared Euclidean distance (equations 1 and 2). f is learned; nothing is adapted at test. Inductive by
    default: batch statistics in training, running ones at test, as in the authors' code.

    Args:
        distance: ``squared_euclidean`` (paper) or ``cosine``.
        divide_by_dimension: divide distances by D, as Lee et al. 2019 do for ResNet-12.
        lr_halve_every: training steps per halving of the learning rate; 2000 in the authors' code, one episode each.
    """

    def __init__(
        self,
        distance: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
        divide_by_dimension: bool = False,
        lr_halve_every: int = 2000,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr_halve_every=lr_halve_every, **kwargs)
        self.distance = _DISTANCES[distance]
        self.divide_by_dimension = divide_by_dimension

    def logits_from_features(self, support_f: Tensor, support_y: Tensor, query_f: Tensor, num_ways: int) -> Tensor:
        with without_autocast(query_f):  # squares overflow in half precision
            support_f, query_f = at_least_float32(support_f), at_least_float32(query_f)
            logits = -self.distance(query_f, class_means(support_f, support_y, num_ways))  # [N*Q, N]
        return logits / query_f.shape[-1] if self.divide_by_dimension else logits

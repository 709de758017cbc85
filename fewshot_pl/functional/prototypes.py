"""Class means and distances to them (Snell et al. 2017, section 2)."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_ways: int) -> Tensor:
    """Labels [n] in 0..N-1 as booleans [n, N]; works under vmap and reads nothing back from the device."""
    return labels[:, None] == torch.arange(num_ways, device=labels.device)


def class_means(features: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """The mean feature [N, D] of each class, from features [n, D] and labels [n]; nan for a class without any."""
    counts = one_hot(labels, num_ways).sum(0)
    return class_sums(features, labels, num_ways) / counts[:, None]


def class_sums(features: Tensor, labels: Tensor, num_ways: int) -> Tensor:
    """The summed features [N, D] of each class, from features [n, D] and labels [n]; shots may be unequal."""
    return one_hot(labels, num_ways).to(features.dtype).T @ features


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances [n, N] between points [n, D] and centres [N, D]."""
    # Expanded by the binomial formula: the differences of all pairs would take n*N*D numbers.
    products = points @ centres.T
    return points.square().sum(-1)[:, None] - 2 * products + centres.square().sum(-1)


def negative_cosines(points: Tensor, centres: Tensor) -> Tensor:
    """Minus the cosine [n, N] of the angle between points [n, D] and centres [N, D]."""
    return -torch.nn.functional.normalize(points, dim=-1) @ torch.nn.functional.normalize(centres, dim=-1).T

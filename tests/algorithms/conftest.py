"""Fixtures for the tests of several algorithms: an episode in float64, and how many tasks adapted side by side."""

import pytest
import torch
from episodes import random_episode

from fewshot_pl.algorithms import MAML, Reptile


@pytest.fixture
def episode():
    return random_episode(dtype=torch.float64)


@pytest.fixture
def group_sizes(monkeypatch):
    """The numbers of tasks that adapted side by side."""
    sizes = []
    for algorithm in (MAML, Reptile):
        adapted = algorithm.adapted_side_by_side

        def noted(model, support_x, support_y, adapted=adapted):
            sizes.append(len(support_x))
            return adapted(model, support_x, support_y)

        monkeypatch.setattr(algorithm, "adapted_side_by_side", noted)
    return sizes

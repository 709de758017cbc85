"""Copies of a network for threads: they share its tensors, and refer to no part of the network itself."""

from functools import partial

import pytest
import torch
from episodes import random_episode
from torch import nn
from torch.func import functional_call

from fewshot_pl.algorithms import MAML, ProtoNet
from fewshot_pl.algorithms.structure_copies import structure_copies

SHAPE = 1, 16, 16


class Held(nn.Module):
    """Maps images [n, 1, 16, 16] to features [n, 4], by a layer that an attribute holds too: ``hold(layer)``."""

    def __init__(self, hold):
        super().__init__()
        self.layer = nn.Linear(256, 4)
        self.shared = []
        self.held = hold(self.layer)

    def forward(self, images):
        (call,) = self.held.values() if isinstance(self.held, dict) else self.held
        return torch.tanh(call(images.flatten(1)))


class Holder:
    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return self.layer(x)


REBOUND = {
    "list": lambda layer: [layer],
    "nested": lambda layer: {"first": layer},
    "method": lambda layer: (layer.forward,),
    "partial": lambda layer: [partial(layer.forward)],
}
NOT_REBOUND = {"closure": lambda layer: [lambda x: layer(x)], "object": lambda layer: (Holder(layer),)}


def own(algorithm, hold, **settings):
    class Own(algorithm):
        def own_backbone(self, image_shape):
            return Held(hold)

    torch.manual_seed(0)
    return Own(image_shape=SHAPE, **settings).eval()


@pytest.mark.parametrize("kind", REBOUND)
def test_what_refers_to_a_part_refers_to_its_copy(kind):
    network = Held(REBOUND[kind])
    images = torch.randn(2, *SHAPE)
    before = network.held
    copies = structure_copies(network, 2)
    assert len({network.layer, *(copy.layer for copy in copies)}) == 3
    for copy in copies:
        assert copy.layer.weight is network.layer.weight and copy.shared is network.shared
        zeros = {name: torch.zeros_like(value) for name, value in copy.named_parameters()}
        assert not functional_call(copy, zeros, (images,)).any()
        assert torch.equal(copy(images), network(images))
    assert network.held is before


@pytest.mark.parametrize("kind", NOT_REBOUND)
def test_none_where_they_would_refer_to_the_network(kind):
    assert structure_copies(Held(NOT_REBOUND[kind]), 2) is None


def test_compiled_and_traced_modules_and_hooks_on_parts_have_none():
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    assert structure_copies(network, 2) is not None
    assert structure_copies(nn.Sequential(torch.compile(network, backend="eager")), 2) is None
    assert structure_copies(torch.fx.symbolic_trace(network), 2) is None
    layer = network[0]
    layer.register_forward_hook(lambda *_: layer.extra_repr())
    assert structure_copies(network, 2) is None


@pytest.mark.parametrize("kind", [*REBOUND, *NOT_REBOUND])
@pytest.mark.parametrize("algorithm", [MAML, ProtoNet])
def test_evaluations_on_threads_are_those_of_a_loop(algorithm, kind, two_threads):
    hold = (REBOUND | NOT_REBOUND)[kind]
    settings = {"num_ways": 3, "num_inner_steps": 3} if algorithm is MAML else {}
    with torch.no_grad():
        found, expected = (
            own(algorithm, hold, task_parallel=way, **settings)(random_episode()) for way in ("threads", "loop")
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_backbone_is_evaluated(two_threads):
    torch.manual_seed(0)
    model = ProtoNet(image_shape=SHAPE).eval()
    with torch.no_grad():
        expected = model(random_episode())
        model.backbone = torch.compile(model.backbone, backend="eager")
        torch.testing.assert_close(model(random_episode()), expected, rtol=1e-4, atol=1e-5)

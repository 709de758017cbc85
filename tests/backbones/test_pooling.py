"""max_pool: torch's own function, and its first two derivatives."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.backbones import build_learner
from fewshot_pl.backbones.passes import second_order_pass
from fewshot_pl.backbones.pooling import MaxPool, max_pool

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(params=LAYOUTS, ids=["channels first", "channels last"])
def maps(request):
    torch.manual_seed(0)  # 3 channels, and a row and a column that pooling leaves over
    return torch.randn(2, 3, 5, 7, dtype=torch.float64).contiguous(memory_format=request.param).requires_grad_()


def test_derivatives_are_central_differences(maps):
    assert torch.autograd.gradcheck(max_pool, maps)
    assert torch.autograd.gradgradcheck(lambda maps: max_pool(maps).sin(), maps)


def test_value_and_derivatives_are_torchs(maps):
    def derivatives(function):
        pooled = function(maps)
        (first,) = torch.autograd.grad(pooled.sin().sum(), maps, create_graph=True)
        return pooled, first, *torch.autograd.grad(first.square().sum(), maps)

    for ours, torchs in zip(derivatives(max_pool), derivatives(lambda maps: F.max_pool2d(maps, 2)), strict=True):
        assert torch.equal(ours, torchs)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels first", "channels last"])
def test_every_derivative_is_laid_out_as_the_maps(layout):
    maps = torch.randn(2, 3, 4, 4).contiguous(memory_format=layout).requires_grad_()
    pooled = max_pool(maps)
    of_pooled = torch.ones_like(pooled, requires_grad=True)
    (of_maps,) = torch.autograd.grad(pooled, maps, of_pooled, create_graph=True)
    found = torch.autograd.grad(of_maps.square().sum(), [of_pooled, maps], allow_unused=True)
    assert found[1] is None  # not zeros, which would have to be added to other gradients of the maps
    assert all(values.is_contiguous(memory_format=layout) for values in (pooled, of_maps, found[0]))


def test_a_second_order_pass_tells_all_poolings_of_conv4():
    learner = build_learner("conv4", (1, 16, 16), "transductive", 5)
    layers = [layer for layer in learner.modules() if isinstance(layer, MaxPool)]
    assert len(layers) == 4
    with second_order_pass(learner):
        assert all(layer.twice_differentiated for layer in layers)
    assert not any(layer.twice_differentiated for layer in layers)

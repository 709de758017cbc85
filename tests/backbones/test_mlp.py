"""MLP against torch's own layers, and its names."""

import pytest
import torch
from torch import nn

from fewshot_pl.backbones import build_backbone, build_learner
from fewshot_pl.backbones.mlp import MLP
from fewshot_pl.errors import InputError


def by_torch(mlp, activation):
    layers = [layer for linear in mlp.linears for layer in (linear, activation())]
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize(("name", "activation"), [("mlp-7-5", nn.ReLU), ("mlp-7-5-tanh", nn.Tanh)])
def test_is_linear_layers_with_a_non_linearity_after_each(name, activation):
    images = torch.randn(4, 2, 3, 3)
    mlp = build_backbone(name, (2, 3, 3), "none")
    torch.testing.assert_close(mlp(images), by_torch(mlp, activation)(images), rtol=0, atol=0)
    assert [linear.out_features for linear in mlp.linears] == [7, 5]


def test_normalises_each_layer_before_the_non_linearity():
    images = torch.randn(16, 1, 4, 4)
    mlp = build_backbone("mlp-6", (1, 4, 4), "transductive")
    before = mlp.linears[0](images.flatten(1))
    expected = nn.functional.batch_norm(before, None, None, training=True).relu()
    torch.testing.assert_close(mlp(images), expected, rtol=1e-5, atol=1e-6)


def test_a_learned_vector_joins_the_input():
    x = torch.randn(4, 1, 1, 1)
    mlp = build_backbone("mlp-8-bias3", (1, 1, 1), "none")
    plain = mlp(x)
    assert mlp.biases.shape == (3,) and mlp.linears[0].in_features == 4
    shift = torch.randn(3)
    with torch.no_grad():
        mlp.biases.copy_(shift)
    weight, bias = mlp.linears[0].weight, mlp.linears[0].bias
    torch.testing.assert_close(mlp(x), (x.flatten(1) @ weight[:, :1].T + weight[:, 1:] @ shift + bias).relu())
    assert not torch.allclose(mlp(x), plain)


def test_mamls_network_without_convolutions():
    learner = build_learner("mlp-256-128-64-64", (1, 28, 28), "transductive", 5)
    assert learner(torch.rand(10, 1, 28, 28)).shape == (10, 5)
    assert isinstance(learner.backbone, MLP) and learner.head.in_features == 64


def test_starts_from_torchs_distribution_and_convolutions_from_xaviers():
    torch.manual_seed(0)
    bend = build_learner("mlp-40-40", (1, 1, 1), "none", 1).backbone.linears[0]
    assert bend.bias.abs().max() > 0.5  # otherwise all bends of the function would lie at x = 0
    assert not build_learner("conv4", (1, 28, 28), "none", 5).head.bias.any()


@pytest.mark.parametrize("name", ["mlp", "mlp-", "mlp-40-x", "mlp-40-relu", "mlp-tanh"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match=f"no backbone is called '{name}'"):
        build_backbone(name, (1, 1, 1), "none")


def test_images_of_a_point_name_the_networks_that_take_them():
    with pytest.raises(InputError, match=r"pass --model.backbone mlp-40-40 --model.norm none"):
        build_learner("conv4", (1, 1, 1), "none", 1)

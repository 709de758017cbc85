"""joined: torch.cat, and its derivatives by autograd."""

import torch

from fewshot_pl.backbones.joined import joined


def test_it_is_cat_with_all_its_derivatives():
    torch.manual_seed(0)
    parts = [torch.randn(n, 2, 3, dtype=torch.float64, requires_grad=True) for n in (2, 1, 3)]
    assert torch.equal(joined(parts), torch.cat(parts))
    assert torch.autograd.gradcheck(lambda *parts: joined(parts).sin(), parts)
    assert torch.autograd.gradgradcheck(lambda *parts: joined(parts).sin(), parts)


def test_a_part_without_a_gradient_gets_none():
    images, maps = torch.ones(2, 3), torch.ones(1, 3, requires_grad=True)
    joined([images, maps]).sum().backward()
    assert images.grad is None and torch.equal(maps.grad, torch.ones(1, 3))

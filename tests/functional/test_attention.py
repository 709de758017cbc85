"""Attention against its definitions, in float64."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.functional.attention import attention_read_out, log_class_attention

NUM_WAYS, NUM_FEATURES = 3, 5


def random_numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def labels():
    return torch.tensor([2, 0, 1, 1, 0, 1, 2])  # shots are unequal: 2, 3 and 2


@pytest.fixture
def similarities(labels):
    return random_numbers(4, len(labels))


def test_class_attention_is_the_log_of_summed_attention(similarities, labels):
    attention = similarities.softmax(-1)
    summed = torch.stack([attention[:, labels == way].sum(-1) for way in range(NUM_WAYS)], -1)
    logits = log_class_attention(similarities, labels, NUM_WAYS)
    torch.testing.assert_close(logits, summed.log(), rtol=0, atol=1e-14)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-14)


def test_class_attention_keeps_what_a_sum_of_probabilities_would_lose():
    logits = log_class_attention(torch.tensor([[0.0, -1000.0, -1001.0]]), torch.tensor([0, 1, 1]), 2)
    torch.testing.assert_close(logits, torch.tensor([[0.0, -1000 + torch.log1p(torch.tensor(-1.0).exp()).item()]]))
    assert logits.isfinite().all()


def test_class_attention_sums_over_shots_and_does_not_average():
    alike = torch.zeros(1, 4, dtype=torch.float64)
    logits = log_class_attention(alike, torch.tensor([0, 1, 1, 1]), 2)
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.25, 0.75]], dtype=torch.float64))


def test_class_without_support_is_never_predicted():
    logits = log_class_attention(torch.zeros(1, 2), torch.tensor([0, 2]), 3)
    assert torch.equal(logits.exp(), torch.tensor([[0.5, 0.0, 0.5]]))


def test_class_attention_has_the_gradient_of_finite_differences(similarities, labels):
    assert torch.autograd.gradcheck(lambda s: log_class_attention(s, labels, NUM_WAYS), similarities.requires_grad_())


def test_read_out_is_a_mean_under_the_softmax_of_dot_products():
    points, memory = random_numbers(2, NUM_FEATURES), random_numbers(4, NUM_FEATURES, seed=1)
    read_out = attention_read_out(points, memory)
    for point, value in zip(points, read_out, strict=True):
        weights = [torch.exp(point @ item) for item in memory]
        expected = sum(w * item for w, item in zip(weights, memory, strict=True)) / sum(weights)
        torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)
    cosines = F.normalize(points, dim=-1) @ F.normalize(memory, dim=-1).T
    assert not torch.allclose(read_out, cosines.softmax(-1) @ memory)

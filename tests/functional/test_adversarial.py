"""MetaGAN's losses against a softmax over N + 1 explicit classes, in float64."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.functional.adversarial import fake_losses, generator_losses, real_losses
from fewshot_pl.functional.objectives import prediction_loss


@pytest.fixture
def logits():
    return 5 * torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def log_probabilities(logits, generated=0.0):
    """The log-probabilities of N + 1 classes, of which the last is "generated"."""
    return torch.cat([logits, torch.full_like(logits[:, :1], generated)], 1).log_softmax(1)


def test_the_four_losses_are_those_of_one_class_more(logits):
    explicit = log_probabilities(logits)
    real = explicit[:, :4].exp().sum(1)  # p(y <= N | x)
    labels = torch.arange(20) % 4
    supervised = -(explicit[range(20), labels] - real.log()).mean()  # p(y | x, y <= N)
    for value, expected in (
        (prediction_loss(logits, labels), supervised),
        (real_losses(logits), -real.log()),
        (fake_losses(logits), -explicit[:, 4]),
        (generator_losses(logits), -real.log()),
    ):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_a_free_logit_of_the_generated_class_is_no_more(logits):
    shifted = log_probabilities(logits + 0.7, generated=0.7)
    torch.testing.assert_close(fake_losses(logits), -shifted[:, 4], rtol=0, atol=1e-12)


def test_sure_logits_overflow_nothing():
    logits = torch.tensor([[1e4, -1e4], [-1e4, -2e4]], requires_grad=True)
    losses = torch.cat([real_losses(logits), fake_losses(logits), generator_losses(logits)])
    assert losses.tolist() == [0, 1e4, 1e4, 0, 0, 1e4]
    losses.sum().backward()
    assert logits.grad.isfinite().all()


def test_losses_of_half_precision_are_float32(logits):
    assert fake_losses(logits.bfloat16()).dtype == torch.float32
    assert F.mse_loss(fake_losses(logits.bfloat16()).double(), fake_losses(logits)) < 1e-2

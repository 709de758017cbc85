"""The losses of a classifier with an additional class, "generated", and of the generator that plays against it.

The logit of that class is fixed at 0 (Salimans et al. 2016, section 5), which loses nothing: a softmax does not change
when all logits shift by the same amount. So p(real | x) = sigmoid(logsumexp of the N logits).
"""

from torch import Tensor
from torch.nn import functional as F

from fewshot_pl.functional.precision import at_least_float32


def real_losses(logits: Tensor) -> Tensor:
    """-log p(x is of one of the N classes) of each image [...], from logits [..., N]."""
    return F.softplus(-at_least_float32(logits).logsumexp(-1))


def fake_losses(logits: Tensor) -> Tensor:
    """-log p(x is generated) of each image [...], from logits [..., N]."""
    return F.softplus(at_least_float32(logits).logsumexp(-1))


def generator_losses(logits: Tensor) -> Tensor:
    """The loss of the generator for each of its images [...], from logits [..., N]: low if the image is taken for real.

    This form does not saturate where the classifier is certain (Goodfellow et al. 2014, section 3).
    """
    return real_losses(logits)

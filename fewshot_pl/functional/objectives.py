"""The loss of the outputs for a task."""

from torch import Tensor
from torch.nn import functional as F

from fewshot_pl.functional.precision import at_least_float32


def prediction_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of outputs for targets: cross-entropy for labels, squared error for real numbers.

    Args:
        outputs: [..., n, N] logits, or [..., n, D] predictions.
        targets: [..., n] labels (-100 is left out), or [..., n, D] real numbers.
    """
    outputs = at_least_float32(outputs)  # autocast would not convert them under vmap
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())

"""TensorFloat-32: whether recent GPUs may round float32 products to 10 bits; a flag of train.py and evaluate.py."""

from typing import Any

import torch

TF32_FLAG: dict[str, Any] = {
    "type": bool | None,
    "help": "whether recent GPUs may round float32 products to 10 bits (TensorFloat-32), which is faster; "
    "default: as in torch, only in convolutions",
}


def allow_tf32(allowed: bool | None) -> None:
    """Switch TensorFloat-32 on or off everywhere; None leaves torch's default."""
    if allowed is not None:
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cuda.matmul.allow_tf32 = allowed

"""fewshot_pl: few-shot and meta-learning on PyTorch Lightning."""

from fewshot_pl.torchvision_guard import import_torchvision

import_torchvision()  # before anything imports pytorch_lightning or torchmetrics

__version__ = "0.1.0"

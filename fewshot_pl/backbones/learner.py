"""Learner: what gradient-based methods adapt, a backbone with a linear head."""

from torch import Tensor, nn

from fewshot_pl.backbones.build import ImageShape, num_features


class Learner(nn.Module):
    """Images [n, C, H, W] to logits [n, N]."""

    def __init__(self, backbone: nn.Module, image_shape: ImageShape, num_ways: int) -> None:
        super().__init__()
        for layer in backbone.modules():
            if hasattr(layer, "fused_attn"):  # timm's attention: torch has no second derivatives of the fused one
                layer.fused_attn = False  # type: ignore[assignment]
        self.backbone = backbone
        self.head = nn.Linear(num_features(backbone, image_shape), num_ways)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


def initialise_xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every convolution and linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

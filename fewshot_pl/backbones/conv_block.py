"""ConvBlock: convolution, normalisation, pooling and ReLU, the building block of Conv4."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fewshot_pl.backbones.convolution import Convolution
from fewshot_pl.backbones.joined import joined
from fewshot_pl.backbones.normalization import EpisodicBatchNorm2d, Norm, norm_layer
from fewshot_pl.backbones.patches import PatchMoments, patch_moments
from fewshot_pl.backbones.pooling import MaxPool
from fewshot_pl.functional.precision import without_autocast

_CACHED_BYTES = 5 * 2**19  # of maps that stay in a core's cache from one layer to the next


class ConvBlock(nn.Sequential):
    """3x3 convolution, normalisation, ReLU and, with ``pool``, 2x2 max-pooling; ``before`` channels to ``after``.

    On a CPU, large maps cost more time for memory access than for computation. In a network's first block, whose images
    have no gradient, they need not all exist at once: batch norm's statistics follow from the images' patches, so it is
    folded into the convolution, and maps are made and halved some images at a time. The derivatives are the same.
    """

    conv: Convolution
    norm: nn.Module

    def __init__(
        self, before: int, after: int, norm: Norm, *, stride: int = 1, padding: int = 1, pool: bool = True
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = Convolution(before, after, 3, stride, padding)
        layers["norm"] = norm_layer(norm, after)
        if pool:
            layers["pool"] = MaxPool()
        layers["relu"] = nn.ReLU()  # after pooling: max and ReLU commute, and this is a quarter of the work
        super().__init__(layers)
        self.kept: list[PatchMoments] | None = None  # at most one, of the images that all passes take: same_images()

    def forward(self, maps: Tensor) -> Tensor:
        if self._is_foldable(maps) and len(maps) > (num_cached := self.num_cached(maps)):
            weight, bias = self._folded(maps)
            join = joined if self.conv.twice_differentiated else torch.cat
            return join([self._folded_pass(part, weight, bias) for part in torch.split(maps, num_cached)])
        return super().forward(maps)  # type: ignore[no-any-return, no-untyped-call]

    def num_cached(self, maps: Tensor, num_threads: int | None = None) -> int:
        """The number of images, at least one, whose maps after the convolution fit into the caches.

        The caches are those of the cores of ``num_threads`` threads, by default as many as torch has.
        """
        image_bytes = len(self.conv.weight) * maps.shape[2:].numel() // self.conv.stride[0] ** 2 * maps.itemsize
        return max(1, (num_threads or torch.get_num_threads()) * _CACHED_BYTES // max(1, image_bytes))

    def _is_foldable(self, maps: Tensor) -> bool:
        return (
            isinstance(self.norm, EpisodicBatchNorm2d)
            and self.norm.takes_statistics
            and not (self.norm.vectorised or torch.compiler.is_compiling())
            and maps.device.type == "cpu"
            and not maps.requires_grad
            and self.conv.num_tasks == 1
            and not self.conv._forward_pre_hooks  # by which pruning makes the weight, at each call of the layer
            and self.conv.weight[0].numel() < len(self.conv.weight)  # a patch has fewer values than output channels
        )

    def _folded(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The weight and bias of the convolution that equals this one followed by the norm, for these images."""
        conv, norm = self.conv, self.norm
        assert isinstance(norm, EpisodicBatchNorm2d)
        assert conv.bias is not None
        moments = self._moments(norm.sources(images))
        with without_autocast(moments.mean):
            filters = conv.weight.flatten(1).to(moments.mean)  # [A, K]
            mean = filters @ moments.mean + conv.bias
            variance = ((filters @ moments.covariance) * filters).sum(1).clamp(min=0)
            scale, shift = norm.affine(mean, variance, moments.num_patches)
            weight = (conv.weight * scale[:, None, None, None]).to(conv.weight)
            return weight, (conv.bias * scale + shift).to(conv.bias)

    def _moments(self, images: Tensor) -> PatchMoments:
        if self.kept:
            return self.kept[0]
        moments = patch_moments(images, self.conv.kernel_size[0], self.conv.stride[0], int(self.conv.padding[0]))
        if self.kept is not None:
            self.kept.append(moments)
        return moments

    def _folded_pass(self, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        maps = self.conv.convolve(images, weight, bias)
        for layer in list(self)[2:]:
            maps = layer(maps)
        return maps

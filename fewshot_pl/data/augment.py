"""Random augmentation of training images, batched on the device, drawn for each image separately."""

from collections.abc import Callable
from functools import cache

from torch import Tensor, nn

Augmentation = Callable[[Tensor], Tensor]


def standard_augmentation(images: Tensor) -> Tensor:
    """Images [n, C, H, W] in [0, 1] after a random crop (padding 4), colour jitter 0.4 and horizontal flip.

    The usual augmentation of few-shot learning on natural images (Lee et al. 2019, section 4.1). Of grey images
    (C = 1) only brightness and contrast change. kornia draws from torch's global random state, so
    ``seed_everything`` makes a training repeatable; episodes do not depend on that state.
    """
    out: Tensor = _pipeline(images.shape[-2], images.shape[-1])(images)
    return out


@cache
def _pipeline(height: int, width: int) -> nn.Module:
    from kornia import augmentation  # takes a second to import, and most runs do not augment

    return nn.Sequential(
        # "resample" crops the whole batch at once, exactly at these whole-pixel offsets; "slice" goes image by image.
        augmentation.RandomCrop((height, width), padding=4, cropping_mode="resample"),
        augmentation.ColorJitter(0.4, 0.4, 0.4, p=1.0),
        augmentation.RandomHorizontalFlip(),
    )

"""PlacedImages: where the packed images of a benchmark are looked up, in main memory or on a device."""

import torch
from torch import Tensor

from fewshot_pl.data.image_store import ImageStore
from fewshot_pl.data.pixels import images_at
from fewshot_pl.errors import InputError

_DEVICE_SHARE = 0.5  # of the accelerator's free memory that a store may take where it is to be on the device if it fits


class PlacedImages:
    """The packed images of the splits that are set up, on a device where they are to be or fit.

    Args:
        place: keep the images on the ``device``, on the ``host``, or (``auto``) on the device when they fit.

    Attributes:
        stores: by split, of those that are set up.
    """

    def __init__(self, place: str) -> None:
        self.stores: dict[str, ImageStore] = _Stores()
        self._place = place
        self._placed: dict[tuple[str, torch.device], Tensor | None] = {}

    def on(self, split: str, device: torch.device) -> Tensor | None:
        """The images of a split, uint8 [num_images, C, H, W], on a device; None if they are to be on the host.

        Raises:
            InputError: they do not fit on the device, though they are to be there.
        """
        key = (split, device)
        if key not in self._placed:  # decided once, and put there at once: others then see what memory is left
            self._placed[key] = self._put_on(split, device) if self._fit_on(split, device) else None
        return self._placed[key]

    def at(self, split: str, numbers: Tensor) -> Tensor:
        """Copies of the images of a split with the given numbers [...], on their device: uint8 [..., C, H, W]."""
        images = self.on(split, numbers.device)
        if images is not None:
            return images_at(images, numbers)
        return self.stores[split].images_at(numbers.cpu()).to(numbers.device)

    def _fit_on(self, split: str, device: torch.device) -> bool:
        if self._place != "auto":
            return self._place == "device"
        if device.type == "cpu":
            return True  # the memory map is the device's memory: nothing is copied
        return self.stores[split].images.nbytes < _DEVICE_SHARE * _free_memory(device)

    def _put_on(self, split: str, device: torch.device) -> Tensor:
        try:
            return self.stores[split].tensor().to(device)
        except RuntimeError as error:  # only CUDA has a specific exception for it
            if "out of memory" not in str(error):
                raise
            raise InputError(
                f"the {split} images do not fit into the memory of {device}: pass --data.store host"
            ) from error


class _Stores(dict[str, ImageStore]):
    """The stores of the splits that are set up."""

    def __missing__(self, split: str) -> ImageStore:
        raise InputError(
            f"there are no images of {split} yet: call prepare_data(), and then setup('fit') for train and val or "
            "setup('test') for test"
        )


def _free_memory(device: torch.device) -> int:
    """The free memory of an accelerator, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0  # of other kinds torch does not say: images stay on the host by default

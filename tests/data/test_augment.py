import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import pytest
import torch

from fewshot_pl.data.augment import standard_augmentation


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_shape_range_and_type_are_kept(channels, side):
    images = torch.rand(50, channels, side, side)
    changed = standard_augmentation(images)
    assert changed.shape == images.shape and changed.dtype == images.dtype
    assert changed.min() >= 0 and changed.max() <= 1
    assert not torch.equal(changed, images)


def test_every_image_is_changed_on_its_own():
    image = torch.rand(1, 3, 32, 32)
    changed = standard_augmentation(image.expand(40, -1, -1, -1).contiguous())
    distances = torch.cdist(changed.flatten(1), changed.flatten(1)) + torch.eye(40) * 100
    assert distances.min() > 0.1


def test_crops_move_by_up_to_4_pixels_and_half_are_mirrored():
    torch.manual_seed(0)
    image = torch.full((1, 3, 32, 32), 0.5)
    image[..., 16, 16] = 1.0  # jitter keeps the brightest pixel the brightest
    changed = standard_augmentation(image.expand(2000, -1, -1, -1).contiguous())
    brightest = changed.mean(1).flatten(1).argmax(1)
    rows, columns = brightest // 32, brightest % 32
    assert set(rows.tolist()) == set(range(12, 21))
    mirrored = columns < 16  # the pixel's columns are 12..20, mirrored 11..19
    assert set(columns.tolist()) == set(range(11, 21))
    assert 0.4 < mirrored.float().mean() < 0.6


def test_grey_images_stay_grey_in_colour():
    grey = torch.rand(20, 1, 32, 32).expand(-1, 3, -1, -1).contiguous()
    changed = standard_augmentation(grey)
    torch.testing.assert_close(changed[:, 0], changed[:, 2], atol=1e-4, rtol=0)


def test_torchs_seed_repeats_it():
    images = torch.rand(10, 3, 32, 32)
    torch.manual_seed(3)
    first = standard_augmentation(images)
    torch.manual_seed(3)
    assert torch.equal(first, standard_augmentation(images))

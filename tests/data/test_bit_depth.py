"""Images of 16 and 32 bits are scaled by their range, or refused: none becomes black or white without a word."""

import io

import numpy as np
import pytest
from PIL import Image

from fewshot_pl.data.bit_depth import eight_bit
from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.data.square_image import plain_colour, square_image
from fewshot_pl.errors import InputError


def an_image(value, kind, shape=(4, 4)):
    return Image.fromarray(np.full(shape, value, dtype=kind))


def reopened(image, kind, **options):
    image.save(file := io.BytesIO(), kind, **options)
    return Image.open(file)


@pytest.mark.parametrize(
    ("value", "kind", "grey"),
    [
        (200, np.int32, 200),
        (25700, np.int32, 100),
        (2**30, np.int32, 128),
        (2**31 - 1, np.int32, 255),
        (0, np.int32, 0),
        (0.4, np.float32, 102),
        (1.01, np.float32, 255),  # 1 and an overshoot
        (200, np.float32, 200),
        (256, np.float32, 255),
        (32768, np.float32, 128),
        (2.0**30, np.float32, 128),
    ],
)
def test_32_bits_are_scaled_by_the_smallest_range_that_holds_them(value, kind, grey):
    for image in (an_image(value, kind), reopened(an_image(value, kind), "TIFF")):
        assert set(np.asarray(eight_bit(image)).flat) == {grey}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_a_dark_image_of_16_bits_stays_dark(kind):
    assert np.asarray(eight_bit(reopened(an_image(200, np.uint16), kind))).max() == 1


def test_16_bits_with_a_sign_and_the_pngs_of_older_versions_stay_dark():
    signed = reopened(an_image(200, np.uint16), "TIFF", tiffinfo={339: 2})
    png = an_image(200, np.int32)
    png.format = "PNG"
    assert signed.mode == png.mode == "I"
    assert np.asarray(eight_bit(signed)).max() == np.asarray(eight_bit(png)).max() == 1


def test_a_dark_image_of_16_bits_that_is_turned_stays_dark():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = reopened(an_image(200, np.int32, shape=(2, 6)), "PPM")
    image.info["exif"] = exif.tobytes()
    plain = plain_colour(image)
    assert image.mode == "I" and plain.size == (2, 6) and np.asarray(plain).max() == 1


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (np.nan, np.float32, "no finite numbers"),
        (np.inf, np.float32, "no finite numbers"),
        (100_000, np.int32, "values up to 100000, of a range that nobody knows: convert it to 8 bits"),
        (100_000, np.float32, "a range that nobody knows"),
        (1e12, np.float32, "a range that nobody knows"),
        (-1, np.int32, r"below 0 or above 2\^31 - 1: convert it to 8 bits"),
    ],
)
def test_what_fits_no_range_is_refused_by_name(value, kind, told, tmp_path):
    values = np.zeros((4, 4), kind)
    values[1, 2] = value
    Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(InputError, match=rf"^image {tmp_path}/odd\.tif has .*{told}"):
        square_image(ImageFile(FolderTree(tmp_path), "odd.tif").decoded(at_least=16), 8, 3)
    with pytest.raises(InputError, match=f"^this image has .*{told}"):
        eight_bit(Image.fromarray(values))

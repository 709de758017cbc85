import numpy as np
import pytest
from PIL import Image

from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.data.square_image import square_image

RED = (255, 0, 0)


def a_gradient():
    return np.linspace(0, 255, 16 * 16).reshape(16, 16)


@pytest.mark.parametrize("size", [(8, 8), (8, 30), (31, 9), (500, 300), (3, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_becomes_the_square(size, channels):
    square = square_image(Image.new("RGB", size, RED), 12, channels)
    assert square.shape == (channels, 12, 12) and square.dtype == np.uint8
    assert (square[0] == (255 if channels == 3 else 76)).all()


def test_the_longer_side_is_cropped_at_both_ends():
    stripes = Image.new("RGB", (30, 10), "blue")
    stripes.paste("red", (10, 0, 20, 10))
    square = square_image(stripes, 10, 3)
    assert (square[0] == 255).all() and (square[2] == 0).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "I;16", "I;16B", "I", "F"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_looks_alike(mode, channels):
    if mode in ("I;16", "I;16B"):
        image = Image.new(mode, (16, 16))
        image.frombytes((a_gradient() * 257).astype("<u2" if mode == "I;16" else ">u2").tobytes())
    elif mode == "I":
        image = Image.fromarray((a_gradient() * 257).astype(np.int32))
    elif mode == "F":
        image = Image.fromarray((a_gradient() / 255).astype(np.float32))
    else:
        colour = Image.fromarray(a_gradient().astype(np.uint8)).convert("RGB")
        image = colour.convert(mode, dither=Image.Dither.NONE, palette=Image.Palette.ADAPTIVE)
    assert image.mode == mode
    square = square_image(image, 16, channels)
    expected = (a_gradient() > 127) * 255.0 if mode == "1" else a_gradient()
    assert np.abs(square.astype(float).mean(0) - expected).mean() < 3


def test_floats_up_to_255_are_not_white():
    square = square_image(Image.fromarray(a_gradient().astype(np.float32)), 16, 1)
    assert np.abs(square[0] - a_gradient()).max() <= 1


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L with a transparent value", "RGB with a transparent colour"])
def test_transparent_parts_are_white(kind, tmp_path):
    path = tmp_path / "image.png"
    if kind == "RGBA":
        Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(path)
    elif kind == "LA":
        Image.new("LA", (8, 8), (0, 0)).save(path)
    elif kind == "P":
        Image.new("P", (8, 8), 0).save(path, transparency=0)
    elif kind.startswith("L "):
        Image.new("L", (8, 8), 0).save(path, transparency=0)
    else:
        Image.new("RGB", (8, 8), (0, 0, 0)).save(path, transparency=(0, 0, 0))
    assert (square_image(ImageFile(FolderTree(tmp_path), "image.png").decoded(at_least=16), 8, 3) == 255).all()


def test_half_transparent_ink_is_half_white():
    assert (square_image(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), 8, 1) == 127).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, tmp_path):
    upright = Image.new("RGB", (64, 64), "blue")
    upright.paste("red", (0, 0, 32, 32))  # red in the top left corner
    upright.paste("lime", (32, 0, 64, 32))
    as_stored = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    stored = upright
    for transposition in as_stored:
        stored = stored.transpose(Image.Transpose(transposition))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95, subsampling=0)
    square = square_image(ImageFile(FolderTree(tmp_path), "photo.jpg").decoded(at_least=16), 8, 3)
    assert np.abs(square[:, 1, 1].astype(int) - RED).max() < 10
    assert np.abs(square[:, 1, 6].astype(int) - (0, 255, 0)).max() < 10


@pytest.mark.parametrize("extension", ["png", "jpg", "bmp", "gif", "webp", "tiff", "ppm", "jp2"])
def test_common_formats_are_read(extension, tmp_path):
    Image.new("RGB", (20, 10), RED).save(tmp_path / f"image.{extension}")
    square = square_image(ImageFile(FolderTree(tmp_path), f"image.{extension}").decoded(at_least=16), 8, 3)
    assert np.abs(square.astype(int).mean(axis=(1, 2)) - RED).max() < 5


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_colours_are_read(channels, tmp_path):
    Image.new("LAB", (8, 8), (255, 128, 128)).save(tmp_path / "white.tiff")
    assert square_image(ImageFile(FolderTree(tmp_path), "white.tiff").decoded(at_least=16), 8, channels).min() > 250

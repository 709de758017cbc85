from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import CSVLogger

from fewshot_pl.callbacks import GeneratedImages
from fewshot_pl.callbacks.generated_images import generated_images_figure
from fewshot_pl.callbacks.observer import figure_pixels
from fewshot_pl.errors import InputError


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.parametrize("num_channels", [1, 2, 3])
@pytest.mark.parametrize("num_images", [1, 5, 13, 100])
def test_is_an_rgb_picture_of_any_support(num_channels, num_images):
    images = torch.randn(num_images, num_channels, 28, 28)
    figure = generated_images_figure(images, images)
    pixels = figure_pixels(figure)
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
    assert 200 < pixels.shape[0] < 1000 and 200 < pixels.shape[1] < 1600
    of = f", 20 of {num_images}" if num_images > 20 else ""
    assert titles(figure) == [f"support{of}", f"generated for it{of}"]


def test_shows_the_images_in_their_order_and_whole():
    support, generated = torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    support[1, 0, 0, 0] = 1.0
    generated[2, 0, 3, 3] = 1.0
    (above,), (below,) = (axes.images for axes in generated_images_figure(support, generated).axes)
    sheets = [image.get_array()[..., 0] for image in (above, below)]
    assert [sheet.shape for sheet in sheets] == [(6, 18)] * 2
    assert sheets[0][1, 6 + 1] == 1 and sheets[1][4, 12 + 4] == 1
    for sheet in sheets:
        assert sheet.sum() - 1 == 3 * (36 - 16)  # the rest of the images is black, between them it is white


class Drawing:
    """A model that draws noise around the mean of its support."""

    def generated_images(self, support_x):
        return support_x.mean(0) + torch.linspace(0, 1, support_x.numel()).view_as(support_x)


def test_is_written_once_per_validation_for_models_that_draw(fit, events, monkeypatch):
    monkeypatch.setattr(LightningModule, "generated_images", Drawing.generated_images, raising=False)
    fit(GeneratedImages(), max_epochs=2)
    pictures = events().Images(GeneratedImages.tag)
    assert [picture.step for picture in pictures] == [4, 8]
    assert Image.open(BytesIO(pictures[0].encoded_image_string)).mode == "RGB"


def test_nothing_for_other_models_and_where_there_is_nothing_to_draw(episode, recorder, tmp_path):
    task, drawing, before = episode(), Drawing(), torch.get_rng_state()

    def num_pictures(model=drawing, batch=task, batch_idx=0, every_n_epochs=1, **changes):
        trainer = recorder(tmp_path, **changes)
        GeneratedImages(every_n_epochs).on_validation_batch_end(trainer, model, {"logits": None}, batch, batch_idx)
        return len(trainer.added)

    assert num_pictures() == 1
    assert num_pictures(model=torch.nn.Identity()) == 0
    assert num_pictures(batch=torch.zeros(3)) == 0
    assert num_pictures(batch_idx=1) == 0
    assert num_pictures(every_n_epochs=2) == 0
    assert num_pictures(sanity_checking=True) == 0
    assert num_pictures(is_global_zero=False) == 0
    assert num_pictures(loggers=[CSVLogger(tmp_path)]) == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_refuses_what_would_show_nothing():
    with pytest.raises(InputError, match="at least 1"):
        GeneratedImages(max_images=0)

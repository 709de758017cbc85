import random
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from torch.nn import functional as F

from fewshot_pl.algorithms import RelationNet
from fewshot_pl.callbacks import EpisodePicture, episode_figure
from fewshot_pl.callbacks.episode_picture import RIGHT_COLOR, SUPPORT_COLOR, UNKNOWN_COLOR, WRONG_COLOR, visible
from fewshot_pl.callbacks.observer import figure_pixels
from fewshot_pl.errors import InputError


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def captions(figure):
    return [(text.get_text(), text.get_color()) for text in figure.axes[0].texts if " → " in text.get_text()[:6]]


def frames(figure, color):
    return [patch for patch in figure.axes[0].patches if np.allclose(patch.get_edgecolor()[:3], to_rgb(color))]


def perfect_logits(episode, num_ways):
    return 10 * F.one_hot(episode.query_y.clamp_min(0), num_ways).float()


def has_color(figure, color):
    rgb = np.round(255 * np.array(to_rgb(color))).astype(np.int64)
    return bool((np.abs(figure_pixels(figure).astype(np.int64) - rgb).max(-1) <= 1).any())


@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_is_an_rgb_picture_of_any_task(episode, num_channels):
    for num_ways, num_shots, num_queries in [(2, 1, 1), (5, 5, 8), (20, 1, 2)]:
        task = episode(num_ways, num_shots, num_queries, num_channels, size=28)
        pixels = figure_pixels(episode_figure(task, perfect_logits(task, num_ways)))
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert 200 < pixels.shape[0] < 1000
        assert 200 < pixels.shape[1] < 1600


def test_marks_wrong_queries(episode):
    task = episode(num_ways=3, num_shots=2, num_queries=4, num_channels=1)
    logits = perfect_logits(task, 3)
    figure = episode_figure(task, logits)
    assert "accuracy 100.0%: 12 of 12 queries right, 3 ways" in texts(figure)
    assert len(frames(figure, RIGHT_COLOR)) == 12
    assert not has_color(figure, WRONG_COLOR)

    logits[0, 5] = torch.tensor([0.0, 0.0, 3.0])  # the second query of class 1
    figure = episode_figure(task, logits)
    assert [caption for caption, color in captions(figure) if color == WRONG_COLOR] == ["1 → 2  91%"]
    assert "accuracy 91.7%: 11 of 12 queries right, 3 ways" in texts(figure)
    assert len(frames(figure, WRONG_COLOR)) == 1
    assert has_color(figure, WRONG_COLOR)


def test_shows_the_first_task(episode):
    task = episode(num_tasks=2)
    logits = perfect_logits(task, 3)
    logits[1] = -logits[1]
    assert not frames(episode_figure(task, logits), WRONG_COLOR)


def test_unequal_shots(episode):
    task = episode(num_ways=3, num_shots=7)
    kept = [0, *range(7, 14), *range(14, 17)]  # 1, 7 and 3 shots
    task = task._replace(support_x=task.support_x[:, kept], support_y=task.support_y[:, kept])
    figure = episode_figure(task, perfect_logits(task, 3))
    assert [text for text in texts(figure) if "shot" in text] == ["1 shot", "5 of 7 shots", "3 shots"]
    assert len(frames(figure, SUPPORT_COLOR)) == 3


def test_shows_what_fits(episode):
    task = episode(num_ways=20, num_shots=10, num_queries=15)
    figure = episode_figure(task, perfect_logits(task, 20), max_ways=4, max_shots=2, max_queries=6)
    assert len(captions(figure)) == 4 * 6
    assert len(figure.axes[0].images) == 4 * (2 + 6)
    assert "accuracy 100.0%: 300 of 300 queries right, first 4 of 20 ways" in texts(figure)


def test_queries_of_unknown_class_have_their_own_row(episode):
    task = episode(num_ways=3, num_queries=4)
    logits = perfect_logits(task, 3)
    labels = task.query_y.clone()
    labels[:, 8:] = -100
    figure = episode_figure(task._replace(query_y=labels), logits)
    assert len(frames(figure, RIGHT_COLOR)) == 8
    assert [caption for caption, color in captions(figure) if color == UNKNOWN_COLOR] == ["? → 2  100%"] * 4
    assert "accuracy 100.0%: 8 of 8 queries right, 3 ways" in texts(figure)

    figure = episode_figure(task._replace(query_y=torch.full_like(labels, -100)), logits)
    assert "12 queries of unknown class, 3 ways" in texts(figure)


def test_each_image_is_stretched_over_its_own_range():
    dark, bright = torch.linspace(-3, -2, 16).view(1, 4, 4), torch.linspace(5, 9, 16).view(1, 4, 4)
    constant = torch.full((1, 4, 4), 7.0)
    shown = visible(torch.stack([dark, bright, constant]), torch.tensor([0, 1, 2]))
    assert shown.shape == (3, 4, 4, 3)
    assert np.allclose(shown[0], shown[1], atol=1e-5)
    assert (shown[:2].min(), shown[:2].max(), shown[2].max()) == (0, 1, 0)


def test_half_precision(episode):
    task = episode()
    half = task._replace(support_x=task.support_x.bfloat16(), query_x=task.query_x.bfloat16())
    assert len(captions(episode_figure(half, perfect_logits(task, 3).bfloat16()))) == 12


def test_probabilities_are_those_that_the_algorithm_states(episode):
    task = episode(num_ways=3, num_queries=1, size=28)
    logits = torch.tensor([[[2.0, 0.0, -1.0], [0.0, 2.0, -1.0], [0.0, -1.0, 2.0]]]).expand(2, -1, -1)
    scores = torch.tensor([2.0, 0.0, -1.0]).sigmoid()
    model = RelationNet(image_shape=(1, 28, 28), backbone="conv4-maps")
    figure = EpisodePicture().figure(model, task, logits)
    probability = float(scores[0] / scores.sum())  # docs/algorithms/relation_net.md
    assert [caption for caption, _ in captions(figure)] == [f"{n} → {n}  {probability:.0%}" for n in range(3)]


def test_is_written_once_per_validation(fit, events):
    fit(EpisodePicture(), max_epochs=2, val_check_interval=2)
    pictures = events().Images(EpisodePicture.tag)
    assert [picture.step for picture in pictures] == [2, 4, 6, 8]  # none from the sanity check, at step 0
    assert Image.open(BytesIO(pictures[0].encoded_image_string)).mode == "RGB"


def test_every_second_epoch(fit, events):
    fit(EpisodePicture(every_n_epochs=2), max_epochs=5)
    assert [picture.step for picture in events().Images(EpisodePicture.tag)] == [8, 16]


def test_training_is_not_disturbed(fit):
    watched, alone = fit(EpisodePicture()), fit()
    for ours, theirs in zip(watched.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_looks(episode, recorder, tmp_path):
    task, module = episode(), torch.nn.BatchNorm2d(1)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    trainer = recorder(tmp_path)
    EpisodePicture().on_validation_batch_end(trainer, module, {"logits": perfect_logits(task, 3)}, task, 0)
    assert trainer.added == [1]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    assert module.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_nothing_where_there_is_nothing_to_draw(episode, recorder, tmp_path):
    task = episode()
    outputs = {"logits": perfect_logits(task, 3)}
    sinusoids = task._replace(support_y=torch.randn(2, 6, 1), query_y=torch.randn(2, 12, 1))

    def num_pictures(outputs=outputs, batch=task, batch_idx=0, dataloader_idx=0, **changes):
        trainer = recorder(tmp_path, **changes)
        EpisodePicture().on_validation_batch_end(trainer, None, outputs, batch, batch_idx, dataloader_idx)
        return len(trainer.added)

    assert num_pictures() == 1
    assert num_pictures(batch_idx=1) == 0
    assert num_pictures(dataloader_idx=1) == 0
    assert num_pictures(sanity_checking=True) == 0
    assert num_pictures(is_global_zero=False) == 0
    assert num_pictures(loggers=[CSVLogger(tmp_path)]) == 0
    assert num_pictures(batch=sinusoids) == 0
    assert num_pictures(outputs=None) == 0
    assert num_pictures(outputs={"loss": torch.tensor(1.0)}) == 0


def test_refuses_what_would_show_nothing():
    with pytest.raises(InputError, match="at least 1"):
        EpisodePicture(max_queries=0)

"""Norm running in networks of the user's: layers that not every pass takes, and passes that no task takes."""

import pytest
import torch
from episodes import random_episode
from torch import nn

from fewshot_pl.algorithms import MAML, ProtoNet
from fewshot_pl.backbones.normalization import running_statistics
from fewshot_pl.episode import Episode

IMAGE_SHAPE = (1, 16, 16)


class Branched(nn.Module):
    """Features [n, 4 * 4] of images; a batch norm takes those alone whose first pixel is positive, another none."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, stride=4)
        self.norm, self.sometimes, self.never = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.norm(self.convolution(images))
        if images[0, 0, 0, 0] > 0:
            maps = self.sometimes(maps)
        return maps.flatten(1)


class Dropping(Branched):
    """The same, where every second pass leaves out the batch norm, whatever the images."""

    def __init__(self):
        super().__init__()
        self.num_passes = 0

    def forward(self, images):
        maps = self.norm(self.convolution(images))
        self.num_passes += 1
        return (self.sometimes(maps) if self.num_passes % 2 else maps).flatten(1)


class Own(ProtoNet):
    def own_backbone(self, image_shape):
        return Branched()


class OwnDropping(ProtoNet):
    def own_backbone(self, image_shape):
        return Dropping()


class OwnMAML(MAML):
    def own_backbone(self, image_shape):
        return Branched()


class Frozen(Own):
    """Keeps its extractor in evaluation mode, and learns one number."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.backbone.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def logits_from_features(self, *features):
        return self.scale * super().logits_from_features(*features)


def built(algorithm, **settings):
    torch.manual_seed(0)
    return algorithm(image_shape=IMAGE_SHAPE, norm="running", **settings).double().train()


def episode_of(signs):
    """One task for each sign, which is that of the first pixels of its images."""
    episode = random_episode(num_tasks=len(signs), dtype=torch.float64)
    corners = torch.tensor(signs, dtype=torch.float64)[:, None]
    for images in (episode.support_x, episode.query_x):
        images[:, :, 0, 0, 0] = corners
    return episode


def statistics(layer):
    return torch.stack(running_statistics(layer))


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_an_extractor_in_evaluation_mode_keeps_its_statistics(task_parallel):
    model = built(Frozen, task_parallel=task_parallel)
    before = statistics(model)
    if task_parallel == "vmap":  # cannot branch by values
        model.backbone.forward = lambda images: model.backbone.norm(model.backbone.convolution(images)).flatten(1)
    model.training_losses(random_episode(dtype=torch.float64))["loss"].backward()
    assert model.scale.grad is not None
    assert torch.equal(statistics(model), before)


@pytest.mark.parametrize("settings", [{}, {"task_parallel": "threads"}, {"num_ways": 3}])
def test_a_layer_follows_those_tasks_that_pass_it(settings, two_threads):
    def trained(signs, numbers):
        model = built(OwnMAML if "num_ways" in settings else Own, **settings)
        tasks = (values[numbers] for values in episode_of(signs)[:4])
        model.training_losses(Episode(*tasks, known_ways=3))["loss"].backward()
        network = next(module for module in model.modules() if isinstance(module, Branched))
        return [statistics(layer) for layer in (network.norm, network.sometimes, network.never)]

    of_all, of_two = trained([1, -1, 1], [0, 1, 2]), trained([1, -1, 1], [0, 2])
    assert not torch.equal(of_all[0], of_two[0])
    torch.testing.assert_close(of_all[1], of_two[1], rtol=0, atol=1e-12)
    assert of_all[1][0].abs().min() > 0
    assert of_all[2].tolist() == [[0.0] * 4, [1.0] * 4]


def test_tasks_taken_by_vmap_one_after_the_other_may_differ_too():
    def trained(task_parallel):
        model = built(OwnDropping, task_parallel=task_parallel, task_chunk=1)
        model.training_losses(random_episode(num_tasks=3, dtype=torch.float64))["loss"].backward()
        network = model.backbone
        return [statistics(layer) for layer in (network.norm, network.sometimes, network.never)]

    by_vmap = trained("vmap")
    torch.testing.assert_close(by_vmap, trained("loop"), rtol=0, atol=1e-12)
    assert by_vmap[1][0].abs().min() > 0

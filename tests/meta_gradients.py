"""Small learners of MAML's kind and checks of their meta-gradients (``pythonpath`` makes this importable)."""

import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient
from torch import nn

from fewshot_pl.algorithms import MAML


def build(algorithm=MAML, **arguments):
    """A MAML of three mild inner steps, with the same weights at every call."""
    torch.manual_seed(0)
    defaults = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "backbone": "conv4-32", "inner_lr": 0.05}
    return algorithm(**{**defaults, "num_inner_steps": 3, **arguments}).double()


def meta_gradient(model, episode):
    return flat_gradient(model.training_losses(episode)["loss"], model)


def slopes(model, episode, step=1e-7):
    """The slopes of the meta-loss along its gradient and two random directions: exact, and by central differences.

    The step is small because inner gradients, and with them the meta-loss, jump where a ReLU or a maximum switches.
    """
    gradient = meta_gradient(model, episode)
    directions = torch.stack([gradient, *torch.randn(2, len(gradient), dtype=torch.float64)])
    directions /= directions.norm(dim=1, keepdim=True)
    parameters = list(model.parameters())
    centre = nn.utils.parameters_to_vector(parameters).detach()

    def loss(point):
        nn.utils.vector_to_parameters(point, parameters)
        with torch.no_grad():
            return model.training_losses(episode)["loss"]

    numerical = [(loss(centre + step * d) - loss(centre - step * d)) / (2 * step) for d in directions]
    return directions @ gradient, torch.stack(numerical)


def plain_torch_twin(model):
    """The model's network in torch's own layers, in the paper's order: convolution, batch norm, ReLU, pooling."""
    layers = []
    for before, after in [(IMAGE_SHAPE[0], 32), (32, 32), (32, 32), (32, 32)]:
        norm = nn.BatchNorm2d(after, track_running_stats=False)
        layers += [nn.Conv2d(before, after, 3, padding=1), norm, nn.ReLU(), nn.MaxPool2d(2)]
    twin = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, NUM_WAYS)).double()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(model.parameters()).detach(), twin.parameters())
    return twin

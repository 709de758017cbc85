"""Random episodes for the tests of the algorithms (``pythonpath`` in pyproject.toml makes this importable)."""

import torch

from fewshot_pl.episode import Episode

IMAGE_SHAPE = (1, 16, 16)  # the smallest square of which four halvings leave a pixel
NUM_WAYS = 3


def random_episode(
    num_tasks=2,
    num_ways=NUM_WAYS,
    num_shots=2,
    num_queries=3,
    image_shape=IMAGE_SHAPE,
    dtype=torch.float32,
    seed=0,
):
    """T tasks whose classes are random patterns under noise; the images of a task are in random order."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(num_tasks, num_ways, *image_shape, dtype=dtype, generator=generator)

    def images_and_labels(num_per_class):
        labels = torch.arange(num_ways).repeat(num_per_class)
        labels = torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(num_tasks)])
        noise = torch.randn(*labels.shape, *image_shape, dtype=dtype, generator=generator)
        return patterns[torch.arange(num_tasks)[:, None], labels] + noise, labels

    return Episode(*images_and_labels(num_shots), *images_and_labels(num_queries))


def flat_gradient(loss, module):
    """The gradient of a loss with respect to all parameters of a module, as one vector."""
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(module.parameters()))])


def relative_error(value, reference):
    """The norm of the difference of two vectors, relative to the norm of the second."""
    return ((value - reference).norm() / reference.norm()).item()

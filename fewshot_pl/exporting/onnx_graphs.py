"""A metric method as two ONNX graphs: images to features, and features of a support and of queries to logits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.algorithms.metric import MetricAlgorithm
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.pixels import normalised
from fewshot_pl.errors import InputError

TOLERANCE = 1e-4  # how much ONNX Runtime may differ from torch, relative to the largest number


class Encoder(nn.Module):
    """Maps stored images, uint8 [n, C, H, W] in 0..255, to features [n, D]."""

    scale: Tensor  # [1, C, 1, 1], of the normalisation
    offset: Tensor  # [1, C, 1, 1]

    def __init__(self, algorithm: MetricAlgorithm, data: ImageDataModule) -> None:
        super().__init__()
        self.algorithm = algorithm
        # Buffers of its own: the tensors that ``normalised`` caches must not meet the exporter's fake tensors.
        darkest, brightest = (
            normalised(torch.full((1, data.image_shape[0], 1, 1), level, dtype=torch.uint8), data.mean, data.std)
            for level in (0, 255)
        )
        self.register_buffer("scale", (brightest - darkest) / 255)
        self.register_buffer("offset", darkest)

    def forward(self, images: Tensor) -> Tensor:
        return self.algorithm.encode(images.float() * self.scale + self.offset)


class Head(nn.Module):
    """Maps support features [S, D], their one-hot classes [S, N] and query features [n, D] to logits and probabilities.

    Both are [n, N]; the probabilities are those that the algorithm computes from the logits.
    """

    def __init__(self, algorithm: MetricAlgorithm) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(
        self, support_features: Tensor, support_classes: Tensor, query_features: Tensor
    ) -> tuple[Tensor, Tensor]:
        labels, num_ways = support_classes.argmax(1), support_classes.shape[1]
        logits = self.algorithm.logits_from_features(support_features, labels, query_features, num_ways)
        return logits, self.algorithm.class_log_probabilities(logits).exp()


def exportable(algorithm: FewShotAlgorithm) -> MetricAlgorithm:
    """The algorithm, if it is a metric method that embeds each image by itself.

    Raises:
        InputError: it adapts its weights, its images influence each other, it reads the support image by image, or a
            user's subclass computes its logits in another way.
    """
    name = type(algorithm).__name__
    if not isinstance(algorithm, MetricAlgorithm):
        raise InputError(
            f"{name} adapts its weights to each task, which a graph of fixed weights cannot: export a checkpoint of "
            "ProtoNet, MatchingNet or RelationNet"
        )
    if algorithm.replaced_passes:
        raise InputError(
            f"{name} has {' and '.join(algorithm.replaced_passes)} of its own, which the graphs would leave out: write "
            "own_backbone or logits_from_features in place of them"
        )
    if not algorithm.embeds_alone:
        raise InputError(
            f"in norm {algorithm.norm_mode} images influence each other's features: export a checkpoint trained with "
            "--model.norm running, group or layer"
        )
    if algorithm.hparams.get("full_context"):
        raise InputError(
            "MatchingNet with full_context reads the support image by image, so its graph would be of one number of "
            "images: export one without full_context"
        )
    return algorithm


def write_graphs(algorithm: MetricAlgorithm, data: ImageDataModule, folder: Path) -> dict[str, float]:
    """Write ``encoder.onnx`` and ``head.onnx``, and compare them with torch through ONNX Runtime.

    The numbers of images and classes are dynamic.

    Returns:
        The largest difference of each graph from torch, relative to torch's largest number.
    """
    any_number = torch.export.Dim.DYNAMIC
    images = _random_images(4, data.image_shape)
    encoder, head = Encoder(algorithm, data).eval(), Head(algorithm).eval()
    _write(encoder, (images,), ({0: any_number},), ["images"], ["features"], folder / "encoder.onnx")
    task = _random_task(encoder, 7, 3, 5, data.image_shape)
    varying: tuple[dict[int, Any], ...] = ({0: any_number}, {0: any_number, 1: any_number}, {0: any_number})
    names = ["support_features", "support_classes", "query_features"]
    _write(head, task, varying, names, ["logits", "probabilities"], folder / "head.onnx")
    return {
        # With other numbers of images and classes than the graphs were exported with.
        "encoder.onnx": _difference(folder / "encoder.onnx", encoder, (_random_images(3, data.image_shape),)),
        "head.onnx": _difference(folder / "head.onnx", head, _random_task(encoder, 9, 4, 2, data.image_shape)),
    }


def _write(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    varying: tuple[dict[int, Any], ...],
    names: list[str],
    outputs: list[str],
    path: Path,
) -> None:
    with torch.no_grad():
        torch.onnx.export(
            module,
            inputs,
            path,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=varying,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _difference(path: Path, module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    import onnxruntime  # takes a second to import

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = (one.name for one in session.get_inputs())
    found = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
    with torch.no_grad():
        outputs = module(*inputs)
    expected = [one.numpy() for one in (outputs if isinstance(outputs, tuple) else (outputs,))]
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)


def _random_images(count: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)


@torch.no_grad()
def _random_task(
    encoder: Encoder, num_support: int, num_ways: int, num_queries: int, shape: tuple[int, int, int]
) -> tuple[Tensor, ...]:
    """The inputs of ``Head`` for a task of random images with unequal shots."""
    labels = torch.arange(num_support) % num_ways
    classes = nn.functional.one_hot(labels, num_ways).float()
    return encoder(_random_images(num_support, shape)), classes, encoder(_random_images(num_queries, shape))

"""GradientAlgorithm: methods that adapt a network to each task by steps on its support."""

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewshot_pl.algorithms.arguments import at_least, check_precision
from fewshot_pl.algorithms.base import FewShotAlgorithm, QueryPredictor
from fewshot_pl.algorithms.side_by_side import full_groups, parted
from fewshot_pl.backbones import ImageShape, Norm, build_learner
from fewshot_pl.backbones.learner import query_logits_at
from fewshot_pl.backbones.normalization import set_norm_eps
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.functional.inner_loop import Parameters

# All groups have this size, and a task is rounded alike at any position in one: tested on one CPU.
_EVALUATED_TOGETHER = 4


class GradientAlgorithm(FewShotAlgorithm):
    """Base of the methods that adapt a learner, a backbone with a linear head, by steps on a task's support.

    Args:
        num_ways: N, the number of outputs of the head; training and test therefore have the same N.
        image_shape: (C, H, W) of the images.
        backbone: name of the network below the linear head, see ``build_backbone``.
        backbone_weights: pre-trained weights of a ``timm/...`` backbone: a file, or ``pretrained``.
        norm: where batch norm takes its statistics from; ``transductive``, as in the papers, uses the current batch.
        norm_eps: what batch norm adds to the variance; by default the backbone's own value, which is torch's 1e-5
            except for some of timm's. The code of MAML, Reptile and the LSTM meta-learner adds 1e-3.
        num_inner_steps: steps on the support in training.
        num_inner_steps_test: steps in validation and test; default as in training.
    """

    argument_ranges = at_least(1, "num_ways") | at_least(0, "num_inner_steps", "num_inner_steps_test")
    regresses = True

    def __init__(
        self,
        num_ways: int = 5,
        image_shape: ImageShape = (1, 28, 28),
        backbone: str = "conv4",
        backbone_weights: str | None = None,
        norm: Norm = "transductive",
        norm_eps: float | None = None,
        num_inner_steps: int = 1,
        num_inner_steps_test: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_ways = num_ways
        self.norm = norm
        self.num_inner_steps = num_inner_steps
        self.num_inner_steps_test = num_inner_steps if num_inner_steps_test is None else num_inner_steps_test
        self.learner = build_learner(
            backbone, image_shape, norm, num_ways, backbone_weights, self._named_backbone(image_shape)
        )
        set_norm_eps(self.learner, norm_eps)

    def setup(self, stage: str) -> None:
        check_precision(type(self).__name__, str(self.trainer.precision))
        super().setup(stage)

    @abstractmethod
    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        """The learner's parameters after ``num_steps`` steps on one task's support [N*K, C, H, W], [N*K]."""

    def encode(self, images: Tensor) -> Tensor:
        """The features [n, D] of images [n, C, H, W], which pass in one batch, before any adaptation."""
        features: Tensor = self.learner.backbone(images)
        self.update_running_statistics()
        return features

    @property
    def learned_step_sizes(self) -> dict[str, Tensor]:
        """The learned step sizes of the adaptation, by name, or by name and layer; none by default."""
        return {}

    @property
    def num_steps(self) -> int:
        """The number of steps on a task in the current mode: training, or validation and test."""
        return self.num_inner_steps if self.training else self.num_inner_steps_test

    # Tasks side by side ----------------------------------------------------------------------------------

    @property
    def adapts_side_by_side(self) -> bool:
        """Whether several tasks may adapt side by side; overridden by algorithms that support it."""
        return False

    @property
    def passes_side_by_side(self) -> bool:
        """Whether tasks may pass through the learner side by side."""
        # What was asked for decides, as a resumed training does not know yet whether compiling fails.
        compiles = self.asked_to_compile and self.training
        return self.learner.passes_side_by_side and not compiles

    def adapted_side_by_side(self, support_x: Tensor, support_y: Tensor) -> Parameters:
        """As ``adapted`` for supports [G, N*K, C, H, W], [G, N*K]: the parameters of all tasks, side by side."""
        raise NotImplementedError

    def images_of_a_step(self, support_x: Tensor) -> Tensor:
        """Images of one task's support, as many as an inner step of an evaluation takes."""
        return support_x

    def num_side_by_side(self, images: Tensor, num_tasks: int) -> int:
        """How many of ``num_tasks`` training tasks adapt side by side, each by steps on images [n, C, H, W]."""
        most = min(self.task_chunk or num_tasks, num_tasks)
        if self.task_parallel == "side_by_side":
            return most
        if not (self.is_auto and self.adapts_side_by_side):
            return 1
        if images.is_cpu:
            return min(most, self.learner.num_side_by_side(images))
        return most if images.is_cuda else 1

    def check_side_by_side(self) -> None:
        """Raise InputError if tasks are to adapt side by side but cannot."""
        if self.task_parallel == "side_by_side" and not self.adapts_side_by_side:
            raise InputError(
                "tasks are taken side by side by MAML and Reptile, not by their subclasses, through Conv4 with norm "
                "transductive or support, and without compile, recompute_inner_steps and sequential: leave out "
                "--model.task_parallel side_by_side"
            )

    def trains_in_pairs(self, support_x: Tensor) -> bool:
        return _is_even(len(support_x)) and self.learner.is_small

    def trains_groups_in_pairs(self, support_x: Tensor, num_together: int) -> bool:
        """Whether ``auto`` trains on two groups of tasks side by side at a time, each with half of a CPU's cores."""
        num_groups, rest = divmod(len(support_x), num_together)
        fits = 2 * num_together <= (self.task_chunk or len(support_x))
        return self.is_auto and support_x.is_cpu and fits and not rest and _is_even(num_groups)

    def forward(self, episode: Episode) -> Tensor:
        if not self._evaluates_side_by_side(episode):
            return super().forward(episode)
        self.checked_ways(episode)

        def logits_of_each(model: GradientAlgorithm, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
            parameters = parted(model.adapted_side_by_side(support_x, support_y), len(support_x), 1)
            return torch.stack([model.logits_at(*task) for task in zip(parameters, support_x, query_x, strict=True)])

        groups = full_groups(episode[:3], _EVALUATED_TOGETHER)
        return self.map_tasks(logits_of_each, *groups)[0].flatten(0, 1)[: episode.num_tasks]

    def _evaluates_side_by_side(self, episode: Episode) -> bool:
        may = self.is_auto and self.adapts_side_by_side and episode.support_x.is_cpu
        if not (may and self.evaluates_a_list) or (self.task_chunk or _EVALUATED_TOGETHER) < _EVALUATED_TOGETHER:
            return False
        # For one thread, as figures must not depend on the number of threads.
        return self.learner.num_side_by_side(self.images_of_a_step(episode.support_x[0]), num_threads=1) > 1

    # Adaptation and prediction --------------------------------------------------------------------------

    def predictor(self, support_x: Tensor, support_y: Tensor, num_ways: int) -> QueryPredictor:
        return partial(self.logits_at, self.adapted(support_x, support_y, self.num_steps), support_x)

    def query_logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        return self.predictor(support_x, support_y, num_ways)(query_x)

    def logits_at(self, parameters: Parameters, support_x: Tensor, query_x: Tensor) -> Tensor:
        """The logits [N*Q, N] of one task's queries, all in one batch, at the given parameters of the learner."""
        return query_logits_at(self.learner, parameters, support_x, query_x, self.norm)

    def adaptation_curve(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        steps = range(self.num_steps + 1)
        adapted = [self.adapted(support_x, support_y, num_steps) for num_steps in steps]
        return torch.stack([self.logits_at(parameters, support_x, query_x) for parameters in adapted])


def _is_even(num_parts: int) -> bool:
    """Whether a CPU's cores can share these parts in pairs, so that no core waits for the last."""
    return num_parts % 2 == 0 and torch.get_num_threads() % 2 == 0

"""Model-Agnostic Meta-Learning (Finn, Abbeel, Levine 2017)."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.backbones import ImageShape, Learner, Norm, build_backbone
from fewshot_pl.backbones.learner import initialise_xavier, query_logits_at
from fewshot_pl.functional.inner_loop import Parameters, adapted_parameters


class MAML(FewShotAlgorithm):
    """Learn weights from which a few gradient steps on the support solve a task.

    phi = theta - alpha grad_theta L(theta; support), ``num_inner_steps`` times; theta is trained by Adam on
    L(phi; query) through those steps (section 2.2, algorithm 2). Learned: theta, batch norm's scale and shift among it.
    Adapted: a copy of all of theta.

    Differs from the paper's code: batch norm's scale and shift are adapted too (the code has no scale and does not
    adapt the shift), and the head starts from Xavier's distribution on every benchmark.

    Args:
        num_ways: N; the head has so many outputs, so training and test have the same N.
        image_shape: (C, H, W) of the images.
        backbone: name of the network below the linear head, see ``build_backbone``.
        backbone_weights: pre-trained weights of a ``timm/...`` backbone: a file, or ``pretrained``.
        norm: where batch norm takes its statistics from; ``transductive``, the paper's, normalises the support and the
            query each with its own.
        inner_lr: alpha.
        num_inner_steps: gradient steps on the support in training.
        num_inner_steps_test: in validation and test; default as in training.
        first_order: count inner gradients as constants (first-order MAML, section 5.2).
        inner_loss_reduction: the inner loss is the cross-entropy summed over the support and divided by the shots
            (``sum_over_shots``, the paper's code, which ``inner_lr`` = 0.4 belongs to) or its ``mean``, N times
            smaller.
    """

    def __init__(
        self,
        num_ways: int = 5,
        image_shape: ImageShape = (1, 28, 28),
        backbone: str = "conv4",
        backbone_weights: str | None = None,
        norm: Norm = "transductive",
        inner_lr: float = 0.4,
        num_inner_steps: int = 1,
        num_inner_steps_test: int | None = None,
        first_order: bool = False,
        inner_loss_reduction: Literal["sum_over_shots", "mean"] = "sum_over_shots",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_ways = num_ways
        self.norm = norm
        self.inner_lr = inner_lr
        self.num_inner_steps = num_inner_steps
        self.num_inner_steps_test = num_inner_steps if num_inner_steps_test is None else num_inner_steps_test
        self.first_order = first_order
        self.inner_loss_reduction = inner_loss_reduction
        network = build_backbone(backbone, image_shape, norm, backbone_weights)
        self.learner = Learner(network, image_shape, num_ways)
        initialise_xavier(self.learner if backbone_weights is None else self.learner.head)

    def query_logits(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        return query_logits_at(self.learner, self.adapted(support_x, support_y), support_x, query_x, self.norm)

    def adapted(self, support_x: Tensor, support_y: Tensor) -> Parameters:
        """The learner's parameters after adaptation to one task's support [N*K, C, H, W], [N*K]."""

        def support_loss(parameters: Parameters) -> Tensor:
            logits = functional_call(self.learner, parameters, (support_x,))
            loss = F.cross_entropy(logits, support_y)
            return loss * logits.shape[-1] if self.inner_loss_reduction == "sum_over_shots" else loss

        num_steps = self.num_inner_steps if self.training else self.num_inner_steps_test
        parameters = dict(self.learner.named_parameters())
        with torch.autocast(support_x.device.type, enabled=False):  # half precision spoils second derivatives
            return adapted_parameters(support_loss, parameters, self.inner_lr, num_steps, self.first_order)

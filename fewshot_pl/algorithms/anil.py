"""ANIL: almost no inner loop (Raghu, Raghu, Bengio, Vinyals 2020)."""

from torch import Tensor, nn
from torch.func import functional_call

from fewshot_pl.algorithms.adaptation import adapted_learner
from fewshot_pl.algorithms.maml import MAML
from fewshot_pl.backbones.learner import body_and_head, channels_last
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.precision import at_least_float32


class ANIL(MAML):
    """MAML whose inner steps adapt only the head, in training and at test.

    phi = (body, head - alpha grad_head L(body, head; support)), ``num_inner_steps`` times; the body and the head are
    trained by Adam on L(phi; query) through those steps. The steps need only the support's features, so the support
    passes the body once, however many steps there are. Learned: body and head. Adapted: a copy of the head.

    Batch norm, initial weights and defaults are those of our MAML.

    Args:
        inner_lr: alpha, the learning rate of the inner loop.
        first_order: treat inner gradients as constants; the body then learns from the queries alone.
        recompute_inner_steps: recompute each inner step in the backward pass, which saves little, as steps are small.
    """

    takes_side_by_side = False

    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        parameters: Parameters = dict(self.learner.named_parameters())
        if not self.learner.vectorised:
            parameters = channels_last(parameters)
        body, head = body_and_head(parameters)
        features = at_least_float32(_passed(self.learner.backbone, "backbone.", body, support_x))
        return {**body, **self._adapted_head(head, features, support_y, num_steps)}

    def _adapted_head(self, head: Parameters, features: Tensor, targets: Tensor, num_steps: int) -> Parameters:
        """The head after ``num_steps`` steps on the support's features [N*K, D] and its targets."""

        def support_loss(parameters: Parameters, features: Tensor, targets: Tensor) -> Tensor:
            return self.inner_loss(_passed(self.learner.head, "head.", parameters, features), targets)

        return adapted_learner(
            self.learner,
            support_loss,
            head,
            self.rates,
            num_steps,
            self.first_order,
            data=(features, targets),
            recompute=self.recompute_inner_steps,
        )


def _passed(part: nn.Module, prefix: str, parameters: Parameters, inputs: Tensor) -> Tensor:
    """The outputs of a part of the learner, whose names begin with ``prefix`` there, with these parameters."""
    own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
    outputs: Tensor = functional_call(part, own, (inputs,))
    return outputs

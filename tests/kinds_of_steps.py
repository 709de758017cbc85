"""The kinds of training steps that algorithms take (``pythonpath`` in pyproject.toml makes this importable)."""

from own_images import ALGORITHMS

from fewshot_pl import algorithms

_MAPS = {"backbone": "conv4-maps"}
KINDS = {
    **{name: (name, _MAPS if name == "RelationNet" else {}) for name in ALGORITHMS},
    "ProtoNet-running": ("ProtoNet", {"norm": "running"}),
    "ProtoNet-cosine": ("ProtoNet", {"distance": "cosine"}),
    "MatchingNet-FCE": ("MatchingNet", {"full_context": True, "norm": "support"}),
    "MAML-halved": ("MAML", {"norm": "running", "task_chunk": 2, "lr_halve_every": 1}),
    "MAML-side-by-side": ("MAML", {"num_inner_steps": 2, "task_parallel": "side_by_side"}),
    "MAML-recomputed": ("MAML", {"num_inner_steps": 3, "recompute_inner_steps": True}),
    "MAML-first-order": ("MAML", {"num_inner_steps": 3, "first_order": True, "backbone": "conv4-32-strided"}),
    "Reptile-side-by-side": ("Reptile", {"task_parallel": "side_by_side"}),
    "Reptile-sequential": ("Reptile", {"sequential": True}),
    "MetaGAN-relation": ("MetaGAN", {**_MAPS, "classifier": "relation_net"}),
}


def build(kind, image_shape, **arguments):
    """An algorithm that takes steps of a kind; the kind's settings override ``arguments``."""
    name, settings = KINDS[kind]
    return getattr(algorithms, name)(image_shape=image_shape, **{**ALGORITHMS[name], **arguments, **settings})

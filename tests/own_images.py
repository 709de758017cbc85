"""Folders of a user's images for tests (``pythonpath`` makes this importable)."""

import numpy as np
from PIL import Image

_HEAD = {"num_ways": 3}
ALGORITHMS = {
    "ProtoNet": {},
    "MatchingNet": {},
    "RelationNet": {},
    "MAML": _HEAD,
    "ANIL": _HEAD,
    "BOIL": _HEAD,
    "MetaSGD": _HEAD,
    "Reptile": {**_HEAD, "num_inner_steps_test": 3},
    "LSTMMetaLearner": {**_HEAD, "num_inner_steps": 2},
    "MetaGAN": {**_HEAD, "generator_width": 4},
    "PLATIPUS": {**_HEAD, "num_samples": 2},
}


def write_classes(root, num_images, size=40, seed=0):
    """Write ``root/<class>/<number>.png``: each class a colour of its own under noise; ``num_images`` by class name."""
    generator = np.random.default_rng(seed)
    for number, (name, count) in enumerate(num_images.items()):
        folder = root / name
        folder.mkdir(parents=True)
        colour = np.random.default_rng(number).integers(30, 220, 3)
        for index in range(count):
            noise = generator.integers(-30, 30, (size, size + 8, 3))
            Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return root

"""The command ``export.py``."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from fewshot_pl.errors import InputError
from fewshot_pl.exporting.onnx_graphs import TOLERANCE, exportable, write_graphs
from fewshot_pl.flags import FewShotArgumentParser, make_folder
from fewshot_pl.guard import guarded
from fewshot_pl.own_classes import add_own_classes, import_own_classes
from fewshot_pl.prediction.trained_model import trained_model


@partial(guarded, places="--output")
def export(args: Sequence[str] | None) -> None:
    """Write the encoder and the head of a metric method as ONNX graphs, and compare them with torch."""
    parser = FewShotArgumentParser(description="Export a metric method: an encoder of images and a head of features.")
    parser.add_argument("--ckpt_path", type=str, required=True, help="checkpoint that train.py wrote")
    add_own_classes(parser)
    parser.add_argument("--format", type=Literal["onnx"], default="onnx", help="the format to export to")
    parser.add_argument("--output", type=str, default="exported", help="folder to write encoder.onnx and head.onnx to")
    config = parser.parse_args(None if args is None else list(args))
    import_own_classes(config)
    model = trained_model(config.ckpt_path, "cpu")
    algorithm, folder = exportable(model.algorithm), Path(config.output).expanduser()
    make_folder(folder, "output")
    differences = write_graphs(algorithm, model.data, folder)
    for name, difference in differences.items():
        print(f"{folder / name} differs from torch by {difference:.1e} of its largest number")
    if max(differences.values()) > TOLERANCE:
        raise InputError(f"the graphs in {folder} differ from torch by more than {TOLERANCE}: do not use them")
    facts = {
        "algorithm": type(algorithm).__name__,
        "image_shape": list(model.data.image_shape),
        "whole_images": model.data.whole_images,
        "light_on_dark": model.data.light_on_dark,
        "rejections": [rejection._asdict() for rejection in model.rejections],
    }
    (folder / "export.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")

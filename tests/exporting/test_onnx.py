"""Exported graphs in ONNX Runtime against torch, with other sizes than they were exported with."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from own_images import write_classes
from PIL import ExifTags, Image

from fewshot_pl import FewShotPredictor
from fewshot_pl.backbones.conv4 import Conv4
from fewshot_pl.cli import export

RELATION = {"norm": "running"}


PAGE = (Path(__file__).parents[2] / "docs" / "own_images.md").read_text("utf-8")


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def write_odd_images(folder):
    """Write images of other proportions, on their side, transparent, of 16 bits, and a large JPEG."""
    folder.mkdir()
    random = np.random.default_rng(0)
    smooth = [Image.fromarray(random.integers(0, 256, (8, 8, 4), dtype=np.uint8)).resize((300, 180)) for _ in range(4)]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    smooth[0].convert("RGB").save(folder / "wide.png")
    smooth[1].convert("RGB").save(folder / "turned.jpg", exif=exif)
    smooth[2].save(folder / "transparent.png")
    Image.fromarray(np.asarray(smooth[3].convert("L")).astype(np.uint16) * 250).save(folder / "deep.png")
    smooth[3].convert("RGB").resize((1600, 1200)).save(folder / "large.jpg")


def deep_images(folder):
    """Write images whose white is found from their values, of floating-point numbers and of 32 bits."""
    values = np.arange(64.0).reshape(8, 8)
    Image.fromarray((values / 64).astype(np.float32)).save(folder / "float.tif")
    Image.fromarray((values * 1000).astype(np.int32)).save(folder / "long.tif")
    return [folder / "float.tif", folder / "long.tif"]


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [("ProtoNet", {}), ("ProtoNet", {"norm": "group"}), ("MatchingNet", {}), ("RelationNet", RELATION)],
)
def test_graphs_give_the_predictors_logits(checkpoint, tmp_path, algorithm, settings):
    path, folder = checkpoint(algorithm, **settings), tmp_path / "exported"
    assert export(["--ckpt_path", str(path), "--output", str(folder)]) == 0
    files = sorted(write_classes(tmp_path / "classes", {"a": 3, "b": 1, "c": 2, "d": 2}).rglob("*.png"))
    labels = [file.parent.name for file in files]
    predictor = FewShotPredictor(path).fit(files, labels)

    stored = np.stack([predictor.model.data.own_image(predictor.model.opened(file)) for file in files])
    (features,) = run(folder / "encoder.onnx", stored)
    classes = (np.asarray(labels)[:, None] == predictor.classes_).astype(np.float32)
    found, probabilities = run(folder / "head.onnx", features, classes, features[:5])
    expected = predictor.decision_function(files[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(probabilities, predictor.predict_proba(files[:5]), atol=1e-4)
    assert json.loads((folder / "export.json").read_text())["image_shape"] == [3, 32, 32]


@pytest.mark.parametrize(
    ("algorithm", "data", "settings"),
    [
        ("ProtoNet", "CUB", {}),
        ("ProtoNet", "Quickdraw", {}),
        ("MatchingNet", "Omniglot", {}),
        ("RelationNet", "CIFARFS", RELATION),
    ],
)
def test_the_pages_recipe_has_the_predictors_numbers(checkpoint, tmp_path, monkeypatch, algorithm, data, settings):
    """On images squeezed as a whole, on light ink on dark, and with scores that are no softmax."""
    path = checkpoint(algorithm, data, **settings)
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path / "my_classes", {"a": 3, "b": 1, "c": 2})
    write_odd_images(tmp_path / "new_images")
    assert export(["--ckpt_path", str(path)]) == 0
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (recipe,) = (block for block in blocks if "onnxruntime" in block)
    exec(compile(recipe, "own_images.md", "exec"), names := {})

    predictor = FewShotPredictor(path).fit(names["examples"], [file.parent.name for file in names["examples"]])
    expected = predictor.decision_function(names["queries"])
    assert len(expected) == 5
    for file in names["queries"]:
        own = predictor.model.data.own_image(predictor.model.opened(file))
        np.testing.assert_array_equal(names["stored"](file), own, err_msg=file.name)
    np.testing.assert_allclose(names["logits"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(names["probabilities"], predictor.predict_proba(names["queries"]), atol=1e-4)
    for file in deep_images(tmp_path):
        with pytest.raises(ValueError, match=rf"{file.name} .*convert it to 8 bits"):
            names["stored"](file)


@pytest.mark.parametrize(
    ("algorithm", "settings", "told"),
    [
        ("MAML", {}, "MAML adapts its weights to each task"),
        ("ProtoNet", {"norm": "transductive"}, "images influence each other"),
        ("MatchingNet", {"full_context": True}, "image by image"),
    ],
)
def test_what_cannot_be_exported_says_why(checkpoint, tmp_path, capsys, algorithm, settings, told):
    path = checkpoint(algorithm, **settings)
    capsys.readouterr()
    assert export(["--ckpt_path", str(path), "--output", str(tmp_path / "exported")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "exported").exists()


def test_graphs_that_differ_are_refused(checkpoint, tmp_path, capsys, monkeypatch):
    plain = Conv4.forward
    monkeypatch.setattr(
        Conv4, "forward", lambda self, images: plain(self, images) * (1 if torch.compiler.is_exporting() else 2)
    )
    assert export(["--ckpt_path", str(checkpoint()), "--output", str(tmp_path / "exported")]) == 2
    assert "differ from torch by more than" in capsys.readouterr().err

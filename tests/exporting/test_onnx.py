"""Exported graphs against torch, through ONNX Runtime, with other sizes than they were made from."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from own_images import write_classes

from fewshot_pl import FewShotPredictor
from fewshot_pl.exporting.command import export

RELATION = {"norm": "running"}


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


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
    features = run(folder / "encoder.onnx", stored)
    classes = (np.asarray(labels)[:, None] == predictor.classes_).astype(np.float32)
    found = run(folder / "head.onnx", features, classes, features[:5])
    expected = predictor.decision_function(files[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert json.loads((folder / "export.json").read_text())["image_shape"] == [3, 32, 32]


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
    from fewshot_pl.algorithms import ProtoNet

    plain = ProtoNet.encode
    monkeypatch.setattr(
        ProtoNet, "encode", lambda self, images: plain(self, images) * (1 if torch.compiler.is_exporting() else 2)
    )
    assert export(["--ckpt_path", str(checkpoint()), "--output", str(tmp_path / "exported")]) == 2
    assert "differ from torch by more than" in capsys.readouterr().err

"""predict.py through its entry point: the table, the page, its remarks, and bad input."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import write_classes
from PIL import Image

from fewshot_pl import FewShotPredictor
from fewshot_pl.cli import predict
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_tree import ImageFile
from fewshot_pl.prediction.rejection import REJECTIONS_KEY, Rejection


@pytest.fixture
def folders(tmp_path):
    """A support of three classes and a query of six images."""
    support = write_classes(tmp_path / "support", {"red": 3, "green": 2, "blue": 1})
    query = write_classes(tmp_path / "query", {"a": 2, "b": 2, "c": 2}, seed=1)
    return support, query


def flags(path, folders, output, **more):
    values = {"ckpt_path": path, "support": folders[0], "query": folders[1], "output": output, **more}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def rows(output):
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def calibrated(path):
    """Give a checkpoint thresholds of the largest probability: p for a false_reject of p."""
    rejection = Rejection("probability", 3, 1, 0.9, np.linspace(0.0, 1.0, 101).tolist(), [0.25] * 101)
    torch.save({**torch.load(path, weights_only=True), REJECTIONS_KEY: [rejection._asdict()]}, path)


@pytest.mark.parametrize("algorithm", ["ProtoNet", "MAML"])
def test_the_table_holds_what_the_predictor_says(checkpoint, folders, tmp_path, capsys, algorithm):
    path, output = checkpoint(algorithm), tmp_path / "deep" / "out"
    assert predict(flags(path, folders, output, batch_size=4, per_query="true")) == 0
    assert "6 images labelled, 0 of them unknown" in capsys.readouterr().out

    support = sorted(folders[0].rglob("*.png"))
    predictor = FewShotPredictor(path, per_query=True).fit(support, [file.parent.name for file in support])
    table = rows(output)
    files = [Path(row["file"]) for row in table]
    assert files == sorted(folders[1].rglob("*.png"))
    probabilities = np.sort(predictor.predict_proba(files), -1)
    assert [row["class"] for row in table] == predictor.predict(files).tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in table], probabilities[:, -1], atol=1e-4)
    margins = probabilities[:, -1] - probabilities[:, -2]
    np.testing.assert_allclose([float(row["margin"]) for row in table], margins, atol=2e-4)
    assert all(row["second_class"] not in ("", row["class"]) and row["unknown"] == "" for row in table)


def test_unknown_images_are_marked(checkpoint, folders, tmp_path, capsys):
    path = checkpoint()
    calibrated(path)
    assert predict(flags(path, folders, tmp_path / "out", false_reject=0.9)) == 0
    table = rows(tmp_path / "out")
    assert [row["unknown"] for row in table] == ["yes" if float(row["probability"]) < 0.9 else "no" for row in table]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "it took 25 % of the images of other classes" in page


def test_what_is_no_image_is_remarked_and_left_out(checkpoint, folders, tmp_path, capsys):
    (folders[0] / "red" / "notes.txt").write_text("red things")
    (folders[1] / "list.csv").write_text("1,2")
    assert predict(flags(checkpoint(), folders, tmp_path / "out")) == 0
    told = capsys.readouterr().out
    assert f"Left out, as no image: {folders[0]}/red/notes.txt and 1 other" in told
    assert "not calibrated to call images unknown" in told
    assert len(rows(tmp_path / "out")) == 6


def test_colour_images_for_a_grey_checkpoint_are_remarked(checkpoint, folders, tmp_path, capsys):
    path = checkpoint(data="Omniglot")
    assert predict(flags(path, folders, tmp_path / "out")) == 0
    assert "The images have colour and this model was trained on grey ones" in capsys.readouterr().out
    for file in folders[0].rglob("*.png"):
        Image.open(file).convert("L").save(file)
    assert predict(flags(path, folders, tmp_path / "out")) == 0
    assert "images have colour" not in capsys.readouterr().out


@pytest.mark.parametrize("calibrates", [False, True])
def test_a_transductive_model_is_remarked(checkpoint, folders, tmp_path, capsys, calibrates):
    path = checkpoint("MAML")
    if calibrates:
        calibrated(path)
    assert predict(flags(path, folders, tmp_path / "out")) == 0
    told = capsys.readouterr().out
    assert "influence each other" in told and ("found on batches half of which were unknown" in told) == calibrates
    assert predict(flags(path, folders, tmp_path / "out", per_query="true")) == 0
    told = capsys.readouterr().out
    assert "influence each other" not in told and ("found on batches half of which were unknown" in told) == calibrates


def test_of_a_reptile_that_passes_each_query_by_itself_nothing_is_remarked(checkpoint, folders, tmp_path, capsys):
    path = checkpoint("Reptile", per_query=True)
    calibrated(path)
    assert predict(flags(path, folders, tmp_path / "out")) == 0
    told = capsys.readouterr().out
    assert "influence each other" not in told and "in batches" not in told
    together = rows(tmp_path / "out")
    assert predict(flags(path, folders, tmp_path / "alone", batch_size=1)) == 0
    for one, other in zip(together, rows(tmp_path / "alone"), strict=True):
        assert one["class"] == other["class"] and float(one["probability"]) == pytest.approx(
            float(other["probability"]), abs=2e-4
        )


def test_a_folder_that_cannot_be_is_said_before_the_work(checkpoint, folders, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(FewShotPredictor, "logits", lambda *_: pytest.fail("labelling has begun"))
    assert predict(flags(checkpoint(), folders, tmp_path / "file" / "out")) == 2
    assert "give --output another place" in capsys.readouterr().err


def test_a_corrupt_query_loses_no_other(checkpoint, folders, tmp_path, capsys):
    (folders[1] / "a" / "0.png").write_bytes(b"no image")
    assert predict(flags(checkpoint(), folders, tmp_path / "out")) == 2
    assert len(rows(tmp_path / "out")) == 5
    assert "1 of 6 images is not labelled" in (told := capsys.readouterr().err) and "a/0.png cannot be decoded" in told


def test_a_query_without_pixels_loses_no_other(checkpoint, folders, tmp_path, capsys, monkeypatch):
    """Which no decoder of today's Pillow gives."""
    Image.new("RGB", (9, 9)).save(folders[1] / "a" / "0.png")
    decoded = ImageFile.decoded

    def emptied(file, at_least=None):
        image = decoded(file, at_least)
        return image if image.size != (9, 9) else Image.new("RGB", (9, 0))

    monkeypatch.setattr(ImageFile, "decoded", emptied)
    assert predict(flags(checkpoint(), folders, tmp_path / "out")) == 2
    assert len(rows(tmp_path / "out")) == 5
    assert "1 of 6 images is not labelled" in (told := capsys.readouterr().err) and "a/0.png has 9x0 pixels" in told


def test_a_query_in_colours_that_do_not_convert_loses_no_other(checkpoint, folders, tmp_path, capsys, monkeypatch):
    Image.new("RGB", (9, 9)).save(folders[1] / "a" / "0.png")
    own_image = ImageDataModule.own_image

    def converted(data, image):
        return own_image(data, image if image.size != (9, 9) else Image.new("La", (9, 9)))

    monkeypatch.setattr(ImageDataModule, "own_image", converted)
    assert predict(flags(checkpoint(), folders, tmp_path / "out")) == 2
    assert len(rows(tmp_path / "out")) == 5
    told = capsys.readouterr().err
    assert "1 of 6 images is not labelled" in told and "a/0.png cannot be made one in RGB (conversion from La" in told


def test_a_support_in_lab_colours_is_looked_at(checkpoint, folders, tmp_path):
    Image.new("LAB", (40, 40), (255, 128, 128)).save(folders[0] / "red" / "0.tif")
    assert predict(flags(checkpoint(data="Omniglot"), folders, tmp_path / "out")) == 0

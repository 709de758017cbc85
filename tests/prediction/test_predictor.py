"""FewShotPredictor: scikit-learn's conventions, the algorithm's own numbers, and its answers to bad input."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import ALGORITHMS, write_classes
from PIL import Image
from quiet_trainer import one_step_checkpoint
from random_images import give_random_images
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

import fewshot_pl
from fewshot_pl import FewShotPredictor, InputError, benchmarks
from fewshot_pl.benchmarks import CIFARFS, ImageFolder
from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.prediction.calibration import FALSE_REJECT
from fewshot_pl.prediction.rejection import REJECTIONS_KEY, Rejection


@pytest.fixture
def images(tmp_path):
    """Files of three classes, 3, 2 and 1 of each, and their labels."""
    root = write_classes(tmp_path / "classes", {"red": 3, "green": 2, "blue": 1})
    files = sorted(root.rglob("*.png"))
    return files, [file.parent.name for file in files]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_predicts_what_it_says_of_the_support_and_queries(checkpoint, images, algorithm):
    """As the algorithm itself does with this support; transductive ones see the support with the queries."""
    path = checkpoint(algorithm)
    files, names = images
    predictor = FewShotPredictor.from_checkpoint(path).fit(files, names)
    model = fewshot_pl.load_algorithm(path)
    support_x = predictor.model.pixels(files)
    support_y = torch.tensor([["blue", "green", "red"].index(name) for name in names])
    before = support_x if model.norm_mode == "transductive" else support_x[:0]
    with torch.no_grad():
        logits = model.query_logits(support_x, support_y, torch.cat([before, support_x]), 3)[len(before) :]
        expected = model.class_log_probabilities(logits[None])[0].exp()
    found = predictor.predict_proba(files)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    assert predictor.classes_.tolist() == ["blue", "green", "red"]
    assert predictor.predict(files).tolist() == predictor.classes_[found.argmax(-1)].tolist()


def test_a_prototypical_network_tells_colours_apart(checkpoint, images, tmp_path):
    """On images it has not seen; random features suffice."""
    others = write_classes(tmp_path / "others", {"red": 4, "green": 4, "blue": 4}, seed=1)
    files = sorted(others.rglob("*.png"))
    predictor = FewShotPredictor.from_checkpoint(checkpoint()).fit(*images)
    assert predictor.score(files, [file.parent.name for file in files]) == 1.0


@pytest.mark.parametrize("algorithm", ["ProtoNet", "MAML"])
def test_files_images_and_arrays_are_the_same(checkpoint, images, algorithm):
    files, names = images
    opened = [Image.open(file) for file in files]
    arrays = [np.asarray(image) for image in opened]
    predictor = FewShotPredictor(checkpoint(algorithm)).fit(files, names)
    expected = predictor.predict_proba(files)
    for images_ in (opened, arrays, [str(file) for file in files], np.stack(arrays)):
        np.testing.assert_array_equal(predictor.predict_proba(images_), expected)


@pytest.mark.parametrize(("algorithm", "per_query"), [("ProtoNet", False), ("MAML", True), ("RelationNet", True)])
def test_images_do_not_influence_each_other(checkpoint, images, algorithm, per_query):
    files, names = images
    predictor = FewShotPredictor(checkpoint(algorithm), per_query=per_query, batch_size=4).fit(files, names)
    together = predictor.predict_proba(files)
    alone = np.concatenate([predictor.predict_proba([file]) for file in files])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_transductive_model_takes_one_image_alone(checkpoint, images):
    files, names = images
    probabilities = FewShotPredictor(checkpoint("MAML")).fit(files, names).predict_proba(files[:1])
    assert probabilities.shape == (1, 3) and np.isfinite(probabilities).all()


@pytest.mark.parametrize("algorithm", ["MAML", "ProtoNet"])
def test_fewer_classes_than_a_head_has_outputs(checkpoint, images, algorithm):
    files, names = images
    some = [index for index, name in enumerate(names) if name != "red"]
    predictor = FewShotPredictor(checkpoint(algorithm)).fit([files[i] for i in some], [names[i] for i in some])
    probabilities = predictor.predict_proba(files)
    assert probabilities.shape == (len(files), 2)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)


def test_more_classes_than_a_head_has_outputs(checkpoint, tmp_path):
    files = sorted(write_classes(tmp_path / "four", dict.fromkeys("abcd", 1)).rglob("*.png"))
    labels = [file.parent.name for file in files]
    with pytest.raises(InputError, match=r"head of 3 outputs and you gave 4 classes.*--data.num_ways 4.*ProtoNet"):
        FewShotPredictor(checkpoint("MAML")).fit(files, labels)
    assert FewShotPredictor(checkpoint()).fit(files, labels).predict(files).tolist() == labels


def test_labels_of_any_kind_and_no_queries(checkpoint, images):
    files, names = images
    predictor = FewShotPredictor(checkpoint()).fit(files, [len(name) for name in names])
    assert predictor.classes_.tolist() == [3, 4, 5]
    assert predictor.predict([]).shape == (0,) and predictor.predict_proba([]).shape == (0, 3)


def test_a_fitted_predictor_can_be_pickled(checkpoint, images):
    predictor = FewShotPredictor(checkpoint("MAML")).fit(*images)
    copy = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(copy.predict_proba(images[0]), predictor.predict_proba(images[0]))


def test_per_query_is_that_of_the_fit_in_copies_too(checkpoint, images):
    predictor = FewShotPredictor(checkpoint("MAML"), batch_size=8).fit(*images)
    expected = predictor.predict_log_proba(images[0])
    predictor.set_params(per_query=True)
    for one in (predictor, pickle.loads(pickle.dumps(predictor))):
        np.testing.assert_array_equal(one.predict_log_proba(images[0]), expected)
    assert np.abs(predictor.fit(*images).predict_log_proba(images[0]) - expected).max() > 1e-4


def test_scikit_learns_conventions(checkpoint, images):
    files, names = images
    path = checkpoint()
    predictor = FewShotPredictor(path, batch_size=2)
    assert predictor.get_params() == {
        "checkpoint": path,
        "batch_size": 2,
        "false_reject": FALSE_REJECT,
        "per_query": False,
        "device": "auto",
    }
    assert clone(predictor.set_params(batch_size=3)).batch_size == 3
    with pytest.raises(NotFittedError):
        predictor.predict(files)
    assert predictor.fit(files, names) is predictor
    fitted_again = predictor.predict_proba(files), predictor.fit(files, names).predict_proba(files)
    np.testing.assert_array_equal(*fitted_again)
    two = [index for index, name in enumerate(names) if name != "blue"]
    arrays = np.stack([np.asarray(Image.open(files[index])) for index in two])
    accuracies = cross_val_score(FewShotPredictor(path), arrays, [names[index] for index in two], cv=2)
    assert accuracies.shape == (2,) and np.isfinite(accuracies).all()


def test_two_classes_have_one_score_as_scorers_and_calibration_ask(checkpoint, tmp_path):
    root = write_classes(tmp_path / "two", {"green": 6, "red": 6})
    files = sorted(root.rglob("*.png"))
    arrays, names = np.stack([np.asarray(Image.open(file)) for file in files]), [file.parent.name for file in files]
    predictor = FewShotPredictor(checkpoint()).fit(arrays, names)
    logits = predictor.logits(predictor.model.pixels(arrays))
    scores = predictor.decision_function(arrays)
    np.testing.assert_allclose(scores, logits[:, 1] - logits[:, 0], atol=1e-6)
    assert predictor.predict(arrays).tolist() == predictor.classes_[(scores > 0).astype(int)].tolist()
    assert cross_val_score(FewShotPredictor(checkpoint()), arrays, names, cv=2, scoring="roc_auc").tolist() == [1, 1]
    calibrated = CalibratedClassifierCV(FewShotPredictor(checkpoint()), cv=2).fit(arrays, names)
    assert calibrated.predict_proba(arrays).shape == (12, 2)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_unknown_images_are_those_below_the_threshold(checkpoint, images, num_classes):
    path = checkpoint()
    known = images[1].index("red") if num_classes == 2 else len(images[1])
    contents = torch.load(path, weights_only=True)
    thresholds = np.linspace(-100.0, 0.0, 101).tolist()
    rejection = Rejection("logit", 3, 1, 0.9, thresholds, np.linspace(1, 0, 101).tolist())
    torch.save({**contents, REJECTIONS_KEY: [rejection._asdict()]}, path)
    predictor = FewShotPredictor(path, false_reject=0.7).fit(images[0][:known], images[1][:known])
    logits = predictor.logits(predictor.model.pixels(images[0]))
    np.testing.assert_array_equal(predictor.is_unknown(images[0]), logits.max(-1) < -30.0)


def test_a_checkpoint_without_calibration_says_so(checkpoint, images):
    predictor = FewShotPredictor(checkpoint()).fit(*images)
    with pytest.raises(InputError, match="no threshold for unknown images"):
        predictor.is_unknown(images[0])


def test_grey_checkpoints_see_dark_ink_on_light_paper_as_they_store_it(checkpoint, images):
    predictor = FewShotPredictor(checkpoint(data="Omniglot")).fit(*images)
    paper = np.full((60, 60), 255, dtype=np.uint8)
    paper[20:40, 28:32] = 0
    pixels = predictor.model.pixels([paper])
    assert pixels.shape == (1, 1, 28, 28)
    assert pixels[0, 0, 0, 0] == 0 and pixels[0, 0, 14, 14] > 0.9


@pytest.mark.parametrize(
    ("images_", "labels", "told"),
    [
        ([np.zeros((8, 8), np.uint8)] * 2, ["a"], "2 images and 1 labels"),
        ([np.zeros((8, 8), np.uint8)] * 2, ["a", "a"], "only one class"),
        ([np.zeros((8, 8))] * 2, ["a", "b"], "uint8 arrays"),
        ([np.zeros((8, 8, 2), np.uint8)] * 2, ["a", "b"], r"uint8 \[8, 8, 2\]"),
        ([np.zeros((0, 5), np.uint8)] * 2, ["a", "b"], "an image has 5x0 pixels.*leave it out"),
        ([Image.new("RGB", (0, 3))] * 2, ["a", "b"], "an image has 0x3 pixels.*leave it out"),
        (["missing.png"] * 2, ["a", "b"], "missing.png cannot be read"),
    ],
)
def test_bad_images_and_labels(checkpoint, images_, labels, told):
    with pytest.raises(InputError, match=told):
        FewShotPredictor(checkpoint()).fit(images_, labels)


SORTABLE = r"no common order: give all images a string, or all a number"


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (None, SORTABLE),
        (["a", None, "b"], SORTABLE),
        (["a", 1, "b"], SORTABLE),
        (np.array(["a", 1, "b"], dtype=object), SORTABLE),
        ([1.0, float("nan"), 2.0], SORTABLE),
        (np.array([1.0, float("nan"), 2.0], dtype=object), SORTABLE),
        (["a", ["b"], "c"], SORTABLE),
        ([["a"], ["b"], ["b"]], r"labels have the shape \[3, 1\]: give a list of one label per image"),
        ("abb", r"labels have the shape \[\]"),
    ],
)
def test_labels_that_cannot_name_classes(checkpoint, labels, told):
    with pytest.raises(InputError, match=told):
        FewShotPredictor(checkpoint()).fit([PIXELS] * 3, labels)


def test_labels_of_any_iterable(checkpoint):
    predictor = FewShotPredictor(checkpoint())
    for labels in ({"x": "a", "y": "b", "z": "b"}.values(), (name for name in "abb"), iter(["a", "b", "b"])):
        assert predictor.fit([PIXELS] * 3, labels).classes_.tolist() == ["a", "b"]


PIXELS = np.zeros((12, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "one", ["red.png", Path("red.png"), Image.fromarray(PIXELS), PIXELS, PIXELS[..., 0], PIXELS[..., :1]]
)
def test_one_image_in_place_of_several(checkpoint, images, one):
    predictor = FewShotPredictor(checkpoint())
    with pytest.raises(InputError, match=r"one image.*give a list of images, as \[image\]"):
        predictor.fit(one, images[1])
    with pytest.raises(InputError, match="give a list of images"):
        predictor.fit(*images).predict(one)


def test_an_array_of_images_is_several(checkpoint, images):
    predictor = FewShotPredictor(checkpoint()).fit(*images)
    for several in (np.stack([PIXELS] * 5), np.stack([PIXELS[:, :, 0]] * 5)):
        assert predictor.predict(several).shape == (5,)


@pytest.mark.parametrize("setting", [{"false_reject": 2}, {"batch_size": 0}])
def test_settings_are_checked_when_they_were_set_after_fitting(checkpoint, images, setting):
    predictor = FewShotPredictor(checkpoint()).fit(*images).set_params(**setting)
    with pytest.raises(InputError, match=next(iter(setting))):
        predictor.predict(images[0])


def test_a_device_that_is_not_there(checkpoint, images):
    with pytest.raises(InputError, match="no device nonsense here"):
        FewShotPredictor(checkpoint(), device="nonsense").fit(*images)


def test_a_checkpoint_of_regression(tmp_path, images):
    from fewshot_pl.algorithms import MAML
    from fewshot_pl.benchmarks import Sinusoid

    data = Sinusoid()
    model = MAML(image_shape=data.image_shape, num_ways=1, backbone="mlp-8", norm="none")
    one_step_checkpoint(model, data, path := tmp_path / "sinusoid.ckpt")
    with pytest.raises(InputError, match="trained on Sinusoid, which has no images"):
        FewShotPredictor(path).fit(*images)


@pytest.mark.parametrize("algorithm", ["ProtoNet", "LSTMMetaLearner"])
def test_files_of_an_episode_get_what_the_evaluation_gives_them(checkpoint, tmp_path, monkeypatch, algorithm):
    path = checkpoint(algorithm)
    give_random_images(monkeypatch)
    data = CIFARFS(num_ways=3, num_shots=2, num_queries=4, cache_dir=str(tmp_path / "cache"))
    data.setup("test")
    episode = data.fixed_episodes("test", first=7)
    indices = data.sampler("test")(0, 7, 1)

    def files(numbers):
        for number in numbers.flatten().tolist():
            pixels = data.stores["test"].images[number].transpose(1, 2, 0)
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        return [tmp_path / f"{number}.png" for number in numbers.flatten().tolist()]

    predictor = FewShotPredictor(path).fit(files(indices.support), episode.support_y[0].numpy())
    model = fewshot_pl.load_algorithm(path)
    with torch.no_grad():
        expected = model.class_log_probabilities(model(episode))[0].exp()
    np.testing.assert_allclose(predictor.predict_proba(files(indices.query)), expected, atol=1e-5)


@pytest.mark.parametrize("benchmark", ["CUB", "MiniImageNet", "VGGFlowers"])
def test_photographs_are_brought_to_a_square_as_in_training(tmp_path, benchmark):
    """As a whole, where the training images are."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    data = getattr(benchmarks, benchmark)(image_size=32)
    file = ImageFile(FolderTree(tmp_path), "wide.png")
    np.testing.assert_array_equal(data.own_image(file.decoded()), data.square()(file))


def test_checkpoints_of_data_made_with_paths_hold_plain_values(tmp_path):
    data = ImageFolder(root=tmp_path, cache_dir=tmp_path / "cache")
    assert (data.hparams.root, data.hparams.cache_dir) == (str(tmp_path), str(tmp_path / "cache"))

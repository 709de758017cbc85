import numpy as np
import pytest
import torch

from fewshot_pl.benchmarks.glyph_classes import SCRIPTS, GlyphClass, glyph_classes, script
from fewshot_pl.benchmarks.glyph_drawing import class_samples
from fewshot_pl.benchmarks.glyph_fonts import faces, font_files, grown, ink
from fewshot_pl.benchmarks.glyph_looks import difference, looks
from fewshot_pl.benchmarks.glyphs import Glyphs
from fewshot_pl.data.datamodule import SPLITS

pytestmark = pytest.mark.xdist_group("glyphs")  # one process draws for all


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("glyphs"))


@pytest.fixture(scope="module")
def glyphs(cache_dir):
    module = Glyphs(cache_dir=cache_dir)
    module.prepare_data()
    for stage in ("fit", "test"):
        module.setup(stage)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Set one thread, as the threads of small operations wait for each other when tests share the processor."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def class_of(character):
    return next(
        one for split in SPLITS for one in glyph_classes()[split] if character in {one.character} | one.look_alikes
    )


def test_at_least_1000_classes_of_20_samples(glyphs):
    num_classes = {split: glyphs.stores[split].num_classes for split in SPLITS}
    assert sum(num_classes.values()) >= 1000
    assert num_classes["val"] >= 60 and num_classes["test"] >= 100
    for store in glyphs.stores.values():
        assert store.images.dtype == np.uint8 and store.images.shape[1:] == glyphs.image_shape == (1, 28, 28)
        assert set(np.diff(store.class_starts)) == {20}


@pytest.mark.parametrize("split", SPLITS)
def test_no_sample_is_blank_full_or_cut_off(glyphs, split):
    images = glyphs.stores[split].images[:, 0]
    assert images.max((1, 2)).min() > 100
    assert (images > 127).mean((1, 2)).max() < 0.5
    rim = np.concatenate(
        [images[:, [0, -1]].reshape(len(images), -1), images[:, :, [0, -1]].reshape(len(images), -1)], 1
    )
    assert (rim > 127).any(1).mean() < 0.01


def test_a_script_is_in_one_split(glyphs):
    assert len({name for names in SCRIPTS.values() for name in names}) == sum(map(len, SCRIPTS.values()))
    for split in SPLITS:
        assert {script(one.character) for one in glyph_classes()[split]} <= set(SCRIPTS[split])
    characters = [one.character for split in SPLITS for one in glyph_classes()[split]]
    assert len(set(characters)) == len(characters)


@pytest.mark.parametrize("look_alikes", ["A\u0391\u0410", "O\u039f\u041eo\u03bf0\u0555", "X\u03a7\u0425x\u2d5d"])
def test_characters_that_look_the_same_are_one_class(look_alikes):
    assert len({class_of(character).character for character in look_alikes}) == 1
    assert class_of(look_alikes[0]) in glyph_classes()["train"]


@pytest.mark.parametrize("distinct", ["ABE", "КМФ", "ᐁᐃᐅ", "بسع", "אבש"])
def test_characters_that_differ_are_several_classes(distinct):
    assert len({class_of(character).character for character in distinct}) == len(distinct)


@pytest.mark.parametrize(
    "character", [" ", "\u0301", "\u0378", "\ue000", "é", "ﬁ", "\N{MATHEMATICAL BOLD CAPITAL A}", "."]
)
def test_spaces_marks_and_unassigned_accented_or_restyled_characters_are_no_classes(character):
    assert script(character) is None


def test_only_dejavu_and_stix_are_drawn(glyphs):
    names = {file.stem for file in font_files()}
    assert {"DejaVuSans", "DejaVuSerif-BoldItalic", "DejaVuSansMono-Oblique", "STIXGeneral"} <= names
    assert all(name.startswith(("DejaVu", "STIX")) for name in names)
    assert {face.name for split in SPLITS for one in glyph_classes()[split] for face in one.faces} <= names


@pytest.mark.parametrize("split", ["val", "test"])
def test_no_two_classes_of_a_split_look_the_same(glyphs, split):
    # Independent of how classes are found: two characters of one look, drawn at random, have nearly the same mean.
    sans = (faces()["DejaVuSans"],)
    alike = [GlyphClass(character, frozenset(), sans) for character in "H\u0397\u041d"]
    assert _cosines(class_samples(alike, 200)).min() > 0.99
    store = glyphs.stores[split]
    cosines = _cosines(np.stack([store.class_images(index) for index in range(store.num_classes)]))
    assert np.triu(cosines, 1).max() < 0.975


def _cosines(images):
    means = images.astype(np.float64).mean(1).reshape(len(images), -1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means @ means.T


def test_samples_are_the_same_in_every_build(glyphs):
    for split in SPLITS:
        for index in (0, 40):
            again = class_samples([glyph_classes()[split][index]], 20)[0]
            np.testing.assert_array_equal(glyphs.stores[split].class_images(index), again)


def test_samples_of_a_class_differ(glyphs):
    images = glyphs.stores["test"].class_images(0).reshape(20, -1)
    assert len(np.unique(images, axis=0)) == 20


def test_drawing_leaves_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    class_samples(glyph_classes()["val"][:1], 2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_second_time_nothing_is_drawn(glyphs, cache_dir, monkeypatch):
    monkeypatch.setattr(Glyphs, "class_images", None)
    again = Glyphs(cache_dir=cache_dir)
    again.prepare_data()
    again.setup("test")
    assert again.stores["test"].class_names == glyphs.stores["test"].class_names


def test_training_episode(glyphs):
    episode = glyphs.episode(next(iter(glyphs.train_dataloader())))
    assert episode.support_x.shape == (1, 5, 1, 28, 28) and episode.query_x.shape == (1, 75, 1, 28, 28)
    assert episode.query_x.min() >= 0 and episode.query_x.max() <= 1


def test_nearest_pixels_are_neither_enough_nor_useless(cache_dir):
    module = Glyphs(cache_dir=cache_dir, eval_tasks_per_batch=200)
    module.setup("test")
    episode = module.episode(next(iter(module.test_dataloader())))
    nearest = torch.cdist(episode.query_x.flatten(2), episode.support_x.flatten(2)).argmin(2)
    assert 0.5 < (episode.support_y.gather(1, nearest) == episode.query_y).float().mean() < 0.8


def test_difference_ignores_stroke_width_and_sees_a_dot():
    sans, bold = faces()["DejaVuSans"], faces()["DejaVuSans-Bold"]
    assert (
        difference(looks(sans, "V"), looks(bold, "V")).item()
        < 3.5
        < difference(looks(sans, "ب"), looks(sans, "ں")).item()
    )


def test_ink_is_centred_and_fills_the_canvas_up_to_its_margin():
    for character in "Aب—.":
        rows, columns = np.nonzero(ink(faces()["DejaVuSans"], character))
        assert abs(rows.min() + rows.max() - 83) <= 1 and abs(columns.min() + columns.max() - 83) <= 1
        assert 48 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 60
    assert not ink(faces()["DejaVuSans"], " ").any()


def test_grown_ink_reaches_a_square_around_each_pixel():
    dot = np.zeros((1, 9, 9), np.uint8)
    dot[0, 4, 4] = 200
    expected = np.zeros_like(dot)
    expected[0, 2:7, 2:7] = 200
    np.testing.assert_array_equal(grown(dot, 2), expected)

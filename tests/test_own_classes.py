"""User-defined algorithms and benchmarks, in a module outside the package, trained and resumed like ours."""

import csv
import json
import math
import sys

import pytest
import torch
from quiet_trainer import quiet_trainer
from random_images import write_image_folder

import fewshot_pl
from fewshot_pl.checkpoints import algorithm_of
from fewshot_pl.cli import evaluate, export, predict, train

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")

# Two have the names of ours.
MODULE = """
from fewshot_pl import algorithms, benchmarks


class ProtoNet(algorithms.ProtoNet):
    def __init__(self, scales: dict[str, float] | None = None, **kwargs):
        super().__init__(**kwargs)

    def query_logits(self, support_x, support_y, query_x, num_ways):
        return 0 * super().query_logits(support_x, support_y, query_x, num_ways)


class ImageFolder(benchmarks.ImageFolder):
    pass


class Waves(benchmarks.Sinusoid):
    pass
"""
UNCHANGED = """
from fewshot_pl import algorithms, benchmarks


class Unchanged(algorithms.ProtoNet):
    def __init__(self, scales: dict[str, float] | None = None, **kwargs):
        super().__init__(**kwargs)


class Photos(benchmarks.ImageFolder):
    pass
"""
OURS = "fewshot_pl.algorithms.ProtoNet"
FIGURES = ("accuracy", "ci95", "nll", "loss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images and an importable module ``outside``."""
    root = tmp_path_factory.mktemp("own")
    write_image_folder(root / "images", num_classes=4, size=16)
    (root / "outside.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield root
    for name in ("ProtoNet", "ImageFolder", "Waves"):
        # Otherwise jsonargparse finds it in later tests, where two classes would then share a name.
        getattr(sys.modules["outside"], name).__qualname__ = f"gone.<locals>.{name}"


def flags(folder, model, data, *more):
    size = ["image_size=16", "channels=1", "num_ways=2", "num_queries=1", f"root={folder / 'images'}"]
    few = ["batches_per_epoch=2", "num_val_episodes=2", "num_test_episodes=3", f"cache_dir={folder / 'cache'}"]
    quiet = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    own = [f"--model={model}", f"--data={data}", f"--runs={folder / 'runs'}", *quiet]
    return [*own, *(f"--data.{setting}" for setting in [*size, *few]), *more]


@pytest.fixture(scope="module")
def run(folder):
    """The run of a user-defined algorithm and benchmark."""
    assert train(flags(folder, "outside.ProtoNet", "outside.ImageFolder", "--model.scales={near: 0.5}")) == 0
    return folder / "runs" / "ImageFolder" / "ProtoNet" / "0"


def best(run):
    return run / "checkpoints" / "best.ckpt"


def results(run):
    return json.loads((run / "results.json").read_text())


def test_an_algorithm_of_ones_own_is_tested_and_calibrated(run):
    assert results(run)["accuracy"] == 0.5 and "unknown" in results(run)
    assert results(run)["model_parameters"]["scales"] == {"near": 0.5}
    held = torch.load(best(run), weights_only=True)
    assert (held["algorithm"], held["data"]) == ("outside.ProtoNet", "outside.ImageFolder")


def test_it_is_resumed_by_its_own_class_alone(run, folder, capsys):
    last = ["--ckpt_path=last", "--trainer.max_epochs=2"]
    for others in ((OURS, "outside.ImageFolder"), ("outside.ProtoNet", "fewshot_pl.benchmarks.ImageFolder")):
        assert train(flags(folder, *others, *last)) == 2
        told = capsys.readouterr().err
        assert "pass --model outside.ProtoNet" in told or "pass --data outside.ImageFolder" in told
    with pytest.raises(SystemExit):
        train(flags(folder, "ProtoNet", "outside.ImageFolder", *last))
    assert f"pass --model {OURS}" in capsys.readouterr().err
    assert train(flags(folder, "outside.ProtoNet", "outside.ImageFolder", *last)) == 0
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def flags_of(command, folder, checkpoint, output):
    words = ["--ckpt_path", str(checkpoint)]
    if command is predict:
        words += ["--support", str(folder / "images" / "test"), "--query", str(folder / "images" / "test")]
    return [*words, "--output", str(output / "figures.json" if command is evaluate else output)]


@pytest.mark.parametrize(("name", "command"), [("evaluate", evaluate), ("export", export), ("predict", predict)])
def test_a_command_imports_the_classes_that_flags_name_and_no_others(command, name, run, folder, capsys, tmp_path):
    module, other = f"of_{name}", f"besides_{name}"
    for file in (module, other):
        (folder / f"{file}.py").write_text(UNCHANGED)
    path = tmp_path / "checkpoint.ckpt"
    held = torch.load(best(run), weights_only=True)
    torch.save({**held, "algorithm": f"{module}.Unchanged", "data": f"{module}.Photos"}, path)
    words, told = flags_of(command, folder, path, tmp_path / "output"), []
    for more in ([], ["--model", f"{other}.Unchanged"]):
        assert command([*words, *more]) == 2
        told.append(capsys.readouterr().err)
    assert all("imports no code: if it is a class of yours, pass --" in one and one.count("\n") == 1 for one in told)
    assert module not in sys.modules and other in sys.modules
    assert command([*words, "--model", f"{module}.Unchanged", "--data", f"{module}.Photos"]) == 0
    assert (tmp_path / "output").is_dir() and module in sys.modules


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere.MyProto", "cannot be imported (No module named 'nowhere')"),
        ("outside.Nothing", "cannot be imported (module 'outside' has no attribute 'Nothing')"),
        ("outside.algorithms", "names no class"),
        ("MyProto", "names no class"),
    ],
)
@pytest.mark.parametrize("command", [evaluate, export, predict])
def test_a_class_that_is_nowhere_is_refused(command, name, told, run, folder, capsys, tmp_path):
    assert command([*flags_of(command, folder, best(run), tmp_path), "--model", name]) == 2
    assert capsys.readouterr().err.startswith(f"error: --model {name} {told}: give a class with its module")


def test_it_is_evaluated_as_it_was_tested(run, tmp_path):
    output = tmp_path / "figures.json"
    own = ["--model", "outside.ProtoNet", "--data", "outside.ImageFolder"]
    assert evaluate(["--ckpt_path", str(best(run)), *own, "--output", str(output)]) == 0
    again = json.loads(output.read_text())
    assert {name: again[name] for name in FIGURES} == {name: results(run)[name] for name in FIGURES}
    assert again["num_episodes"] == 3  # as in training


def test_it_is_compared_with_ours_on_the_same_episodes(run, folder, tmp_path, capsys):
    (folder / "compared.py").write_text(UNCHANGED)
    held, ours, own = torch.load(best(run), weights_only=True), tmp_path / "ours.ckpt", tmp_path / "own.ckpt"
    arguments = {name: value for name, value in held["hyper_parameters"].items() if name != "scales"}
    held |= {"hyper_parameters": arguments, "data": "ImageFolder"}
    torch.save({**held, "algorithm": "ProtoNet"}, ours)
    torch.save({**held, "algorithm": "compared.Unchanged"}, own)
    output = tmp_path / "figures.csv"
    models = ["--model", "outside.ProtoNet", "compared.Unchanged"]
    assert evaluate([*models, "--compare", *map(str, (best(run), ours, own)), "--output", str(output), "--latex"]) == 0
    rows = list(csv.DictReader(output.open()))
    assert rows[1]["nll"] == rows[2]["nll"] != rows[0]["nll"] and float(rows[0]["nll"]) == pytest.approx(math.log(2))
    assert "compared.Unchanged" in capsys.readouterr().out


def test_export_says_what_the_graphs_would_leave_out(run, folder, capsys, tmp_path):
    own = ["--model", "outside.ProtoNet", "--data", "outside.ImageFolder"]
    assert export([*flags_of(export, folder, best(run), tmp_path), *own]) == 2
    assert "ProtoNet has query_logits of its own, which the graphs would leave out" in capsys.readouterr().err


def test_it_is_measured_in_python(run):
    import outside

    model = outside.ProtoNet.load_from_checkpoint(best(run), weights_only=True)
    data = outside.ImageFolder(**torch.load(best(run), weights_only=True)["datamodule_hyper_parameters"])
    (figures,) = quiet_trainer().test(model, datamodule=data, verbose=False)
    assert {name: figures[f"test/{name}"] for name in FIGURES} == {name: results(run)[name] for name in FIGURES}
    again = fewshot_pl.load_algorithm(best(run))  # its class is imported
    assert type(again) is outside.ProtoNet and dict(again.hparams) == dict(model.hparams)
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    images = [torch.randint(256, (16, 16), dtype=torch.uint8).numpy() for _ in range(4)]
    predictor = fewshot_pl.FewShotPredictor(best(run)).fit(images, ["a", "b", "a", "b"])
    assert isinstance(predictor.model.data, outside.ImageFolder)
    assert predictor.predict_proba(images).tolist() == [[0.5, 0.5]] * 4


def test_a_class_that_a_notebook_defines_twice_is_the_last(run):
    def defined(scale):
        class Twice(fewshot_pl.ProtoNet):
            factor = scale

        Twice.__module__, Twice.__qualname__ = "__main__", "Twice"
        return Twice

    held = torch.load(best(run), weights_only=True) | {"algorithm": "__main__.Twice"}
    held["hyper_parameters"].pop("scales")
    first, last = defined(1), defined(2)
    assert type(algorithm_of(held)) is last is not first


def test_a_checkpoint_imports_no_module(run, folder, tmp_path, capsys):
    (folder / "payload.py").write_text("raise SystemExit('was imported')")
    path = tmp_path / "checkpoint.ckpt"
    for algorithm, data in (("payload.ProtoNet", "payload.Data"), ("ProtoNet", "payload.Data")):
        held = {**torch.load(best(run), weights_only=True), "algorithm": algorithm, "data": data}
        torch.save(held, path)
        assert evaluate(["--ckpt_path", str(path)]) == 2
        assert "imports no code" in capsys.readouterr().err


def test_an_algorithm_of_ours_is_evaluated_on_the_benchmark_that_the_flag_names(folder, tmp_path):
    assert train(flags(folder, OURS, "outside.ImageFolder", f"--runs={folder / 'ours'}")) == 0
    run = folder / "ours" / "ImageFolder" / "ProtoNet" / "0"
    output = tmp_path / "figures.json"
    assert evaluate(["--ckpt_path", str(best(run)), "--data", "outside.ImageFolder", "--output", str(output)]) == 0
    again = json.loads(output.read_text())
    assert {name: again[name] for name in FIGURES} == {name: results(run)[name] for name in FIGURES}
    assert again["num_episodes"] == 3  # as in training


def test_the_figure_that_chooses_the_best_checkpoint_is_that_of_ones_own_benchmark(folder):
    few = ["batches_per_epoch=2", "num_val_episodes=2", "num_test_episodes=3"]
    words = [*flags(folder, "MAML", "outside.Waves")[:6], *(f"--data.{one}" for one in few)]
    assert train([*words, "--model.backbone=mlp-8", "--model.norm=none"]) == 0
    held = torch.load(best(folder / "runs" / "Waves" / "MAML" / "0"), weights_only=True)
    assert "val/mse" in [state.get("monitor") for state in held["callbacks"].values()]

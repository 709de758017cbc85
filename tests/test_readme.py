"""The README and the pages of docs/ tell the truth: commands and Python code run, links have targets.

Training commands run for one step, as in full they take up to hours.
"""

import re
import shlex
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from own_images import write_classes
from pytorch_lightning import Trainer
from random_images import ONE_SMALL_BATCH, give_random_images, write_image_folder
from torch.distributed.run import get_args_parser

from fewshot_pl import FewShotPredictor, algorithms, benchmarks
from fewshot_pl.backbones import Norm
from fewshot_pl.backbones.build import _BUILDERS
from fewshot_pl.cli import TrainCLI, evaluate, export, predict, train
from fewshot_pl.registries import concrete_classes

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS)}
README = PAGES["README.md"]
CHECKPOINT = "runs/Glyphs/ProtoNet/0/checkpoints/best.ckpt"
INSTALL = "python -m pip install --use-pep517 -r requirements.txt && "
LAUNCHERS = r"(?:(?:PYTHONPATH=\. |srun (?:--[\w=-]+ )*)?python |torchrun (?:--[\w-]+ \S+ )+)"
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def blocks(language, page=README):
    """The code blocks of a language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def shell_lines(page):
    """The lines of a page's shell blocks, without comments."""
    lines = [line for block in blocks("bash", page) for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def command_lines(script):
    """The arguments of every call of a script in the shell blocks of all pages, each once."""
    calls = [call for page in PAGES.values() for line in shell_lines(page) for call in line.split(" && ")]
    matches = [re.match(rf"{LAUNCHERS}{script}\b(.*)", call) for call in calls]
    return list(dict.fromkeys(match[1].strip() for match in matches if match))


class Parser(TrainCLI):
    """``train.py``, only up to its parser."""

    def before_instantiate_classes(self):
        """Make no run folder."""

    def instantiate_classes(self):
        """Make nothing."""


# Flags of training commands for what this machine may not have, and for files that other commands make.
ELSEWHERE = r"--(trainer\.(devices|num_nodes|accelerator)|model\.(init_from|backbone_weights)) \S+|--data\.root DIR"
OWN_CLASSES = """from fewshot_pl import Glyphs, ProtoNet
class MyProto(ProtoNet): ...
class MyImages(Glyphs): ...
"""
# Reptile's 50 steps at test time make no sense here, nor does a generator of full size.
SMALLEST = {"Reptile": ["--model.num_inner_steps_test=1"], "MetaGAN": ["--model.generator_width=4"]}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the README's first training has run, in its smallest form."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        give_random_images(patch, num_classes=30)  # CIFAR-FS, 1-shot, is trained 30-way
        write_image_folder(folder / "my_images", num_classes=6)
        write_classes(folder / "my_classes", {"beech": 3, "maple": 2, "oak": 1})
        write_classes(folder, {"new_images": 3}, seed=1)
        (folder / "mine.py").write_text(OWN_CLASSES)
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        patch.setenv("FEWSHOT_PL_CACHE", str(folder / "cache"))
        assert trained() == 0
        yield folder


def trained(data="Glyphs", *flags):
    """Train in the smallest form, into the folder ``runs`` of the working folder."""
    counts = [f"--data.{name}=1" for name in ("batches_per_epoch", "num_val_episodes", "num_test_episodes")]
    return train([f"--data={data}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", *counts, *flags])


@pytest.mark.parametrize("then", ["python train.py", "python -m pytest"])
def test_the_two_commands_are_there_word_for_word(then):
    assert f"{INSTALL}{then}\n" in "".join(blocks("bash"))


@pytest.mark.parametrize("page", PAGES)
def test_every_shell_command_is_one_that_is_tested(page):
    scripts = "train|evaluate|predict|export|examples/sweep_optuna"
    tested = re.compile(rf"{LAUNCHERS}({scripts})\.py\b|{re.escape(INSTALL)}python (train\.py|-m pytest)$")
    assert [line for line in shell_lines(PAGES[page]) if not tested.match(line)] == []


def is_reproduction(arguments):
    """Whether a training is an unchanged one of configs/paper/: test_every_config runs those."""
    return bool(re.fullmatch(r"--config configs/paper/\w+\.yaml", arguments))


@pytest.mark.parametrize("arguments", [one for one in command_lines("train.py") if not is_reproduction(one)])
def test_training_commands_run(arguments, workplace, capsys):
    """For one step, on random images and on one device."""
    here = shlex.split(re.sub(ELSEWHERE, "", arguments).replace("configs/", f"{ROOT}/configs/"))
    runs = "runs" if "last" in here else "tried"  # trials keep no checkpoint, so they have their own folder
    fewer = [flag for name, flags in SMALLEST.items() if name.lower() in arguments.lower() for flag in flags]
    small = [*ONE_SMALL_BATCH, "--trainer.accelerator=cpu", f"--runs={runs}", *fewer]
    assert train([*here, *small]) == 0
    assert "test split" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", command_lines("examples/sweep_optuna.py"))
def test_sweeps_hand_on_flags_of_training(arguments):
    flags = re.fullmatch(r"--study \S+ --trials \d+ (.*)", arguments)
    assert Parser(shlex.split(flags[1])).config.trainer.devices == "1"


@pytest.mark.parametrize("line", [one for one in shell_lines(PAGES["docs/multi_gpu.md"]) if one.startswith("torchrun")])
def test_torchrun_starts_as_many_processes_as_the_trainer_expects(line):
    launched = get_args_parser().parse_args(shlex.split(line)[1:])
    config = Parser(launched.training_script_args).config
    assert launched.training_script == "train.py"
    assert (int(launched.nnodes), int(launched.nproc_per_node)) == (
        config.trainer.num_nodes,
        int(config.trainer.devices),
    )


# Benchmarks that Glyphs cannot replace, with what they need.
OF_THEIR_OWN = {
    "MiniImageNet": [],
    "ImageFolder": ["--data.root=my_images", "--data.image_size=32", "--data.num_queries=2"],
    "Sinusoid": ["--model.backbone=mlp-4", "--model.norm=none"],
}


def with_small_checkpoints(text):
    """The text with its checkpoints replaced by ones trained here, if need be, in the smallest form.

    Those of the results table took up to an hour each: commands that use them run on such ones.
    """
    named = list(re.finditer(r"runs/(\w+)/(\w+)/0/checkpoints/(best|last)\.ckpt", text))
    for match in named:
        data, algorithm = match[1] if match[1] in OF_THEIR_OWN else "Glyphs", match[2]
        checkpoint = Path("runs", data, algorithm, "0", "checkpoints", f"{match[3]}.ckpt")
        if not checkpoint.is_file():
            flags = [*OF_THEIR_OWN.get(data, []), *SMALLEST.get(algorithm, [])]
            assert trained(data, f"--model={algorithm}", *flags) == 0
        text = text.replace(match[0], str(checkpoint))
    return text


def small_run(arguments):
    """The arguments of a command, on small checkpoints; it has to name one."""
    assert re.search(r"/0/checkpoints/(best|last)\.ckpt", arguments)
    return shlex.split(with_small_checkpoints(arguments))


@pytest.mark.parametrize("arguments", command_lines("evaluate.py"))
def test_evaluation_commands_run(arguments, workplace, capsys):
    """On two episodes, as one has no interval."""
    here = ["--num_episodes=2", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    assert evaluate([*small_run(arguments), *here]) == 0
    assert "± " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", command_lines("predict.py"))
def test_prediction_commands_run(arguments, workplace, capsys):
    assert predict([*small_run(arguments), "--device=cpu"]) == 0
    output = re.search(r"--output (\S+)", arguments)
    folder = workplace / (output[1] if output else "predictions")
    assert "3 images labelled" in capsys.readouterr().out
    assert (folder / "predictions.csv").read_text().count("\n") == 4 and (folder / "report.html").is_file()


@pytest.mark.parametrize("arguments", command_lines("export.py"))
def test_export_commands_run_and_their_example_gives_the_same_scores(arguments, workplace):
    """The Python block that reads what was exported is run here, after it."""
    assert export(small_run(arguments)) == 0
    folder = re.search(r"--output (\S+)", arguments)[1]
    (block,) = [one for page in PAGES.values() for one in blocks("python", page) if f"{folder}/" in one]
    names = {}
    exec(compile(block, "ONNX", "exec"), names)
    predictor = FewShotPredictor(small_run(arguments)[1], device="cpu")
    predictor.fit(names["examples"], [file.parent.name for file in names["examples"]])
    scores = predictor.logits(predictor.model.pixels(names["queries"]))
    np.testing.assert_allclose(names["logits"], scores, rtol=1e-3, atol=1e-3 * np.abs(scores).max())


def test_a_run_folder_holds_what_the_readme_says(workplace):
    named = re.findall(
        r"^\| `([\w./*]+)` \| ", README.split("`runs/<data>/<model>/<n>/`")[1].split("\n## ")[0], re.MULTILINE
    )
    assert {"config.yaml", "results.json"} < set(named)
    assert [name for name in named if not list((workplace / CHECKPOINT).parents[1].glob(name))] == []


@pytest.mark.parametrize(
    "block", [one for page in PAGES.values() for one in blocks("python", page) if "onnxruntime" not in one]
)
def test_python_runs(block, workplace, monkeypatch):
    def short(**arguments):
        return Trainer(**arguments, fast_dev_run=1, accelerator="cpu")

    monkeypatch.setattr("pytorch_lightning.Trainer", short)
    names = {}
    exec(compile(with_small_checkpoints(block), "a page", "exec"), names)
    if "logits" in names:
        assert f"# {list(names['logits'].shape)}" in block


@pytest.mark.parametrize("registry", [algorithms, benchmarks])
def test_every_algorithm_and_benchmark_has_a_row(registry):
    names = concrete_classes(registry)
    assert [name for name in names if f"\n| `{name}` | " not in README] == []


def test_every_norm_and_backbone_is_named():
    assert [name for name in (*get_args(Norm), *_BUILDERS, "timm/<name>") if f"`{name}`" not in README] == []


def test_there_is_a_place_for_the_results():
    assert README.index("<!-- results:begin -->") < README.index("<!-- results:end -->")


def leads_somewhere(target, page):
    """Whether a relative link on a page names a file or folder, and, after a #, a heading of the file."""
    path, _, anchor = target.partition("#")
    file = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE) if anchor and file.is_file() else []
    anchors = ["", *(re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings)]
    return file.exists() and anchor in anchors


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page):
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) if "://" not in target]
    assert targets or page == "CHANGELOG.md"
    assert [target for target in targets if not leads_somewhere(target, page)] == []

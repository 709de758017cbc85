"""The README tells the truth: its commands parse, its evaluations and Python run, its links lead somewhere.

So do the training commands and the links of the other pages.
"""

import inspect
import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
from pytorch_lightning import Trainer
from random_images import give_random_images

from fewshot_pl import algorithms, benchmarks
from fewshot_pl.backbones import Norm
from fewshot_pl.backbones.build import _BUILDERS
from fewshot_pl.cli import TrainCLI, evaluate, train

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS)}
README = PAGES["README.md"]
CHECKPOINT = "runs/Glyphs/ProtoNet/0/checkpoints/best.ckpt"
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def blocks(language, page=README):
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def command_lines(script, page=README):
    """The arguments of every call of a script in a page's shell blocks."""
    calls = [call for block in blocks("bash", page) for line in block.splitlines() for call in line.split(" && ")]
    return [call.removeprefix(f"python {script}").strip() for call in calls if call.startswith(f"python {script}")]


class Parser(TrainCLI):
    """``train.py`` as far as its parser."""

    def before_instantiate_classes(self):
        """Make no run folder."""

    def instantiate_classes(self):
        """Make nothing."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the README's first training was run, in the smallest form."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        give_random_images(patch)
        patch.chdir(folder)
        patch.setenv("FEWSHOT_PL_CACHE", str(folder / "cache"))
        assert trained() == 0
        yield folder


def trained(data="Glyphs", *flags):
    """Train in the smallest form, into the folder ``runs`` of the present one."""
    counts = [f"--data.{name}=1" for name in ("batches_per_epoch", "num_val_episodes", "num_test_episodes")]
    return train([f"--data={data}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", *counts, *flags])


@pytest.mark.parametrize("then", ["python train.py", "python -m pytest"])
def test_the_two_commands_are_there_word_for_word(then):
    assert f"python -m pip install --use-pep517 -r requirements.txt && {then}\n" in "".join(blocks("bash"))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_every_shell_command_is_one_that_is_tested(page):
    lines = [line for block in blocks("bash", PAGES[page]) for line in block.splitlines()]
    starts = ("python train.py", "python evaluate.py", "python -m pip install --use-pep517 -r requirements.txt && ")
    assert lines and all(line.startswith((*starts, "# (")) for line in lines)  # "# (2)" numbers a row of the results


@pytest.mark.parametrize("arguments", [line for page in PAGES.values() for line in command_lines("train.py", page)])
def test_training_commands_parse(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = Parser(shlex.split(arguments)).config
    assert config.trainer.max_epochs


# Beside those of images, a Sinusoid has its own backbone; and there is no sense in a test's 50 steps here.
SMALLEST = {
    "Sinusoid": ["--model.backbone=mlp-4", "--model.norm=none"],
    "Reptile": ["--model.num_inner_steps_test=1"],
    "MetaGAN": ["--model.generator_width=4"],
}


@pytest.mark.parametrize("arguments", [line for page in PAGES.values() for line in command_lines("evaluate.py", page)])
def test_evaluation_commands_run(arguments, workplace, capsys):
    # The checkpoints of the results table took up to an hour each: their flags are tried on small ones.
    named = list(re.finditer(r"runs/(\w+)/(\w+)/0/checkpoints/best\.ckpt", arguments))
    assert named
    for match in named:
        data, algorithm = match[1] if match[1] in ("MiniImageNet", "Sinusoid") else "Glyphs", match[2]
        checkpoint = Path("runs", data, algorithm, "0", "checkpoints", "best.ckpt")
        if not checkpoint.is_file():
            flags = [*SMALLEST.get(data, []), *SMALLEST.get(algorithm, [])]
            assert trained(data, f"--model={algorithm}", *flags) == 0
        arguments = arguments.replace(match[0], str(checkpoint))
    assert evaluate([*shlex.split(arguments), "--num_episodes=1", "--trainer.accelerator=cpu"]) == 0
    assert "± " in capsys.readouterr().out


def test_a_run_folder_holds_what_the_readme_says(workplace):
    named = re.findall(
        r"^\| `([\w./*]+)` \| ", README.split("`runs/<data>/<model>/<n>/`")[1].split("\n## ")[0], re.MULTILINE
    )
    assert {"config.yaml", "results.json"} < set(named)
    assert [name for name in named if not list((workplace / CHECKPOINT).parents[1].glob(name))] == []


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block, workplace, monkeypatch):
    def short(**arguments):
        return Trainer(**arguments, fast_dev_run=1, accelerator="cpu")

    monkeypatch.setattr("pytorch_lightning.Trainer", short)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    if "logits" in names:
        assert f"# {list(names['logits'].shape)}" in block


@pytest.mark.parametrize("registry", [algorithms, benchmarks])
def test_every_algorithm_and_benchmark_has_a_row(registry):
    names = [name for name in registry.__all__ if not inspect.isabstract(getattr(registry, name))]
    assert [name for name in names if f"\n| `{name}` | " not in README] == []


def test_every_norm_and_backbone_is_named():
    assert [name for name in (*get_args(Norm), *_BUILDERS, "timm/<name>") if f"`{name}`" not in README] == []


def test_there_is_a_place_for_the_results():
    assert README.index("<!-- results:begin -->") < README.index("<!-- results:end -->")


def leads_somewhere(target, page):
    """Whether a relative link on a page names a file or folder, and after # one of a file's headings."""
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

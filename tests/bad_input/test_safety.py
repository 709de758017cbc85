"""Nothing that is read runs code, and nothing that is shown is obeyed."""

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fewshot_pl
from fewshot_pl.backbones import build_backbone
from fewshot_pl.benchmarks.cifar import _unpickled
from fewshot_pl.errors import InputError
from fewshot_pl.pages import page
from fewshot_pl.printable import printable

ROOT = Path(fewshot_pl.__file__).parent
# The argument that makes a call safe; None marks calls that are forbidden.
CALLS: dict[str, tuple[str, bool] | None] = {
    "torch.load": ("weights_only", True),
    "timm.models.load_state_dict": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    **dict.fromkeys(("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system")),
}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.path),)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_are_loaded_without_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert not name.endswith((".extractall", ".extract")), f"line {node.lineno}: archives are read, not extracted"
        if name in CALLS:
            needed, said = CALLS[name], {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert needed and said.get(needed[0]) == str(needed[1]), f"line {node.lineno}: {name}"


def test_a_pickle_of_cifar_makes_arrays_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(pickle.dumps({"data": Payload(tmp_path / "ran")}, protocol=2))
    with pytest.raises(InputError, match=r"wants to run os\.makedirs: download it again$"):
        _unpickled(tmp_path / "train")
    assert not (tmp_path / "ran").exists()


def test_pre_trained_weights_run_no_code(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="does not hold the weights of resnet10t"):
        build_backbone("timm/resnet10t", (3, 32, 32), "running", str(tmp_path / "weights.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J\x00\x9b", r"\x1b[2J\x00\x9b"),
        ("\u202egnp.tac\u2066", r"\u202egnp.tac\u2066"),
        ("caf\udce9", r"caf\udce9"),
        ("猫 قطة बिल्ली 👩‍🚀 <&> \"'$\\", "猫 قطة बिल्ली 👩‍🚀 <&> \"'$\\"),
    ],
)
def test_what_would_be_obeyed_stands_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_names_on_a_page_neither_mix_with_its_text_nor_end_its_attributes() -> None:
    name = "\"><img src=x onerror='alert(1)'>שלום\u202e"
    facts = {"algorithm": "MAML", "checkpoint": name, "false_reject": 0.05, "false_accept": None, "counts": {name: 1}}
    written = page("predictions.html", support={name: []}, shown=[], num_labels=1, num_unknown=0, num_bars=5, **facts)
    escaped = "&#34;&gt;&lt;img src=x onerror=&#39;alert(1)&#39;&gt;שלום\\u202e"
    assert f"<bdi>{escaped}</bdi> (1)" in written and f'data-show="class:{escaped}"' in written
    assert "<img" not in written and "\u202e" not in written


SCRIPTS = """
import runpy, sys
for line in sys.stdin.read().splitlines():
    sys.argv = line.split()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        print(stop.code)
"""
LINES = {
    "train.py --model.learning_rat 1": "error: there is no flag",
    "evaluate.py --ckpt_path missing.ckpt": "error: there is no checkpoint missing.ckpt",
    "predict.py --ckpt_path missing.ckpt --support nowhere --query x": "error: there is no folder nowhere",
    "export.py --ckpt_path missing.ckpt": "error: there is no checkpoint missing.ckpt",
}


def test_the_scripts_themselves_answer_so(tmp_path: Path) -> None:
    lines = "\n".join(f"{ROOT.parent / line}" for line in LINES)
    environment = {"PYTHONPATH": str(ROOT.parent), "PATH": "/usr/bin", "HOME": str(tmp_path)}
    run = [sys.executable, "-c", SCRIPTS]
    answer = subprocess.run(run, input=lines, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.stdout.split() == ["2"] * len(LINES), answer.stderr
    errors = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert all(error.startswith(told) for error, told in zip(errors, LINES.values(), strict=True))
    assert "Traceback" not in answer.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parts[-2] != "matplotlib"]

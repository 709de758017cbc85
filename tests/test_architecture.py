"""The import map of fewshot_pl, and the rules of the code base that a machine can check."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import fewshot_pl
from fewshot_pl import algorithms

ROOT = Path(fewshot_pl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAX_LINES = 250
# Which parts of fewshot_pl a part may import, in addition to itself and errors; "" is fewshot_pl/__init__.py.
ARROWS = {
    "": {"torchvision_guard", "episode", "freed_memory"},
    "freed_memory": set(),
    "errors": set(),
    "torchvision_guard": set(),
    "episode": set(),
    "functional": set(),
    "backbones": {"functional"},
    "metrics": {"episode", "functional", "registries"},
    "all_processes": set(),
    "step_log": {"all_processes"},
    "argument_types": set(),
    "plain_arguments": set(),
    "algorithms": {
        *("all_processes", "argument_types", "episode", "functional", "backbones", "metrics", "plain_arguments"),
        *("registries", "step_log"),
    },
    "data": {"argument_types", "episode", "plain_arguments", "printable", "registries"},
    "benchmarks": {"data", "episode", "printable"},
    "callbacks": {"all_processes", "argument_types", "episode", "algorithms", "metrics", "step_log"},
    "checkpoints": {"algorithms", "registries", "whole_files"},
    "guard": {"printable", "process_group", "signals"},
    "process_group": set(),
    "printable": set(),
    "signals": set(),
    "registries": set(),
    "resuming": {"algorithms", "checkpoints", "data", "registries", "signals", "whole_files"},
    "runs": {"checkpoints"},
    "flags": {"algorithms", "benchmarks", "printable", "registries"},
    "results": {"", "algorithms", "data", "whole_files"},
    "trained_data": {"benchmarks", "data", "registries"},
    "own_classes": {"algorithms", "benchmarks", "flags", "registries"},
    "prediction": {
        *("algorithms", "benchmarks", "checkpoints", "data", "episode", "flags", "freed_memory", "guard", "pages"),
        *("own_classes", "trained_data", "whole_files"),
    },
    "exporting": {"algorithms", "data", "flags", "guard", "own_classes", "prediction"},
    "tf32": set(),
    "pages": {"printable"},
    "whole_files": set(),
    "evaluation": {
        *("algorithms", "benchmarks", "callbacks", "checkpoints", "data", "flags", "freed_memory", "guard", "metrics"),
        *("own_classes", "pages", "printable", "process_group", "registries", "results", "resuming", "tf32"),
        *("trained_data", "whole_files"),
    },
    "training": {
        *(
            "algorithms",
            "benchmarks",
            "callbacks",
            "checkpoints",
            "data",
            "flags",
            "freed_memory",
            "guard",
            "prediction",
        ),
        *("process_group", "registries", "results", "resuming", "runs", "tf32", "whole_files"),
    },
    "cli": {"evaluation", "exporting", "prediction", "training"},
}
# Third-party packages that the pure parts may import; the other parts import what they need.
THIRD_PARTY = {
    "": set(),
    "errors": set(),
    "torchvision_guard": {"torch"},
    "episode": {"torch"},
    "functional": {"torch"},
    "backbones": {"torch", "learn2learn", "timm"},
    "metrics": {"torch", "torchmetrics"},
    "algorithms": {"torch", "pytorch_lightning"},
    "runs": {"pytorch_lightning"},
}
ON_USE_ONLY = {"learn2learn", "timm", "kornia", "onnxruntime"}  # take seconds to import: never at the top of a file
ALL_TIMM = "backbones/timm_networks.py"  # but of this, which itself is never imported at the top of one


def relative(path):
    return path.relative_to(ROOT).as_posix()


def part_of(path):
    """The part of fewshot_pl that a file belongs to: its folder, or its name directly under fewshot_pl."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def module_name(path):
    parts = ("fewshot_pl", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imported_names(nodes):
    """The dotted names imported by the import statements among the nodes."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path, whole_file=True):
    tree = ast.parse(path.read_text("utf-8"))
    return list(imported_names(ast.walk(tree) if whole_file else tree.body))


def inner_imports(path):
    """The parts of fewshot_pl that a file imports."""
    names = [name.split(".") for name in imports(path) if name.split(".")[0] == "fewshot_pl"]
    return {name[1] if len(name) > 1 else "" for name in names}


@pytest.fixture(params=FILES, ids=relative)
def path(request):
    return request.param


def test_the_import_map_names_every_part():
    assert {part_of(path) for path in FILES} == ARROWS.keys()


def test_imports_follow_the_arrows(path):
    part = part_of(path)
    assert inner_imports(path) <= {part, "errors", *ARROWS[part]}


def test_pure_parts_import_only_the_packages_they_are_allowed(path):
    outer = {name.split(".")[0] for name in imports(path)} - {"fewshot_pl", "__future__"} - sys.stdlib_module_names
    assert outer <= THIRD_PARTY.get(part_of(path), outer)


def test_slow_packages_are_imported_only_where_used(path):
    names = imports(path, whole_file=False)
    allowed = {"timm"} if relative(path) == ALL_TIMM else set()
    assert not {name.split(".")[0] for name in names} & ON_USE_ONLY - allowed
    assert not any(name.startswith("fewshot_pl.backbones.timm_networks") for name in names)


def test_callbacks_know_of_the_algorithms_only_their_base():
    names = [name for path in (ROOT / "callbacks").glob("*.py") for name in imports(path)]
    assert all(name.startswith("fewshot_pl.algorithms.base.") for name in names if "fewshot_pl.algorithms" in name)


def test_the_map_has_no_cycle():
    done = set()
    while waiting := ARROWS.keys() - done - {""}:
        ready = {part for part in waiting if ARROWS[part] - {""} <= done}
        assert ready, f"these import each other: {waiting}"
        done |= ready


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export"])
def test_scripts_only_call_their_command(command):
    path = ROOT.parent / f"{command}.py"
    assert {name for name in imports(path) if name != "sys"} == {f"fewshot_pl.cli.{command}"}
    assert len(path.read_text("utf-8").splitlines()) < 15


def test_importing_the_commands_imports_no_slow_package():
    program = f"import sys, fewshot_pl, fewshot_pl.cli; print(sorted({ON_USE_ONLY!r} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT.parent, capture_output=True, text=True)
    assert (answer.stdout.strip(), answer.returncode) == ("[]", 0), answer.stderr


def test_a_file_is_not_long(path):
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("folder", [ROOT, Path(__file__).parent], ids=["fewshot_pl", "tests"])
def test_no_file_is_a_drawer_for_anything(folder):
    drawers = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
    assert [path for path in folder.rglob("*.py") if path.name in drawers] == []


def test_one_paper_one_file_one_class():
    for name in algorithms.__all__:
        algorithm = getattr(algorithms, name)
        if not inspect.isabstract(algorithm):
            module = inspect.getmodule(algorithm)
            assert module.__name__.split(".")[-1].replace("_", "") == name.lower()
            assert [found for found, _ in public_definitions(Path(module.__file__))] == [name]


def public_definitions(path):
    """The name and node of every public class and function at the top of a file."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name, node


def own_methods(node, owner):
    """The public methods in the body of a class that override nothing; a property is read like an attribute."""
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            overrides = any(hasattr(base, member.name) for base in owner.__mro__[1:])
            if not overrides and not isinstance(vars(owner)[member.name], property):
                yield f"{owner.__name__}.{member.name}", member


def test_what_is_public_has_a_docstring_unless_it_overrides(path):
    module = importlib.import_module(module_name(path))
    documented = dict(public_definitions(path))
    for name, node in list(documented.items()):
        if isinstance(node, ast.ClassDef):
            documented |= own_methods(node, getattr(module, name))
    assert [name for name, node in documented.items() if not ast.get_docstring(node)] == []
    assert ast.get_docstring(ast.parse(path.read_text("utf-8"))) or not documented, "the file has no docstring"

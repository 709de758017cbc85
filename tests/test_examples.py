"""The notebooks of examples/ run from top to bottom."""

import re
from pathlib import Path

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The name of a kernel that is the Python of this test, whatever kernels a user has installed."""
    write_kernel_spec(tmp_path / "kernels" / "of-this-test")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return "of-this-test"


def executed(name, kernel):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    return NotebookClient(notebook, timeout=120, kernel_name=kernel, resources=resources).execute()


def text_outputs(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.ipynb")))
def test_no_outputs_are_stored(name):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_own_images_are_told_apart_and_shown(kernel):
    notebook = executed("own_images.ipynb", kernel)
    told = text_outputs(notebook)
    assert float(re.search(r"([\d.]+) % right on classes that training never saw", told)[1]) > 80  # 50 by chance
    assert "['octagon' 'square' 'triangle']" in told
    pictures = [one for one in notebook.cells[-1].outputs if "image/png" in one.get("data", {})]
    assert len(pictures) == 1

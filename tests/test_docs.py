"""The site of docs/: what its hook makes of pages, and that no page, algorithm or benchmark is left out.

That it builds without a warning and needs nothing from elsewhere, .ci/run finds out.
"""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from fewshot_pl import algorithms, benchmarks

DOCS = Path(__file__).parents[1] / "docs"


def shown(markdown, page="algorithms/protonet.md", repo_url=None):
    """A page as the hook gives it to MkDocs."""
    spec = importlib.util.spec_from_file_location("repository_links", DOCS / "repository_links.py")
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook.on_page_markdown(markdown, SimpleNamespace(file=SimpleNamespace(src_uri=page)), {"repo_url": repo_url})


@pytest.mark.parametrize(
    ("link", "without_url", "with_url"),
    [
        (
            "[protonet.py](../../fewshot_pl/algorithms/protonet.py)",
            "`fewshot_pl/algorithms/protonet.py`",
            "[protonet.py](https://host/us/it/blob/HEAD/fewshot_pl/algorithms/protonet.py)",
        ),
        (
            "[the README](../../README.md#speed)",
            "the README (`README.md`)",
            "[the README](https://host/us/it/blob/HEAD/README.md#speed)",
        ),
        *[
            (link, link, link)
            for link in ("[a](../norm_modes.md#b)", "[a](maml.md)", "[a](https://b.c)", "![a](../b.png)")
        ],
    ],
)
def test_links_into_the_repository(link, without_url, with_url):
    assert shown(f"See {link}.") == f"See {without_url}."
    assert shown(f"See {link}.", repo_url="https://host/us/it/") == f"See {with_url}."


def test_the_results_page_shows_the_readmes_table():
    page = shown((DOCS / "results.md").read_text("utf-8"), "results.md")
    assert "\n| ProtoNet | Omniglot | 5-way 1-shot |" in page
    assert "](docs/" not in page and "results:end" not in page


@pytest.mark.parametrize("registry", [algorithms, benchmarks])
def test_the_reference_has_every_algorithm_and_benchmark(registry):
    reference = (DOCS / "api.md").read_text("utf-8").splitlines()
    classes = [getattr(registry, name) for name in registry.__all__]
    assert [one.__name__ for one in classes if f"::: {one.__module__}.{one.__name__}" not in reference] == []

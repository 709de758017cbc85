"""The site of docs/: its hooks, and that no page, algorithm or benchmark is left out.

.ci/run checks that it builds without warnings and is self-contained.
"""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from markdown import Markdown
from mkdocs.exceptions import PluginError

import fewshot_pl
from fewshot_pl import algorithms, benchmarks

DOCS = Path(__file__).parents[1] / "docs"


def hook(name):
    """An MkDocs hook, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(markdown, page="algorithms/protonet.md", repo_url=None):
    """A page as the hook gives it to MkDocs."""
    page = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    return hook("repository_links").on_page_markdown(markdown, page, {"repo_url": repo_url})


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


def test_what_the_reference_names_can_be_had_from_the_package_itself():
    names = re.findall(r"^::: ([\w.]+)\.(\w+)$", (DOCS / "api.md").read_text("utf-8"), flags=re.MULTILINE)
    assert len(names) > 20
    for module, name in names:
        assert getattr(fewshot_pl, name) is getattr(importlib.import_module(module), name)
    imported = {}
    exec("from fewshot_pl import *", imported)
    assert {name for _, name in names} <= imported.keys() & set(dir(fewshot_pl))


def test_importing_the_package_alone_does_not_wait_for_lightning():
    program = "import sys, fewshot_pl; print('pytorch_lightning' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_the_results_page_shows_the_readmes_table():
    page = shown((DOCS / "results.md").read_text("utf-8"), "results.md")
    assert "\n| ProtoNet | Omniglot | 5-way 1-shot |" in page
    assert "](docs/" not in page and "results:end" not in page


@pytest.mark.parametrize("registry", [algorithms, benchmarks])
def test_the_reference_has_every_algorithm_and_benchmark(registry):
    reference = (DOCS / "api.md").read_text("utf-8").splitlines()
    classes = [getattr(registry, name) for name in registry.__all__]
    assert [one.__name__ for one in classes if f"::: {one.__module__}.{one.__name__}" not in reference] == []


def with_formulas(text, page="a.md"):
    """A page as HTML, by the site's own settings for formulas."""
    (settings,) = (
        one["pymdownx.arithmatex"]
        for one in yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text("utf-8"))["markdown_extensions"]
        if "pymdownx.arithmatex" in one
    )
    extensions = ["pymdownx.arithmatex", "pymdownx.superfences", "tables"]
    html = Markdown(extensions=extensions, extension_configs={"pymdownx.arithmatex": settings}).convert(text)
    return hook("formulas").on_page_content(html, SimpleNamespace(file=SimpleNamespace(src_uri=page)))


@pytest.mark.parametrize("page", sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")))
def test_every_formula_of_a_page_is_mathml(page):
    text = (DOCS / page).read_text("utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    shown = with_formulas(text, page)
    displayed = prose.count("$$") // 2
    assert shown.count('display="block"') == displayed
    assert shown.count('display="inline"') == (prose.replace("$$", "").count("$")) // 2
    assert "$" not in re.sub(r"<code.*?</code>", "", shown, flags=re.DOTALL) and "arithmatex" not in shown
    assert displayed or not page.startswith("algorithms/") or page.endswith("README.md")


def test_a_formula_is_the_mathml_that_one_would_write():
    assert with_formulas(r"$\frac{a_1}{2} < -\log p$") == (
        '<p><math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><mfrac><mrow><msub><mi>a</mi>'
        '<mn>1</mn></msub></mrow><mrow><mn>2</mn></mrow></mfrac><mo>&lt;</mo><mo form="prefix">−</mo><mi>log</mi>'
        '<mspace width="0.17em" /><mi>p</mi></mrow></math></p>'
    )


@pytest.mark.parametrize(
    "wrong",
    [
        *(r"$\foo x$", r"${x$", r"$x_$", r"$x^2^3$", r"$\left( x$", r"$\frac{1}$"),
        "$$\n\\begin{aligned} a &= b \\end{aligned}\n$$",
        "in the middle $$ of a line\n\n$$",
    ],
)
def test_a_wrong_formula_ends_the_build(wrong):
    with pytest.raises(PluginError, match=r"^a\.md: .*(formula)"):
        with_formulas(wrong)


def test_every_test_that_the_page_on_reliability_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "reliability.md").read_text("utf-8")))
    files = [path.read_text("utf-8") for path in (DOCS.parent / "tests").rglob("test_*.py")]
    written = {name for text in files for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)}
    assert len(named) > 30
    assert named - written == set()

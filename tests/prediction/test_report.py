"""The page of labels: self-contained, safe, sorted, and filtered in a real browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from fewshot_pl.prediction.labels import Label
from fewshot_pl.prediction.report import Shown, report, thumbnail_uri

FACTS = {"algorithm": "ProtoNet", "checkpoint": "best.ckpt", "false_reject": 0.05, "false_accept": 0.4}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NASTY = '<script>alert("1")</script>'


class Page(HTMLParser):
    """Collects the start tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def picture(colour="red"):
    return thumbnail_uri(Image.new("RGB", (400, 200), colour))


def page(names=("cat", "dog", NASTY), **facts):
    labels = [
        Label(Path("q/0.png"), tuple(names), (0.5, 0.3, 0.2), False),
        Label(Path("q/1.png"), tuple(names[::-1]), (0.9, 0.06, 0.04), False),
        Label(Path(f"q/{NASTY}.png"), (names[1], names[0], names[2]), (0.95, 0.03, 0.02), True),
        Label(Path("q/3.png"), tuple(names), (0.7, 0.2, 0.1), False),
    ]
    shown = [Shown(label, picture()) for label in labels]
    return report({name: [picture("blue")] * 2 for name in names}, shown, {**FACTS, **facts})


def test_pictures_are_small_upright_and_on_white():
    content = thumbnail_uri(Image.new("RGBA", (4000, 2000), (0, 0, 0, 0)))
    assert content.startswith("data:image/jpeg;base64,") and len(content) < 4000


def test_the_surest_come_first_and_the_unknown_last():
    files = re.findall(r'class="file">q/(.*?)\.png<', page())
    assert files[:3] == ["1", "3", "0"] and len(files) == 4


def test_everything_is_in_the_page_and_names_are_escaped():
    parsed = Page(page())
    sources = [attributes["src"] for _, attributes in parsed.tags if "src" in attributes]
    assert len(sources) == 3 * 2 + 4 and all(source.startswith("data:") for source in sources)
    assert not any("href" in attributes for _, attributes in parsed.tags)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in parsed.tags
    assert {attributes.get("data-show") for tag, attributes in parsed.tags if tag == "button"} == {
        "",
        "class:cat",
        "class:dog",
        f"class:{NASTY}",
        "unknown",
    }


def test_counts_leave_out_unknown_images():
    text = re.sub("</?bdi>", "", page())
    assert "cat (2)" in text and "dog (0)" in text and "unknown (1)" in text and "all (4)" in text


def test_without_calibration_nothing_is_said_of_unknown_images():
    text = page(false_accept=None)
    assert "not calibrated" in text and 'data-show="unknown"' not in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("filtered", "visible"), [("", 4), ("class:cat", 2), ("unknown", 1), (f"class:{NASTY}", 1)])
def test_a_browser_shows_what_is_asked_for(tmp_path, filtered, visible):
    path = tmp_path / "report.html"
    path.write_text(page(), encoding="utf-8")
    dom = in_chromium(path, filtered, "--dump-dom")
    articles = [attributes for tag, attributes in Page(dom).tags if tag == "article"]
    assert len(articles) == 4
    shown = [attributes["data-is"] for attributes in articles if "hidden" not in attributes]
    assert len(shown) == visible
    assert filtered == "" or set(shown) == {filtered}
    pressed = [a["data-show"] for tag, a in Page(dom).tags if tag == "button" and a["aria-pressed"] == "true"]
    assert pressed == [filtered]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_is_no_wider_than_a_phone(tmp_path):
    path = tmp_path / "report.html"
    measuring = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"
    long_name = "a_class_with_a_name_that_has_no_place_to_break_" * 3
    path.write_text(page((long_name, "dog", "cat")).replace("</body>", measuring + "</body>"), encoding="utf-8")
    title = re.search(r"<title>(\d+) of (\d+)</title>", in_chromium(path, "", "--dump-dom", "--window-size=500,900"))
    assert int(title.group(1)) <= int(title.group(2))


def in_chromium(path, fragment, *flags):
    headless = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}"]
    url = f"{path.as_uri()}#{quote(fragment, safe='')}"
    return subprocess.run([*headless, *flags, url], capture_output=True, text=True, timeout=60, check=True).stdout

"""MkDocs hook for the links from pages into the repository, and for the README's table of results."""

import posixpath
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\.?/[^)\s]*)\)")
_README = Path(__file__).parents[1] / "README.md"
_TABLE = "<!-- the table -->"  # marks where a page shows it


def on_page_markdown(markdown: str, page: Any, config: Any, **others: Any) -> str:
    """The page with the table in its place, and with links to files outside docs/ pointing into ``repo_url``.

    Without a ``repo_url``, the name of the file replaces the link.
    """
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def on_the_site(link: re.Match[str]) -> str:
        text, target = link.groups()
        path, hash_sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(folder, path))
        if path.startswith("docs/"):
            return link[0]
        if config["repo_url"]:
            return f"[{text}]({config['repo_url'].rstrip('/')}/blob/HEAD/{path}{hash_sign}{anchor})"
        return f"`{path}`" if text.replace("\\", "") in path else f"{text} (`{path}`)"

    return _LINK.sub(on_the_site, markdown).replace(_TABLE, table_of_results())


def table_of_results() -> str:
    """The README's text between its two marks, with links relative to docs/."""
    marked = _README.read_text("utf-8").split("<!-- results:begin -->")[1].split("<!-- results:end -->")[0]
    return marked.replace("](docs/", "](")

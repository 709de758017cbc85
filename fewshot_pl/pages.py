"""Self-contained HTML pages."""

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fewshot_pl.printable import printable


def page(template: str, **facts: Any) -> str:
    """The HTML of a file in templates/ filled in with ``facts``; texts are escaped, and each is kept on one line."""
    return _templates().get_template(template).render(**facts)


def data_uri(image: bytes, kind: str) -> str:
    """The data URI of an image, the contents of a file of type ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("fewshot_pl"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def _shown(value: Any) -> Any:
    return type(value)(printable(value)) if isinstance(value, str) else value  # str, or Markup that is escaped already

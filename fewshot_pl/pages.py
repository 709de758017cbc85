"""HTML pages that hold everything they show."""

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fewshot_pl.printable import printable


def page(template: str, **facts: Any) -> str:
    """The page that a file in templates/ makes of ``facts``; names of users' are escaped, and stay on a line."""
    return _templates().get_template(template).render(**facts)


def data_uri(image: bytes, kind: str) -> str:
    """An address that holds an image itself, the content of a file of type ``png`` or ``jpeg``."""
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
    return type(value)(printable(value)) if isinstance(value, str) else value  # str, or what is escaped already

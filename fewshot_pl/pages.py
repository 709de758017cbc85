"""HTML pages that hold everything they show."""

import base64
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def page(template: str, **facts: Any) -> str:
    """The page that a file in templates/ makes of ``facts``; names that come from users are escaped."""
    return _templates().get_template(template).render(**facts)


def data_uri(image: bytes, kind: str) -> str:
    """An address that holds an image itself, the content of a file of type ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("fewshot_pl"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)

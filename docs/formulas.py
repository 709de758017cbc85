"""MkDocs hook that converts the TeX formulas of pages to MathML, which browsers draw by themselves."""

import re
from html import unescape
from typing import Any
from xml.etree.ElementTree import Element, tostring

from latex2mathml.converter import convert_to_element
from mkdocs.exceptions import PluginError

_DISPLAYS = {"div": "block", "span": "inline"}
_FORMULA = re.compile(r'<(div|span) class="arithmatex">(.*?)</\1>', re.DOTALL)  # as pymdownx.arithmatex marks them
_SIGNS, _CLOSING, _FUNCTIONS = ("+", "-", "−"), (")", "]", "|", "}"), ("cos", "exp", "log", "sin")
_NUM_PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}
_CODE = re.compile(r"<(code|pre)\b.*?</\1>", re.DOTALL)


def on_page_content(html: str, page: Any, **others: Any) -> str:
    """The page with its formulas as MathML.

    Raises:
        PluginError: a formula cannot be converted, or a dollar sign outside of code belongs to none.
    """
    try:
        converted = _FORMULA.sub(lambda found: mathml(unescape(found[2]), _DISPLAYS[found[1]]), html)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error
    if stray := re.search(r".{0,30}\$.{0,30}", _CODE.sub("", converted)):
        raise PluginError(f"{page.file.src_uri}: a dollar sign that belongs to no formula in '{stray[0]}'")
    return converted


def mathml(tex: str, display: str) -> str:
    """A formula as a ``math`` element; raises ValueError if it is not TeX, or not known to the converter."""
    try:
        formula = convert_to_element(tex, display=display)
    except Exception as error:  # the converter's errors have no class in common
        raise ValueError(f"the formula '{tex.strip()}' cannot be converted ({error!r})") from error
    for part in formula.iter():
        part.text = unescape(part.text or "")  # the converter writes characters by their numbers
    # The converter passes on unchanged what it does not know, and the ampersands of environments such as aligned.
    if unknown := [part.text for part in formula.iter() if part.text == "&" or "\\" in (part.text or "")]:
        raise ValueError(f"the formula '{tex.strip()}' has {unknown[0]}, which the converter does not know")
    if not _is_balanced(tex):
        raise ValueError(f"the formula '{tex.strip()}' opens and closes another number of braces")
    if cut := [part.tag for part in formula.iter() if len(part) != _NUM_PARTS.get(part.tag, len(part))]:
        raise ValueError(f"the formula '{tex.strip()}' lacks a part of {cut[0]}")
    for part in list(formula.iter()):
        _space(part)
    return tostring(formula, encoding="unicode")


def _space(row: Element) -> None:
    """Give signs, bars and names of functions in a row of a formula the spaces that TeX gives them."""
    for place, part in reversed(list(enumerate(row))):
        following = row[place + 1] if place + 1 < len(row) else None
        opens = place == 0 or (row[place - 1].tag == "mo" and row[place - 1].text not in _CLOSING)
        if part.tag == "mo" and part.text == "|":
            part.attrib |= {"lspace": "0", "rspace": "0"}
        elif part.tag == "mo" and part.text in _SIGNS and opens:
            part.set("form", "prefix")
        elif part.text == "~":  # of \sim, a relation
            part.tag, part.text = "mo", "∼"
        elif part.tag == "mi" and part.text in _FUNCTIONS and following is not None and following.text != "(":
            row.insert(place + 1, Element("mspace", width="0.17em"))


def _is_balanced(tex: str) -> bool:
    braces = re.sub(r"\\.", "", tex)
    return braces.count("{") == braces.count("}")

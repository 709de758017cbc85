"""Text that is safe to show anywhere: names of files and classes can hold what terminals and pages would obey."""

import re
from collections.abc import Sequence

# Control characters, line separators, marks of writing direction, and bytes of names that are not text.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text on one line, with control characters and bytes that are not text as escapes, like ``\x1b``."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def first_of(names: Sequence[str]) -> str:
    """The first of some names, in quotes, and how many more there are."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"'{printable(names[0])}'{more}"

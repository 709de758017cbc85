"""Text that may be shown anywhere: names of files and classes can hold what terminals and pages would obey."""

import re

# Control characters, ends of lines, what turns the direction of writing, and bytes of names that are no text.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Text on one line in which characters that are commands or no text stand as escapes, like ``\x1b``."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

"""The one exception for a mistake of the user's."""


class InputError(ValueError):
    """Bad input, with its cause and its cure in one sentence; commands print it without a traceback."""

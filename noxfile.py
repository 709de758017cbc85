"""The core's tests under other versions than requirements.txt pins: ``nox``, or ``nox -s oldest``; needs uv.

The lower ends of pyproject.toml's ranges are what ``oldest`` passes with; ``newest`` is a canary, which only warns.
"""

import nox
from nox.command import CommandFailed

nox.options.default_venv_backend = "uv"
_TESTS = (
    *("tests/functional", "tests/data", "tests/algorithms/test_maml.py", "tests/callbacks/test_finite_loss.py"),
    *("tests/test_commands.py", "tests/bad_input/test_checkpoints.py"),
)
# As in requirements.txt: learn2learn has to run Cython again.
_LEARN2LEARN = "--config-setting=--build-option=build_ext"
_INSTALLED = ("-r", "pyproject.toml", _LEARN2LEARN, "pytest>=8.4,<9.2", "pytest-xdist>=3.6", "hypothesis>=6.130")


@nox.session(python=["3.10"])
def oldest(session: nox.Session) -> None:
    """The lowest versions of all ranges."""
    session.install(*_INSTALLED, "--resolution=lowest-direct")
    session.run("python", "-m", "pytest", "-x", *_TESTS, *session.posargs)


@nox.session(python=["3.10", "3.12"])
def newest(session: nox.Session) -> None:
    """The highest versions that resolve."""
    session.install(*_INSTALLED, "--upgrade")
    try:
        session.run("python", "-m", "pytest", *_TESTS, *session.posargs)
    except CommandFailed:
        session.warn("The newest versions fail: a warning of what is to come, no fault of the change at hand")

"""The tests of the core under other versions than requirements.txt pins: ``nox``, or ``nox -s oldest``; needs uv.

What ``oldest`` passes with are the lower ends of pyproject.toml's ranges; ``newest`` is a canary, which only warns.
"""

import nox

nox.options.default_venv_backend = "uv"
_TESTS = ("tests/functional", "tests/data", "tests/algorithms", "tests/test_commands.py")
# As in requirements.txt: learn2learn has to run Cython again.
_INSTALLED = ("-r", "pyproject.toml", "pytest>=8.4", "pytest-xdist>=3.6", "hypothesis>=6.130")
_LEARN2LEARN = "--config-setting=--build-option=build_ext"


@nox.session(python=["3.10"])
def oldest(session: nox.Session) -> None:
    """The lowest versions of all ranges."""
    session.install(*_INSTALLED, _LEARN2LEARN, "--resolution=lowest-direct")
    session.run("python", "-m", "pytest", "-x", *_TESTS, *session.posargs)


@nox.session(python=["3.10", "3.12"])
def newest(session: nox.Session) -> None:
    """The highest versions that resolve."""
    session.install(*_INSTALLED, _LEARN2LEARN, "--upgrade")
    session.run("python", "-m", "pytest", *_TESTS, *session.posargs, success_codes=[0, 1])
    if session.posargs == []:
        session.log("Failed tests above are of versions to come: not of a change at hand")

"""Fixtures of every test."""

import os

# Networks of tests are so small that threads only wait for each other, and where a test asks for two, they would wait
# by turning round and round on the cores that other tests need; must come before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}")
    return folder

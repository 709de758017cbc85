"""Fixtures for the tests of several benchmarks."""

import pytest
from tiny_archives import cut_splits


@pytest.fixture
def cut(monkeypatch):
    """The function from a benchmark's name to the two classes that each of its splits keeps."""
    return cut_splits(monkeypatch)

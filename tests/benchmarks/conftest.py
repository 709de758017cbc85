"""What the tests of several benchmarks take."""

import pytest
from tiny_archives import cut_splits


@pytest.fixture
def cut(monkeypatch):
    """Of a benchmark's name: the two classes that are left of each split."""
    return cut_splits(monkeypatch)

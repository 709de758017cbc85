"""A process reuses the memory that it freed, without asking the system for pages."""

import os
import subprocess
import sys

import pytest

# Page faults of making a tensor of 64 MiB ten times, after three.
SCRIPT = """
import resource, sys
import torch
from fewshot_pl import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * 2**26 // 4096


def page_faults(way: str, **variables: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, way], env=environment | variables, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's malloc is told")
def test_large_tensors_fault_no_pages_again():
    assert page_faults("kept") < PAGES / 100 < PAGES / 2 < page_faults("not kept")


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's malloc is told")
def test_the_users_own_choice_stands():
    assert page_faults("kept", MALLOC_MMAP_MAX_="65536") > PAGES / 2

"""Where a pass is computed, and what this process holds meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

FREED_BY_A_THREAD = """
import threading
import numpy as np
import psutil
from daskmeans.workers import give_back_memory

def work():
    # Arrays too small for memory of their own, and one that keeps what was freed from the end of the heap.
    arrays = [np.ones(12_000) for _ in range(2_000)]
    last.append(arrays.pop())

last, process = [], psutil.Process()
thread = threading.Thread(target=work)
thread.start()
thread.join()
before = process.memory_info().rss
give_back_memory()
print(before - process.memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be told to give memory back")
def test_memory_that_a_thread_has_freed_is_given_back():
    told = subprocess.run([sys.executable, "-c", FREED_BY_A_THREAD], capture_output=True, text=True, check=True)
    assert int(told.stdout) > 100 * 2**20

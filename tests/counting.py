"""Dask arrays that count how often they are computed."""

import collections
import threading

import dask.array as da
import numpy as np


def counted(X, chunks):
    """A Dask array of the rows of `X` that counts how often each of its chunks is computed."""
    reads, lock = collections.Counter(), threading.Lock()

    def read(rows, block_info=None):
        with lock:
            reads[block_info[0]["chunk-location"][0]] += 1
        return rows.copy()

    lazy = da.from_array(X, chunks=(chunks, X.shape[1])).map_blocks(read, dtype=X.dtype, meta=np.empty((0, 0)))
    return lazy, reads

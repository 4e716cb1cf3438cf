"""Write a store of Gaussian blobs that is too large for memory, chunk by chunk: (rows, features) float32, zstd.

python scripts/make_large_store.py OUT [--rows 32000000] [--features 64]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import zarr


def write_large_store(path: Path, n: int, d: int, chunk_rows: int, k: int = 32) -> zarr.Array:
    """Write `n` rows of blobs around `k` centers; a chunk is made and forgotten at a time."""
    array = zarr.create_array(path, shape=(n, d), chunks=(chunk_rows, d), dtype=np.float32, overwrite=True)
    centers = 3 * np.random.default_rng(0).standard_normal((k, d), dtype=np.float32)
    for begin in range(0, n, chunk_rows):
        rng = np.random.default_rng(begin + 1)
        rows = min(chunk_rows, n - begin)
        block = centers[rng.integers(k, size=rows)] + rng.standard_normal((rows, d), dtype=np.float32)
        # Rounded, as measured data is: so the codec has something to do.
        array[begin : begin + rows] = np.round(block, 2)
    return array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=32_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--chunk-rows", type=int, default=262_144)
    options = parser.parse_args()
    array = write_large_store(options.out, options.rows, options.features, options.chunk_rows)
    print(f"{options.out}: {array.shape[0]:,} x {array.shape[1]} float32, {array.nbytes / 1e9:.1f} GB decoded")


if __name__ == "__main__":
    main()

"""What tests of stores share: a store that counts its reads, rows put together by hand, small maps."""

from __future__ import annotations

import collections
import pickle

import numpy as np
import xarray as xr
from zarr.storage import WrapperStore

ERA_DIMS = {"sample_dims": ["month", "latitude", "longitude"], "feature_dims": ["level"]}


class CountingStore(WrapperStore):
    """Counts how often each key is read."""

    def __init__(self, store):
        super().__init__(store)
        self.reads = collections.Counter()

    def _with_store(self, store):
        same = type(self)(store)
        same.reads = self.reads
        return same

    async def get(self, key, prototype, byte_range=None):
        self.reads[key] += 1
        return await super().get(key, prototype, byte_range)

    def chunk_reads(self):
        return {key: n for key, n in self.reads.items() if not key.endswith((".json", ".zarray", ".zgroup", ".zattrs"))}


def all_rows(samples):
    """Read every block, and put the rows where their ids say."""
    blocks = [samples.loader.load(i) for i in range(samples.grid.n_blocks)]
    ids = np.concatenate([block.row_ids() for block in blocks])
    rows = np.concatenate([block.X for block in blocks])
    return rows[np.argsort(ids)]


def all_weights(samples):
    blocks = [samples.loader.load(i) for i in range(samples.grid.n_blocks)]
    return np.concatenate([b.weight for b in blocks])[np.argsort(np.concatenate([b.row_ids() for b in blocks]))]


def stack_by_hand(dataset, names, sample_dims, feature_dims):
    """Stack as a person would: globally, with xarray."""
    columns = []
    for name in names:
        inner = [dim for dim in feature_dims if dim in dataset[name].dims]
        samples = dataset[name].stack(sample_=sample_dims)
        flat = samples.stack(feature_=inner) if inner else samples.expand_dims("feature_")
        columns.append(flat.transpose("sample_", "feature_").values)
    return np.concatenate(columns, axis=1)


def pickle_trip(samples):
    return pickle.loads(pickle.dumps(samples))


def small_map():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (6, 8, 3)).astype("float64")
    values[0, 0, 0] = np.nan
    lines = {"y": np.arange(6), "x": np.arange(8.0), "area": (("y", "x"), np.ones((6, 8)))}
    return xr.Dataset({"a": (("y", "x", "band"), values), "b": (("y", "x"), values[:, :, 1])}, coords=lines)

"""Budgets: what is kept between passes leaves room for the blocks that are read."""

import threading
import time

import dask
import numpy as np
import pytest
import zarr

from daskmeans import workers
from daskmeans.memory import BLOCKS_AT_WORK, COPIES_OF_A_BLOCK, GIB, MIB, PROCESS_BYTES, Budget
from daskmeans.samples import samples_from_array
from daskmeans.scan import Scanner
from daskmeans.stores import open_samples


@pytest.mark.parametrize("total", [700 * MIB, GIB, 4 * GIB])
@pytest.mark.parametrize("block", [0, MIB, 16 * MIB, 67 * MIB, 200 * MIB])
def test_kept_rows_leave_room_for_large_blocks(total, block):
    alone, beside = Budget(total), Budget(total, block)
    assert beside.kept_bytes <= alone.kept_bytes == alone.row_bytes * 5 // 8
    at_work = BLOCKS_AT_WORK * COPIES_OF_A_BLOCK * block
    assert beside.kept_bytes + at_work + beside.sample_bytes <= beside.row_bytes or (
        beside.kept_bytes == beside.row_bytes // 8
    )
    for share in ("row_bytes", "block_bytes", "sample_bytes", "work_bytes"):
        assert getattr(beside, share) == getattr(alone, share)


def test_rows_within_what_a_budget_keeps_leave_a_process_below_it():
    budget = Budget(GIB, 64 * MIB)
    at_work = BLOCKS_AT_WORK * COPIES_OF_A_BLOCK * budget.largest_block_bytes
    assert PROCESS_BYTES + at_work + budget.sample_bytes + budget.kept_bytes <= budget.total_bytes


def test_budgets_of_rows_only_are_shared_out_whatever_the_blocks():
    assert Budget(64 * MIB, 16 * MIB).kept_bytes == 40 * MIB


def test_samples_share_a_budget_beside_their_blocks(tmp_path):
    zarr.create_array(tmp_path / "large.zarr", shape=(2**21, 64), chunks=(2**18, 64), dtype="f4")
    samples = open_samples(tmp_path / "large.zarr", budget=Budget(GIB)).samples
    assert samples.share(Budget(GIB)) == Budget(GIB, 64 * MIB)
    assert samples_from_array(np.zeros((100, 2)), None).share(Budget(GIB)) == Budget(GIB)


class AtOnce:
    """Counts the most blocks that are worked on at once."""

    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def map(self, block):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1

    def merge(self, left, right):
        return None

    def finish(self, total):
        return self.most


@pytest.mark.parametrize(("told", "most"), [(None, 2), (4, 4)])
def test_many_threads_work_on_no_more_blocks_than_the_budget_has_room_for(tmp_path, monkeypatch, told, most):
    monkeypatch.setattr(workers, "CPU_COUNT", 16)
    zarr.create_array(tmp_path / "X.zarr", shape=(2**19, 64), chunks=(2**15, 64), dtype="f4", fill_value=1)
    budget = Budget(700 * MIB)
    samples = open_samples(tmp_path / "X.zarr", budget=budget).samples
    share = samples.share(budget)
    at_work = share.blocks_at_once * COPIES_OF_A_BLOCK * share.largest_block_bytes
    assert PROCESS_BYTES + at_work + share.sample_bytes + share.kept_bytes <= 700 * MIB
    with dask.config.set(num_workers=told):
        assert Scanner.within(samples, budget).scan(AtOnce()) == most


def test_threads_are_not_limited_where_the_budget_is_of_rows_only_or_rows_lie_in_memory(tmp_path):
    samples = samples_from_array(np.zeros((100, 2)), None)
    assert Scanner.within(samples, Budget(GIB)).blocks_at_once is None
    assert Budget(128 * MIB, 8 * MIB).blocks_at_once is None

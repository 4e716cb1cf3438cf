"""Blocks of rows: whatever the blocks, a row keeps its identity and its label comes back to its place."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from daskmeans.samples import (
    UNKNOWN_LENGTH,
    Block,
    Grid,
    Loader,
    row_dtype,
    samples_from_array,
    samples_from_chunks,
)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("i4", "f8"), ("u1", "f8"), ("?", "f8")]
)
def test_float32_stays_and_all_else_becomes_float64(dtype, expected):
    assert row_dtype(dtype) == np.dtype(expected)


def test_blocks_tile_the_grid_in_c_order():
    grid = Grid(((0, 2, 3), (0, 4, 5, 9)))
    owner = np.full(grid.shape, -1)
    for i in range(grid.n_blocks):
        assert (owner[grid.region(i)] == -1).all()
        owner[grid.region(i)] = i
    assert owner[:, 0].tolist() == [0, 0, 3]
    assert owner[0].tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 2]
    assert (grid.n_cells, grid.n_blocks, grid.largest_block) == (27, 6, 8)


def test_row_ids_are_c_order_places_in_the_whole_grid_whatever_the_blocks():
    shape = (3, 4, 5)
    place = np.arange(60).reshape(shape)
    for bounds in [((0, 3), (0, 4), (0, 5)), ((0, 1, 3), (0, 3, 4), (0, 2, 4, 5))]:
        grid = Grid(bounds)
        for i in range(grid.n_blocks):
            region = grid.region(i)
            cells = place[region].reshape(-1)
            block = Block(i, region, grid, np.zeros((len(cells), 1)), None, None)
            np.testing.assert_array_equal(block.row_ids(), cells)
            np.testing.assert_array_equal(block.row_ids(np.array([len(cells) - 1, 0])), cells[[-1, 0]])
            np.testing.assert_array_equal(block.on_grid(cells, -1), place[region])


def test_dropped_rows_leave_their_cells_empty_and_the_other_ids_alone():
    X = np.arange(12.0).reshape(6, 2)
    X[1, 0] = X[4, 1] = np.nan
    samples = samples_from_array(X, np.arange(6.0))
    block = Loader(samples.loader.source, samples.grid, "drop").load(0)
    assert block.row_ids().tolist() == [0, 2, 3, 5]
    assert block.weight.tolist() == [0.0, 2.0, 3.0, 5.0]
    assert block.on_grid(np.array([7, 8, 9, 7], dtype=np.int32), -1).tolist() == [7, -1, 8, 9, -1, 7]


def test_rows_with_a_missing_weight_are_dropped_too():
    samples = samples_from_array(np.zeros((3, 1)), np.array([1.0, np.nan, 2.0]))
    block = Loader(samples.loader.source, samples.grid, "drop").load(0)
    assert block.row_ids().tolist() == [0, 2]


def test_an_array_in_memory_is_viewed_not_copied():
    X = np.zeros((1000, 3))
    assert np.shares_memory(samples_from_array(X, None).loader.load(0).X, X)


@pytest.mark.parametrize("X", [np.asfortranarray(np.ones((5, 3))), np.ones((5, 6))[:, ::2], np.ones((5, 3), "f2")])
def test_blocks_are_contiguous_whatever_the_input(X):
    block = samples_from_array(X, None).loader.load(0)
    assert block.X.flags.c_contiguous
    np.testing.assert_array_equal(block.X, X)


def test_large_arrays_are_cut_into_blocks_that_cover_all_rows():
    X = np.arange(300.0).reshape(100, 3)
    samples = samples_from_array(X, None, block_bytes=1000)
    assert samples.grid.n_blocks > 3
    rows = [samples.loader.load(i).X for i in range(samples.grid.n_blocks)]
    np.testing.assert_array_equal(np.concatenate(rows), X)


def test_dask_chunks_are_the_blocks():
    X = da.zeros((10, 2), chunks=((3, 0, 7), 2), dtype=np.float32)
    samples = samples_from_chunks([X], dtype=np.dtype(np.float32))
    assert samples.grid.bounds == ((0, 3, 3, 10),)
    assert (samples.n_samples, samples.nbytes) == (10, 80)
    assert samples.loader.source.describe_row(4) == "row 4"


def test_rows_of_chunks_of_unknown_length_have_ids_of_their_own_and_a_name():
    X = da.zeros((10, 2), chunks=(5, 2))
    samples = samples_from_chunks([X[X[:, 0] == 0]], dtype=np.dtype(np.float64))
    assert (samples.n_samples, samples.nbytes) == (None, None)
    first, second = (samples.loader.load(i, [np.zeros((5, 2))]) for i in range(2))
    assert not set(first.row_ids()) & set(second.row_ids())
    assert samples.loader.source.describe_row(UNKNOWN_LENGTH + 3) == "row 3 of chunk 1"


def test_a_chunk_of_weights_of_another_length_is_refused():
    X, weight = da.zeros((10, 2), chunks=(5, 2)), da.ones(10, chunks=5)
    samples = samples_from_chunks([X[X[:, 0] == 0], weight], dtype=np.dtype(np.float64))
    with pytest.raises(ValueError, match=r"chunk 1.* 5 rows .* 4 weights"):
        samples.loader.load(1, [np.zeros((5, 2)), np.ones(4)])

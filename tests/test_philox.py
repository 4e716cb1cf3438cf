"""Random words of rows: those of NumPy's generator, each on its own."""

from __future__ import annotations

import numpy as np
import pytest

from daskmeans import philox
from daskmeans.philox import random_words


@pytest.mark.parametrize(("seed", "purpose"), [(0, 1), (7, 2**22 + 3), (2**31 - 1, 0), (2**64 - 1, 2**64 - 1)])
def test_random_words_are_those_of_numpy(seed, purpose):
    expected = np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64)).random_raw(1000)
    np.testing.assert_array_equal(random_words(seed, purpose, np.arange(1000)), expected)
    places = np.array([999, 3, 4, 0, 500])
    np.testing.assert_array_equal(random_words(seed, purpose, places), expected[places])


def test_random_words_far_down_the_sequence_are_those_of_numpy():
    first = 2**40 + 8
    bits = np.random.Philox(key=[5, 6]).advance(first // 4)
    np.testing.assert_array_equal(random_words(5, 6, np.arange(first, first + 20)), bits.random_raw(20))


def test_compiled_random_words_equal_their_python_source(monkeypatch):
    places = np.array([0, 1, 2, 3, 4, 11])
    compiled = random_words(3, 4, places)
    for name in ("_philox", "_mul_high"):
        monkeypatch.setattr(philox, name, getattr(philox, name).py_func)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(random_words(3, 4, places), compiled)

"""scikit-learn's own checks of estimators: pipelines and searches may rely on what they check."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from daskmeans import KMeans


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # some checks repeat a few rows
@parametrize_with_checks([KMeans()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)

"""scikit-learn's own checks of estimators: pipelines and searches may rely on what they check."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from daskmeans import KMeans

# A sample that knows weights would draw a repeated row as often as one of twice the weight; ours draws rows.
EXCEPTIONS = {"check_sample_weight_equivalence_on_dense_data": "repeated rows have random numbers of their own"}


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # some checks repeat a few rows
@parametrize_with_checks([KMeans()], expected_failed_checks=lambda _: EXCEPTIONS)
def test_scikit_learns_checks(estimator, check):
    check(estimator)

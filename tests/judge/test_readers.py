"""The model beside readers: counts by hand, ties, equal candidates, and other libraries as referees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from thawline.errors import DataError
from thawline.judge.readers import find_cut, judge_reader

RNG = np.random.default_rng(7)
TRUTH = np.repeat([0, 1], 100)
PATIENTS = np.arange(200)
SCORES = RNG.normal(1.5 * TRUTH)
CALLS = (RNG.normal(1.0 * TRUTH) > 0.5).astype(float)


def test_a_reader_who_calls_is_met_at_the_same_specificity() -> None:
    found = judge_reader(TRUTH, SCORES, CALLS, PATIENTS)
    assert found is not None
    n_wrong = int(CALLS[:100].sum())
    cut = np.sort(SCORES[:100])[::-1][n_wrong]
    assert (SCORES[:100] > cut).sum() == n_wrong
    assert found.sensitivity is found.reader
    assert found.specificity is not None
    assert found.specificity.value == pytest.approx(1 - n_wrong / 100)
    assert found.model.value == pytest.approx((SCORES[100:] > cut).mean())
    only = [
        int(((SCORES[100:] > cut) & (CALLS[100:] == 0)).sum()),
        int(((SCORES[100:] <= cut) & (CALLS[100:] == 1)).sum()),
    ]
    assert found.compared.difference.value == pytest.approx((only[0] - only[1]) / 100)
    assert found.compared.p_value == pytest.approx(binomtest(only[0], sum(only)).pvalue)


def test_a_reader_who_scores_is_compared_by_auc() -> None:
    said = 5 * RNG.normal(1.0 * TRUTH)  # in whatever unit
    found = judge_reader(TRUTH, SCORES, said, PATIENTS)
    assert found is not None
    assert (found.scores, found.sensitivity, found.specificity) == (True, None, None)
    assert found.reader.value == pytest.approx(roc_auc_score(TRUTH, said))
    assert found.model.value == pytest.approx(roc_auc_score(TRUTH, SCORES))
    assert found.compared.difference.value == pytest.approx(found.model.value - found.reader.value)
    assert found.compared.p_value < 0.05


def test_what_a_reader_did_not_see_counts_for_neither() -> None:
    some = np.where(PATIENTS % 2 == 0, CALLS, np.nan)
    found, alone = (
        judge_reader(TRUTH, SCORES, some, PATIENTS),
        judge_reader(*(a[::2] for a in (TRUTH, SCORES, CALLS, PATIENTS))),
    )
    assert found == alone
    assert found is not None
    assert (found.n_items, found.n_patients) == (100, 100)
    assert judge_reader(TRUTH, SCORES, np.where(TRUTH == 1, CALLS, np.nan), PATIENTS) is None
    assert judge_reader(TRUTH, SCORES, np.full(200, np.nan), PATIENTS) is None


def test_a_reader_like_the_model_differs_in_nothing() -> None:
    found = judge_reader(TRUTH, SCORES, (SCORES > 0.5).astype(float), PATIENTS)
    assert found is not None
    assert (found.compared.difference.value, found.compared.p_value) == (0, 1)


def test_equal_scores_keep_the_specificity() -> None:
    negatives = np.array([0.1, 0.2, 0.2, 0.9])
    assert [int((negatives > find_cut(negatives, n)).sum()) for n in range(5)] == [0, 1, 1, 3, 4]


def test_a_score_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="row 3 is not"):
        judge_reader(TRUTH, np.where(PATIENTS == 3, np.nan, SCORES), CALLS, PATIENTS)

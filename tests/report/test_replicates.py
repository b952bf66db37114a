"""Real replicates, where there are any: a file with a score of the same model a line, named by TINYLM_REPLICATES.

Differences of seeds are taken to be about normal, which simulations cannot show to be so. Scores that somebody published of one
model trained with many seeds can: split at random into pairs of arms there is no effect, and hardly any may be found.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from tinylm_ablate.report.statistics import contrast, mean_and_deviation

FILE = os.environ.get("TINYLM_REPLICATES", "")


def false_findings(scores, seeds, draws=2000):
    """How many of ``draws`` splits into two arms of so many seeds find a difference."""
    source = np.random.default_rng(31)
    found = 0
    for _ in range(draws):
        drawn = source.permutation(scores)[: 2 * seeds].reshape(2, seeds)
        estimate = contrast([dict(enumerate(arm.tolist())) for arm in drawn], (1, -1))
        assert estimate is not None
        found += estimate.low > 0 or estimate.high < 0
    return found


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_normal_replicates_have_no_effect(seeds):
    assert false_findings(np.random.default_rng(32).normal(80, 0.7, 20), seeds) <= 0.06 * 2000


@pytest.mark.skipif(not FILE, reason="TINYLM_REPLICATES names no file of scores")
def test_published_replicates_have_no_effect():
    scores = np.array([float(line) for line in Path(FILE).read_text().split()])
    assert len(scores) >= 10, "ten scores or more, one a line"
    mean, deviation = mean_and_deviation(scores.tolist())
    interval = contrast([dict(enumerate(scores.tolist()))], (1,))
    expected = scipy.stats.ttest_1samp(scores, 0).confidence_interval()
    assert (mean, deviation) == pytest.approx((scores.mean(), scores.std(ddof=1)))
    assert interval is not None and interval.interval() == pytest.approx((expected.low, expected.high))
    for seeds in (2, 3, 5):
        assert false_findings(scores, seeds) <= 0.06 * 2000

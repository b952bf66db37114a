"""Rank correlation of what varies with quality."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.trend import correlation as spearman


def test_a_monotone_relation_is_one_and_its_reverse_minus_one():
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]).rho == 1
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]).rho == -1


def test_ranks_by_hand():
    # Ranks 1 2 3 4 5 against 2 1 4 3 5: squared differences 1 1 1 1 0, so 1 - 6 * 4 / (5 * 24).
    found = spearman([10, 20, 30, 40, 50], [2, 1, 4, 3, 5])
    assert found.rho == pytest.approx(0.8)
    reach = 1.959964 * math.sqrt((1 + 0.32) / 2)
    assert (found.low, found.high) == pytest.approx((math.tanh(math.atanh(0.8) - reach), math.tanh(math.atanh(0.8) + reach)))
    # Equal values share their mean rank: 1 2.5 2.5 4 against 1 2 3 4.
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]).rho == pytest.approx(4.5 / math.sqrt(4.5 * 5))


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4]), ([], [])])
def test_what_does_not_vary_has_none(first, second):
    assert math.isnan(spearman(first, second).rho)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=30))
def test_it_turns_with_its_sign_and_stays_in_its_interval(points):
    first, second = zip(*points, strict=True)
    found, turned = spearman(first, second), spearman(first, [-value for value in second])
    if not math.isnan(found.rho):
        assert found.rho == pytest.approx(-turned.rho)
        if not math.isnan(found.low):
            assert -1 <= found.low <= found.rho <= found.high <= 1


def test_the_page_sets_it_beside_the_papers(runs, tmp_path):
    bits = {10: [1.9, 1.8], 20: [1.7, 1.6], 30: [1.5, 1.4], 40: [1.55, 1.45], 35: [1.2, 1.3]}
    columns = ["shape.depth", "shape.width", "arch.expanding_rate", "parameters.total"]
    runs.depths(bits, name="figure04_shapes", paper="figure04_spearman", correlate=columns, note="A note on it.")
    results = tmp_path / "results"
    assert main(["--runs-dir", str(runs.folder), "--results", str(results)]) == 0
    text = (results / "figure04_shapes.md").read_text()
    assert "A note on it." in text
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if "|" in line
    }
    # Depth 10 20 30 35 40 has quality ranks 1 2 4 5 3 (fewer bits are better).
    assert lines["depth"][0].startswith("+0.700 [") and lines["depth"][2] == "+0.528"
    assert lines["width"][0].startswith("−0.700 [") and lines["width"][2] == "−0.516"
    assert lines["expanding rate"] == ["–", "–", "+0.090"]
    assert lines["parameters"][2] == "–" and "should not correlate" in text
    assert ElementTree.parse(results / "figures" / "figure04_shapes_correlation.svg").getroot().tag.endswith("svg")

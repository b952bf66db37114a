"""The paired tests of a section, as a table."""

from __future__ import annotations

from tinylm_ablate.report.arms import Section
from tinylm_ablate.report.compare import ERROR, WITHIN_NOISE, Pair, bootstrapped, paired_tests
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.measures import Measure
from tinylm_ablate.report.statistics import BOOTSTRAP_SEEDS

#: With more pairs than this, those with the best arm alone are listed.
_MOST = 15


def tests(section: Section, measure: Measure) -> list[str]:
    """Markdown: each pair of arms with its difference, p-values, verdict, and the seeds that would decide it. Empty without
    pairs that have two seeds in common."""
    pairs = paired_tests(section.arms, measure)
    if not pairs:
        return []
    shown = pairs
    if len(pairs) > _MOST:
        best = _best(section, measure)
        shown = [pair for pair in pairs if best in (pair.first, pair.second)]
    intervals = [bootstrapped(pair, section.arms, measure) for pair in shown]
    extra = any(interval is not None for interval in intervals)
    rows = []
    for pair, interval in zip(shown, intervals, strict=True):
        low, high = pair.estimate.interval()
        cells = [
            section.arms[pair.first].label,
            section.arms[pair.second].label,
            _verdict(pair, section, measure),
            f"{measure.signed(pair.estimate.mean)} [{measure.signed(low)}, {measure.signed(high)}]",
        ]
        if extra:
            cells.append("–" if interval is None else f"[{measure.signed(interval[0])}, {measure.signed(interval[1])}]")
        cells += [str(pair.estimate.pairs), _p(pair.p), _p(pair.holm), _needed(pair)]
        rows.append(cells)
    head = ["arm", "against", "verdict", f"{measure.title} [95 %]", *(["bootstrap [95 %]"] if extra else [])]
    head += ["seeds", "p", "p, Holm", "seeds that would decide"]
    return ["### Paired tests", table(head, rows, 3), _note(len(pairs), len(shown), pairs, extra)]


def _note(count: int, shown: int, pairs: list[Pair], bootstrap: bool) -> str:
    added = ", with the variance over documents added. Intervals are not corrected."
    if not all(pair.estimate.documents for pair in pairs):
        added = " alone, since what each document came to is not kept for all runs. Intervals are not corrected."
    sentences = [
        f"Arm minus arm, within each seed; intervals and p-values by Student's t over the seeds{added}",
        f"Holm's correction is for {'this one pair' if count == 1 else f'all {count} pairs'}; {WITHIN_NOISE} is within noise, "
        f"a corrected p of {ERROR:g} or more.",
    ]  # fmt: skip
    if shown < count:
        sentences.append("Listed are those with the best arm.")
    sentences.append("Seeds that would decide: after the correction, if means and spreads stay as they are.")
    if bootstrap:
        sentences.append(
            f"The hierarchical bootstrap over seeds and documents, told from {BOOTSTRAP_SEEDS} seeds on, decides nothing: with "
            "so few seeds it is too narrow."
        )
    return " ".join(sentences)


def _best(section: Section, measure: Measure) -> int:
    means = {
        index: sum(values) / len(values)
        for index, arm in enumerate(section.arms)
        if (values := list(arm.by_seed(measure.column).values()))
    }
    return max(means, key=lambda index: measure.better * means[index])


def _verdict(pair: Pair, section: Section, measure: Measure) -> str:
    if not pair.decided:
        return f"{WITHIN_NOISE} within noise"
    better = pair.first if measure.better * pair.estimate.mean > 0 else pair.second
    return f"{section.arms[better].label} is better"


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _needed(pair: Pair) -> str:
    if pair.decided:
        return "–"
    return "over 1,000" if pair.seeds_needed is None else f"about {pair.seeds_needed}"

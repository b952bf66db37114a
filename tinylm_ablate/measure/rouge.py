"""ROUGE-1 of a summary, for the task ``xsum``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=True)


def process_results(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Return the F-measure of shared words, 0 to 1.

    Args:
        doc: A row with its ``summary``.
        results: One generated text.
    """
    return {"rouge1": float(_scorer().score(doc["summary"], results[0].strip())["rouge1"].fmeasure)}

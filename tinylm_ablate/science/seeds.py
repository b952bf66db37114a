"""Which arms need more seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinylm_ablate.science.claim import Claim
from tinylm_ablate.science.evidence import Evidence


def seeds_wanted(evidence: Evidence, claims: Sequence[Claim], arms: Sequence[str] = ()) -> Mapping[str, int]:
    """The number of seeds that each arm should have by now: a look, at least the first.

    An arm gets more seeds only while a comparison that it takes part in is open. Without claims about the experiment, each arm
    is compared with the first one.

    Args:
        evidence: Finished runs so far.
        claims: Those about this experiment.
        arms: Labels of all arms, also of those without a finished run.
    """
    raise NotImplementedError

"""All measures, and what a run's config requests of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tinylm_ablate.measure.base import Measure
from tinylm_ablate.measure.records import read_record, stem
from tinylm_ablate.settled import Settled


@dataclass(frozen=True, eq=False)
class Request:
    """One record that is requested of a run.

    Attributes:
        measure: Its kind.
        settings: Its settings.
        stem: The name of its files, without their endings.
    """

    measure: Measure
    settings: dict[str, Any]
    stem: str


@cache
def measures() -> tuple[Measure, ...]:
    """Every kind of measure, those of installed packages among them (entry points of the group ``tinylm_ablate.measures``)."""
    from importlib.metadata import entry_points

    from tinylm_ablate.measure.benchmarks import Benchmarks
    from tinylm_ablate.measure.bigram import Bigrams
    from tinylm_ablate.measure.bits import BitsPerByte
    from tinylm_ablate.measure.cloze import Cloze
    from tinylm_ablate.measure.forgetting import Forgetting
    from tinylm_ablate.measure.layer_skip import LayerSkip
    from tinylm_ablate.measure.speed import DecodingSpeed

    own: list[Measure] = [BitsPerByte(), Bigrams(), Cloze(), DecodingSpeed(), LayerSkip(), Forgetting(), Benchmarks()]
    return (*own, *(entry.load()() for entry in entry_points(group="tinylm_ablate.measures")))


def requested(run: Settled) -> list[Request]:
    """What a run's config requests, in the order of the registry."""
    return [
        Request(measure, settings, stem(measure.name, settings)) for measure in measures() for settings in measure.requests(run)
    ]


def measured(run: Settled, requests: list[Request]) -> dict[str, float]:
    """The metrics of those requests that have records."""
    found: dict[str, float] = {}
    for request in requests:
        record = read_record(run.folder, request.stem)
        found |= record["metrics"] if record else {}
    return found

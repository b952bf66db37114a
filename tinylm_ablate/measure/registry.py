"""All measures, and the records that a run's config requests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tinylm_ablate.extension import normal, part
from tinylm_ablate.measure.benchmarks import Benchmarks, averages
from tinylm_ablate.measure.records import read_record, stem
from tinylm_ablate.measure.subject import Measure, Result, Settings, Subject
from tinylm_ablate.settled import Settled


@dataclass(frozen=True, eq=False)
class Request:
    """Request for one record of a run.

    Attributes:
        measure: Its measure.
        settings: Its settings.
        stem: The name of its files, without suffixes.
    """

    measure: Measure
    settings: dict[str, Any]
    stem: str


class OwnMeasure:
    """Interface of a user-defined measure: a dataclass with ``name`` and ``weights`` as class attributes, and ``measure``."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.own = part(described, "evaluate.own", OWN_MEASURE)
        self.name, self.weights = str(self.own.name), bool(self.own.weights)

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """None, since ``evaluate.own`` requests it."""
        del run
        return []

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Return the results of the class, whose fields are its settings."""
        del settings
        found = self.own.measure(subject)
        return found if isinstance(found, Result) else Result(dict(found))


#: Required attributes of a user-defined measure.
OWN_MEASURE = ("name", "weights", "measure")


@cache
def measures() -> tuple[Measure, ...]:
    """Return every measure, including those of installed packages (entry points of the group ``tinylm_ablate.measures``)."""
    from importlib.metadata import entry_points

    from tinylm_ablate.measure.bigram import Bigrams
    from tinylm_ablate.measure.bits import BitsPerByte
    from tinylm_ablate.measure.cloze import Cloze
    from tinylm_ablate.measure.effective_dimension import EffectiveDimension
    from tinylm_ablate.measure.forgetting import Forgetting
    from tinylm_ablate.measure.layer_skip import LayerSkip
    from tinylm_ablate.measure.quantized import QuantizedBitsPerByte
    from tinylm_ablate.measure.speed import DecodingSpeed, ExportedSpeed

    own: list[Measure] = [
        BitsPerByte(), Bigrams(), Cloze(), DecodingSpeed(), LayerSkip(), Forgetting(), EffectiveDimension(),
        QuantizedBitsPerByte(), ExportedSpeed(), Benchmarks(),
    ]  # fmt: skip
    return (*own, *(entry.load()() for entry in entry_points(group="tinylm_ablate.measures")))


def requested(run: Settled) -> list[Request]:
    """Return the requests of a run's config, in the order of the registry; only ``evaluate.measures`` if it is not empty."""
    own = [(OwnMeasure(described), normal(described, "evaluate.own")) for described in run.config.evaluate.own]
    pairs = [*((measure, settings) for measure in measures() for settings in measure.requests(run)), *own]
    only = run.config.evaluate.measures
    return [
        Request(measure, settings, stem(measure.name, settings))
        for measure, settings in pairs
        if not only or measure.name in only
    ]


def measured(run: Settled, requests: list[Request]) -> dict[str, float]:
    """Return the metrics of requests that have records."""
    found: dict[str, float] = {}
    for request in requests:
        record = read_record(run.folder, request.stem)
        found |= record["metrics"] if record else {}
    return found | averages(found)

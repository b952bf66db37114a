"""Interface of a measure: a kind of metrics of a finished run, with settings and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.measure.scoring import Reader
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.data.corpus import Corpus
    from tinylm_ablate.data.shards import Shards
    from tinylm_ablate.tokenizer.vocabulary import Vocabulary

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """Result of a measure.

    Attributes:
        metrics: Flat names to numbers, such as ``test/bits_per_byte/en``.
        rows: One row per document, question or position, for statistics. May be empty.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]] = field(default_factory=list)


class Measure(Protocol):
    """One kind of measure.

    Attributes:
        name: Its name in files and in the report.
        weights: Whether it reads the run's weights.
    """

    name: str
    weights: bool

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """Return the settings of each record that the run's config requests.

        Settings include everything that affects the metrics, except for the run: their fingerprint names the record.
        """

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Measure a run with one of these settings."""


@runtime_checkable
class StackedMeasure(Measure, Protocol):
    """A measure that can measure several runs of one shape, text and tokenizer together."""

    def measure_together(self, subjects: Sequence[Subject], settings: Settings) -> list[Result]:
        """Measure runs with the same settings as one program; returns one result per run."""


class Subject:
    """A finished run to measure; its parts are opened on first use, and kept for the next measure.

    Attributes:
        run: The run.
    """

    def __init__(self, run: Settled) -> None:
        import torch

        self.run = run
        torch.set_num_threads(thread_count(run.config.train.threads))

    def share(self, other: Subject) -> None:
        """Reuse the opened parts of another subject if they are the same."""
        mine, their = self.run, other.run
        if (mine.cache, mine.text) == (their.cache, their.text):
            names = ("corpus", "vocabulary") if mine.vocabulary == their.vocabulary else ("corpus",)
            self.__dict__ |= {name: other.__dict__[name] for name in names if name in other.__dict__}

    @property
    def device(self) -> str:
        """Device of the model."""
        return pick_device(self.run.config.train.device)

    @property
    def context_length(self) -> int:
        """Context length, as in training."""
        return self.run.config.train.context_length

    @cached_property
    def corpus(self) -> Corpus:
        """The run's corpus."""
        from tinylm_ablate.data.corpus import open_corpus

        return open_corpus(self.run.config.data, self.run.cache)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The run's tokenizer."""
        from tinylm_ablate.tokenizer.vocabularies import open_vocabulary

        run = self.run
        return open_vocabulary(run.config.tokenizer, run.shape.vocab_size, run.source_vocab_size, self.corpus, run.cache)

    @cached_property
    def shards(self) -> Shards:
        """The token shards of the corpus."""
        from tinylm_ablate.data.mixing import grouped_by
        from tinylm_ablate.data.shards import open_shards

        return open_shards(self.corpus, self.vocabulary, self.run.cache, grouped_by(self.run.config.data))

    @property
    def decoder(self) -> Decoder:
        """The trained weights, in single precision on ``device``."""
        return self._decoder.to(self.device)

    @property
    def reader(self) -> Reader[Decoder]:
        """The trained weights with the tokenizer."""
        return Reader(self.decoder, self.vocabulary, self.context_length, self.device)

    @cached_property
    def _decoder(self) -> Decoder:
        from tinylm_ablate.formats.huggingface import load_model

        return load_model(self.run.folder / "model").requires_grad_(False).eval()


def decoder_of(subjects: Sequence[Subject]) -> Decoder:
    """Load the decoder of a run, or one decoder with copies of the weights of several runs of one shape."""
    if len(subjects) == 1:
        return subjects[0].decoder
    from tinylm_ablate.arch.stacking import stacked

    return stacked([subject.decoder for subject in subjects])

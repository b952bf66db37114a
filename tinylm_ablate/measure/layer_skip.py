"""Models with one, two or three adjacent layers skipped at inference, at every position (Figures 5 and 12).

The paper skips layers of models with 29 to 40 layers, and finds the first two or three and the last ones crucial and those
between redundant. Nothing is trained: a skipped layer passes its input through.

There are about three measurements per layer, so they use less text than the evaluation of the model, and the same text for all.
The layers before the skipped ones are computed once, which saves half of the computation.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from tinylm_ablate import progress
from tinylm_ablate.measure.benchmarks import settings_of
from tinylm_ablate.measure.bits import bits_per_byte, document_losses, first_bytes
from tinylm_ablate.measure.cloze import accuracy, answer, questions
from tinylm_ablate.measure.scoring import Continuing, Reader
from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from tinylm_ablate.arch.continuations import Layout
    from tinylm_ablate.arch.decoder import Decoder, Layer
    from tinylm_ablate.data.corpus import Corpus

#: Maximum text and questions per language.
MAX_BYTES, MAX_QUESTIONS = 50_000, 100


class LayerSkip:
    """The model with 1 to ``evaluate.layer_skip`` adjacent layers skipped, at every position."""

    name = "layer_skip"
    weights = True

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One, if ``evaluate.layer_skip`` is above 0, with the benchmarks of ``evaluate.tasks``."""
        evaluate = run.config.evaluate
        layers = min(evaluate.layer_skip, run.shape.depth - 1)
        if layers < 1:
            return []
        tasks = settings_of(evaluate) if evaluate.tasks or evaluate.task_folder is not None else []
        return [
            {
                "layers": layers,
                "max_bytes": min(int(evaluate.max_bytes), MAX_BYTES),
                "questions": min(int(evaluate.cloze_questions), MAX_QUESTIONS),
                "context": evaluate.cloze_context,
                "continuation": evaluate.cloze_continuation,
            }
            | ({"tasks": tasks} if tasks else {})
        ]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Skip layers of the trained model."""
        rows = layer_skip(subject.reader, subject.corpus, settings)
        for task in settings.get("tasks", ()):
            model, task_folder = subject.run.folder / "model", subject.run.config.evaluate.task_folder
            scored = skipped_benchmark(model, task, task_folder, subject.device, rows)
            rows = [row | found for row, found in zip(rows, scored, strict=True)]
        return Result(summary(rows), rows)


def layer_skip(reader: Reader[Decoder], corpus: Corpus, settings: Settings) -> list[dict[str, Any]]:
    """Measure a decoder with 1 to ``settings["layers"]`` adjacent layers skipped at every position.

    Args:
        reader: The model.
        corpus: The corpus: validation documents, and cloze questions on test text.
        settings: ``layers``, and the amount of text: ``max_bytes``, ``questions``, ``context`` and ``continuation``.

    Returns:
        A row for the complete model (skipped 0, first 0), then one per number and position: skipped (layers), first (index of
        the first skipped layer, from 0), loss (nats per token of validation text), bits_per_byte (of the same, mean over
        languages), cloze (share of right answers, mean over languages; None without questions).
    """
    size = settings["max_bytes"]
    texts = [text for language in corpus.languages for text in first_bytes(corpus.documents("validation", language), size)]
    cloze = [
        question
        for language in corpus.languages
        for question in questions(
            corpus, "test", language, settings["questions"], settings["context"], settings["continuation"]
        )
    ]
    depth = reader.model.shape.depth
    most = min(settings["layers"], depth - 1)
    # By position, since a pass continues from the states of the previous one.
    places = [(0, 0), *((skipped, first) for first in range(depth) for skipped in range(1, min(most, depth - first) + 1))]
    model = _Skipping(reader.model)
    skipping = reader.by(model)
    rows = []
    for skipped, first in progress.bar(places, description="skipping layers"):
        model.skip(first, skipped)
        scored = document_losses(skipping, texts, "bits per byte")
        shares, _ = accuracy(answer(skipping, cloze, "cloze"))
        rows.append(
            {
                "skipped": skipped,
                "first": first,
                "loss": sum(row["nats"] for row in scored) / max(1, sum(row["tokens"] for row in scored)),
                "bits_per_byte": bits_per_byte(scored).get("all"),
                "cloze": shares.get("all"),
            }
        )
    return sorted(rows, key=lambda row: (row["skipped"], row["first"]))


def skipped_benchmark(
    model_folder: Path, settings: Settings, task_folder: str | None, device: str, places: Sequence[Mapping[str, Any]]
) -> list[dict[str, float]]:
    """Score a model on one task or group with layers skipped.

    Args:
        model_folder, settings, task_folder, device: See ``benchmarks.benchmark``.
        places: Positions with skipped (layers) and first.

    Returns:
        For each position, scores by name: ``benchmarks/<task>/<metric>``.
    """
    from tinylm_ablate.measure.harness import open_task, score
    from tinylm_ablate.measure.harness_model import HarnessModel

    model = HarnessModel(model_folder, device)
    tasks, whole, found = open_task(settings["task"], task_folder, settings["shots"]), model.decoder, []
    for place in progress.bar(places, description=f"{settings['task']}, skipping layers"):
        model.decoder = without_layers(whole, place["first"], place["skipped"])
        scores, _ = score(model, tasks, settings["limit"])
        found.append({f"benchmarks/{one.task}/{one.metric}": one.value for one in scores})
    return found


def without_layers(decoder: Decoder, first: int, count: int) -> Decoder:
    """Return a decoder with the same weights, without ``count`` layers from ``first`` on."""
    shorter = copy.copy(decoder)
    shorter._modules = dict(decoder._modules)  # otherwise shared with the copy
    shorter.layers = type(decoder.layers)([*decoder.blocks[:first], *decoder.blocks[first + count :]])
    shorter.shape = dataclasses.replace(decoder.shape, depth=len(shorter.layers))
    return shorter


class _Skipping(Continuing):
    """A decoder without some of its layers, for scoring.

    All passes score the same batches in the same order, and skip no earlier layer than the previous pass. The state of each
    batch before the skipped layers is therefore kept, and the next pass continues there. Memory: one state per token.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.first = self.count = self._batch = 0
        #: For each batch, the number of layers computed and the state after them.
        self._states: list[tuple[int, Tensor]] = []

    def skip(self, first: int, count: int) -> None:
        """Start a pass without ``count`` layers from ``first`` on; ``first`` must not decrease."""
        self.first, self.count, self._batch = first, count, 0

    def loss(self, tokens: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Like ``Decoder.loss``, without the skipped layers."""
        return self.decoder.stream_loss(self._through(tokens, self.decoder.through), targets, reduction)

    def continuation_loss(self, tokens: Tensor, targets: Tensor, layout: Layout) -> Tensor:
        """Like ``ContinuingModel``, without the skipped layers."""
        from tinylm_ablate.arch import continuations

        x = self._through(tokens, lambda x, layers: continuations.through(self.decoder, x, layers, layout))
        return self.decoder.stream_loss(x[:, layout.text :], targets, "none")

    def _through(self, tokens: Tensor, through: Callable[[Tensor, Sequence[Layer]], Tensor]) -> Tensor:
        """Return the residual stream after the last layer."""
        if self._batch == len(self._states):
            self._states.append((0, self.decoder.embedding(tokens)))
        passed, x = self._states[self._batch]
        blocks = self.decoder.blocks
        x = through(x, blocks[passed : self.first])
        self._states[self._batch] = (self.first, x)
        self._batch += 1
        return through(x, blocks[self.first + self.count :])


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Summarize for a run's record, by the number of layers skipped.

    ``layer_skip/2/bits_per_byte/least`` and ``/most`` are bits per byte at the best and the worst position,
    ``layer_skip/2/cheapest`` is the first layer of the best position.
    """
    found: dict[str, float] = {}
    for count in sorted({row["skipped"] for row in rows if row["skipped"] and row["bits_per_byte"] is not None}):
        by_cost = sorted((row["bits_per_byte"], row["first"]) for row in rows if row["skipped"] == count)
        name = f"layer_skip/{count}"
        found |= {
            f"{name}/bits_per_byte/least": by_cost[0][0],
            f"{name}/bits_per_byte/most": by_cost[-1][0],
            f"{name}/cheapest": by_cost[0][1],
        }
    return found

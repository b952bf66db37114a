"""The evaluation of one trained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tinylm_ablate.evaluate.bits import bits_per_byte, document_losses, first_bytes, standard_errors
from tinylm_ablate.evaluate.cloze import accuracy, answer, questions
from tinylm_ablate.evaluate.scoring import LanguageModel
from tinylm_ablate.files import write_atomic

if TYPE_CHECKING:
    from tinylm_ablate.config import EvaluateConfig
    from tinylm_ablate.data.corpus import Corpus
    from tinylm_ablate.tokenizer.vocabulary import Vocabulary

#: Bits per byte are measured on both; the cloze on the second alone, so that nothing is ever chosen by it.
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: Flat names to numbers: ``test/bits_per_byte/en``, with ``/standard_error``, ``/documents`` and ``/bytes``
            below it; ``test/cloze/en`` (a share, chance is 0.25), with ``/standard_error`` and ``/questions``. "all" in
            place of a language is the unweighted mean over the languages.
        documents: A row a document: split, language, document (hash), nats, bytes, tokens.
        questions: A row a question: split, language, question (hash of its document), correct, margin (nats per byte).
    """

    metrics: dict[str, float]
    documents: list[dict[str, Any]]
    questions: list[dict[str, Any]]

    def save(self, folder: Path) -> list[Path]:
        """Write the rows, ``documents.parquet`` and ``questions.parquet``; statistics over seeds and documents start there."""
        paths = []
        for name, rows in (("documents", self.documents), ("questions", self.questions)):
            if rows:
                paths.append(folder / f"{name}.parquet")
                write_parquet(paths[-1], rows)
        return paths


def evaluate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    corpus: Corpus,
    config: EvaluateConfig,
    context_length: int,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Score held-out text, and answer cloze questions about it.

    Args:
        model: A causal language model; it computes in the precision of its weights.
        vocabulary: Its tokenizer.
        corpus: The text; its splits validation and test are read.
        config: How much.
        context_length: Tokens that the model sees at once, as in training.
        device: Where the model is; by default where its first parameter is.
    """
    if device is None:
        device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else "cpu"
    documents: list[dict[str, Any]] = []
    answered: list[dict[str, Any]] = []
    metrics: dict[str, float] = {}
    for split in SPLITS:
        texts = [
            text for language in corpus.languages for text in first_bytes(corpus.documents(split, language), config.max_bytes)
        ]
        rows = document_losses(model, vocabulary, texts, context_length, device, f"bits per byte, {split}")
        name = f"{split}/bits_per_byte"
        metrics |= _named(name, bits_per_byte(rows)) | _named(name, standard_errors(rows), "/standard_error")
        metrics |= _named(name, Counter(row["language"] for row in rows), "/documents")
        sizes: Counter[str] = Counter()
        for row in rows:
            sizes[row["language"]] += row["bytes"]
        metrics |= _named(name, sizes, "/bytes")
        documents += [{"split": split, **row} for row in rows]

    split = SPLITS[-1]
    asked = [
        question
        for language in corpus.languages
        for question in questions(
            corpus, split, language, config.cloze_questions, config.cloze_context, config.cloze_continuation
        )
    ]
    answers = answer(model, vocabulary, asked, context_length, device, f"cloze, {split}")
    shares, errors = accuracy(answers)
    name = f"{split}/cloze"
    metrics |= _named(name, shares) | _named(name, errors, "/standard_error")
    metrics |= _named(name, Counter(row["language"] for row in answers), "/questions")
    answered += [{"split": split, **row} for row in answers]
    return Evaluation(metrics, documents, answered)


def _named(prefix: str, values: Mapping[str, float], suffix: str = "") -> dict[str, float]:
    return {f"{prefix}/{language}{suffix}": value for language, value in values.items()}


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as a Parquet file, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    write_atomic(path, sink.getvalue().to_pybytes())

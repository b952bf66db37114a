"""Bits per byte of held-out text, a measure that does not depend on tokenization."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from tinylm_ablate.measure.scoring import LanguageModel, Reader, by_run, runs_of, token_losses
from tinylm_ablate.measure.subject import Result, Settings, Subject, decoder_of
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from tinylm_ablate.data.corpus import Corpus
    from tinylm_ablate.data.documents import Document


#: The held-out splits to measure.
SPLITS = ("validation", "test")


class DocumentRow(TypedDict):
    """Loss of one document."""

    language: str
    document: str
    nats: float
    bytes: int
    tokens: int


class BitsPerByte:
    """Bits per byte of validation and test text, per language (``evaluate.max_bytes`` of each)."""

    name = "bits_per_byte"
    weights = True

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One set of settings."""
        return [{"max_bytes": run.config.evaluate.max_bytes}]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Score the held-out documents."""
        (result,) = self.measure_together([subject], settings)
        return result

    def measure_together(self, subjects: Sequence[Subject], settings: Settings) -> list[Result]:
        """Score the held-out documents with all runs at once."""
        first = subjects[0]
        return bits(first.reader.by(decoder_of(subjects)), first.corpus, settings["max_bytes"])


def bits(reader: Reader[LanguageModel], corpus: Corpus, max_bytes: int) -> list[Result]:
    """Bits per byte of both held-out splits.

    Args:
        reader: The model, or a decoder of R runs.
        corpus: The text.
        max_bytes: Bytes to score per split and language.

    Returns:
        For each run, metrics ``test/bits_per_byte/en`` with ``/standard_error``, ``/documents`` and ``/bytes``, where "all" is
        the unweighted mean over languages; and one row per document: split, language, document, nats, bytes, tokens.
    """
    results = [Result({}) for _ in range(runs_of(reader.model) or 1)]
    for split in SPLITS:
        texts = [text for language in corpus.languages for text in first_bytes(corpus.documents(split, language), max_bytes)]
        scored = losses_by_run(reader, texts, f"bits per byte, {split}")
        for result, rows in zip(results, scored, strict=True):
            result.metrics.update(_metrics(f"{split}/bits_per_byte", rows))
            result.rows.extend({"split": split, **row} for row in rows)
    return results


def _metrics(name: str, rows: Sequence[DocumentRow]) -> dict[str, float]:
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row["language"]] += row["bytes"]
    metrics = named(name, bits_per_byte(rows)) | named(name, standard_errors(rows), "/standard_error")
    return metrics | named(name, Counter(row["language"] for row in rows), "/documents") | named(name, sizes, "/bytes")


def named(prefix: str, values: Mapping[str, float], suffix: str = "") -> dict[str, float]:
    """Return values by language as metrics."""
    return {f"{prefix}/{language}{suffix}": value for language, value in values.items()}


def first_bytes(documents: Iterable[Document], max_bytes: int) -> Iterator[Document]:
    """Yield the first ``max_bytes`` bytes of text; the last document is truncated between two characters."""
    left = max_bytes
    for document in documents:
        encoded = document.text.encode()
        if len(encoded) > left:
            text = encoded[:left].decode(errors="ignore")
            if text:
                yield dataclasses.replace(document, text=text)
            return
        yield document
        left -= len(encoded)
        if left == 0:
            return


def document_losses(reader: Reader[LanguageModel], documents: Iterable[Document], description: str = "") -> list[DocumentRow]:
    """Loss of each document, in nats.

    A document is scored as in training text: it begins after an end-of-text token. All of its tokens are scored, but not the
    end-of-text after it, since a truncated document has none. A document longer than the context is cut into consecutive
    windows of ``context_length`` predictions. A window begins with the last token of the previous one as its only
    context, so that each token is scored exactly once (see ``scoring.token_losses``).

    Args:
        reader: The model.
        documents: Texts, which are all kept in memory.
        description: Title of the progress bar.

    Returns:
        One row per document, in order: language, hash, nats, UTF-8 bytes and tokens.
    """
    (rows,) = losses_by_run(reader, documents, description)
    return rows


def losses_by_run(
    reader: Reader[LanguageModel], documents: Iterable[Document], description: str = ""
) -> list[list[DocumentRow]]:
    """Compute ``document_losses`` for each run of a decoder of R runs, or for the only run of any other model."""
    listed = list(documents)
    vocabulary = reader.vocabulary
    encoded = vocabulary.encode_batch([document.text for document in listed])
    sequences = [[vocabulary.end_of_text, *tokens] for tokens in encoded]
    losses = token_losses(
        reader.model, sequences, context_length=reader.context_length, vocab_size=vocabulary.size, device=reader.device,
        description=description,
    )  # fmt: skip
    return [
        [
            DocumentRow(
                language=document.language,
                document=document.hash,
                nats=float(values.sum(dtype=np.float64)),
                bytes=len(document.text.encode()),
                tokens=len(values),
            )
            for document, values in zip(listed, own, strict=True)
        ]
        for own in by_run(losses, runs_of(reader.model))
    ]


def bits_per_byte(rows: Iterable[DocumentRow]) -> dict[str, float]:
    """Bits per UTF-8 byte of each language: sum of nats / (ln 2 * sum of bytes).

    "all" is the unweighted mean over the languages. Weighting by bytes would favor the language with more text, or with more
    bytes per character; languages without text are omitted.
    """
    values = {language: float(nats.sum() / (math.log(2) * size.sum())) for language, (nats, size) in _by_language(rows).items()}
    return {**values, "all": math.fsum(values.values()) / len(values)} if values else {}


def standard_errors(rows: Iterable[DocumentRow]) -> dict[str, float]:
    """Standard error of ``bits_per_byte`` over the choice of documents, for languages with at least two documents.

    Bits per byte are a ratio R = sum n_i / sum b_i of two sums over documents. By the delta method (Cochran, Sampling
    Techniques, 1977, Section 6.4) its standard error is sqrt(m / (m - 1) * sum (n_i - R b_i)^2) / sum b_i for m documents.
    "all" treats the languages as independent: sqrt(sum of squares) / number of languages. It is given if each has one.
    """
    errors = {}
    languages = _by_language(rows)
    for language, (nats, size) in languages.items():
        count = len(nats)
        if count > 1:
            residuals = nats - nats.sum() / size.sum() * size
            spread = math.sqrt(count / (count - 1) * float(residuals @ residuals))
            errors[language] = spread / (math.log(2) * float(size.sum()))
    return with_all(errors) if errors and len(errors) == len(languages) else errors


def with_all(errors: dict[str, float]) -> dict[str, float]:
    """Standard errors of independent languages, with that of their unweighted mean as "all"."""
    return {**errors, "all": math.hypot(*errors.values()) / len(errors)}


def _by_language(rows: Iterable[DocumentRow]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Nats and bytes of the documents with any text, by language in alphabetical order."""
    groups: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        if row["bytes"]:
            groups.setdefault(row["language"], []).append((row["nats"], row["bytes"]))
    return {
        language: (np.array([nats for nats, _ in groups[language]]), np.array([size for _, size in groups[language]], float))
        for language in sorted(groups)
    }

"""Four-way cloze: select the true continuation from four passages."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from tinylm_ablate.measure.bits import named, with_all
from tinylm_ablate.measure.scoring import (
    Continuing,
    ContinuingModel,
    Family,
    Reader,
    by_run,
    continuation_losses,
    runs_of,
    token_losses,
)
from tinylm_ablate.measure.subject import Result, Settings, Subject, decoder_of
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from tinylm_ablate.data.corpus import Corpus
    from tinylm_ablate.data.documents import Document

CHOICES = 4

#: Maximum distance in characters by which a gap is moved to a space, in scripts with spaces.
_WORD = 24

#: Number of draws of distractors before a document is skipped, as in a corpus of repeated boilerplate.
_DRAWS = 64


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        language: Language of all its texts.
        document: Hash of its document.
        context: The text before the gap.
        choices: Four texts of equal length in characters; one of them follows the context.
        answer: Index of that text.
    """

    language: str
    document: str
    context: str
    choices: tuple[str, ...]
    answer: int


class QuestionRow(TypedDict):
    """Answer to one question; ``margin`` is in nats per byte, and positive if the answer is right."""

    language: str
    question: str
    correct: bool
    margin: float


class Cloze:
    """Share of right answers to questions about test text, per language; chance is a quarter (``evaluate.cloze_*``)."""

    name = "cloze"
    weights = True
    #: Questions use only test text, so that they never affect choices.
    split = "test"

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One, unless no questions are requested."""
        evaluate = run.config.evaluate
        if not evaluate.cloze_questions:
            return []
        keys = ("questions", "context", "continuation")
        return [{key: getattr(evaluate, f"cloze_{key}") for key in keys}]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Answer the questions; one row per question: split, language, question, correct, margin (nats per byte)."""
        (result,) = self.measure_together([subject], settings)
        return result

    def measure_together(self, subjects: Sequence[Subject], settings: Settings) -> list[Result]:
        """Answer the questions with all runs at once."""
        subject = subjects[0]
        posed = [
            question
            for language in subject.corpus.languages
            for question in questions(
                subject.corpus, self.split, language, settings["questions"], settings["context"], settings["continuation"]
            )
        ]
        answered = answers_by_run(subject.reader.by(Continuing(decoder_of(subjects))), posed, f"cloze, {self.split}")
        return [self._result(rows) for rows in answered]

    def _result(self, rows: list[QuestionRow]) -> Result:
        shares, errors = accuracy(rows)
        name = f"{self.split}/cloze"
        metrics = named(name, shares) | named(name, errors, "/standard_error")
        metrics |= named(name, Counter(row["language"] for row in rows), "/questions")
        return Result(metrics, [{"split": self.split, **row} for row in rows])


def questions(corpus: Corpus, split: str, language: str, count: int, context: int, continuation: int) -> list[Question]:
    """Create questions about held-out documents, at most one per document, so that they are independent.

    They depend only on the text and these arguments: SHA-256 of the documents' hashes determines the position of the gap, the
    distractors and the order of the choices. All tokenizers and models get the same questions.

    Questions are about the first ``count`` documents of at least ``context`` + ``continuation`` characters. The context has
    ``context`` characters, the true choice is the next ``continuation`` characters, and the others are passages of equal
    length from three other of these documents. In scripts with spaces, passages begin at a space, so that a partial word does
    not reveal the answer.

    Args:
        corpus: The text.
        split: The split, such as "test".
        language: Language of all texts.
        count: Number of questions. There are fewer if the split has fewer such documents, and none below four.
        context: Characters before the gap.
        continuation: Characters per choice.
    """
    if count <= 0:
        return []
    long_enough = (document for document in corpus.documents(split, language) if len(document.text) >= context + continuation)
    pool = list(itertools.islice(long_enough, max(count, CHOICES)))
    if len(pool) < CHOICES:
        return []
    posed = (_question(index, pool, context, continuation) for index in range(min(count, len(pool))))
    return [question for question in posed if question is not None]


def _question(index: int, pool: Sequence[Document], context: int, continuation: int) -> Question | None:
    """Create the question about ``pool[index]``, or None if there are not three different distractors."""
    document = pool[index]
    gap = _stretch(document, "gap", context, continuation)
    truth = document.text[gap : gap + continuation]
    distractors: list[str] = []
    taken = {index}
    for draw in range(_DRAWS):
        other = _draw(len(pool), document.hash, "other", str(draw))
        if other in taken:
            continue
        start = _stretch(pool[other], document.hash, 0, continuation)
        text = pool[other].text[start : start + continuation]
        if text != truth and text not in distractors:
            distractors.append(text)
            taken.add(other)
        if len(distractors) == CHOICES - 1:
            answer = _draw(CHOICES, document.hash, "answer")
            choices = (*distractors[:answer], truth, *distractors[answer:])
            return Question(document.language, document.hash, document.text[gap - context : gap], choices, answer)
    return None


def _stretch(document: Document, key: str, first: int, length: int) -> int:
    """Find the start of a passage of ``length`` characters, not before ``first``: at a space if there is one nearby."""
    last = len(document.text) - length
    start = first + _draw(last - first + 1, document.hash, key)
    after = document.text.find(" ", start, min(start + _WORD, last) + 1)
    if after >= 0:
        return after
    before = document.text.rfind(" ", max(start - _WORD, first), start)
    return before if before >= 0 else start


def _draw(below: int, *key: str) -> int:
    """Return a pseudo-random number below ``below`` that depends only on ``key``."""
    digest = hashlib.sha256("\0".join(("cloze", *key)).encode()).digest()
    return int.from_bytes(digest[:8]) % below


def answer(reader: Reader[ContinuingModel], posed: Sequence[Question], description: str = "") -> list[QuestionRow]:
    """Answer the questions with a model, which selects the choice with the highest log-likelihood per UTF-8 byte.

    A sequence is end-of-text, the context and a choice. Context and choice are encoded separately, because a tokenizer might
    otherwise join the last character of one to the first of the other for some choices and not for others.
    If the longest of the four choices leaves too little space, the context of all four is truncated at the beginning.

    Of equal choices, the first is selected. The order of the choices is a hash, so a model that cannot distinguish them is at
    chance, 25 %.

    Returns:
        One row per question: language, hash of the document, whether the answer was right, and the margin of the true choice
        over the best of the others in nats per byte.
    """
    (rows,) = answers_by_run(reader, posed, description)
    return rows


def answers_by_run(
    reader: Reader[ContinuingModel], posed: Sequence[Question], description: str = ""
) -> list[list[QuestionRow]]:
    """Compute ``answer`` for each run of a model of R runs, or for the only run of any other model."""
    vocabulary = reader.vocabulary
    contexts = vocabulary.encode_batch([question.context for question in posed])
    choices = vocabulary.encode_batch([choice for question in posed for choice in question.choices])
    families = []
    for index, context in enumerate(contexts):
        four = choices[CHOICES * index : CHOICES * (index + 1)]
        room = max(1, reader.context_length + 1 - max(len(tokens) for tokens in four))
        families.append(Family([vocabulary.end_of_text, *context][-room:], four))
    nats = _losses(reader, families, description)
    return [_rows(posed, own) for own in by_run(nats, runs_of(reader.model))]


def _rows(posed: Sequence[Question], nats: Sequence[np.ndarray]) -> list[QuestionRow]:
    rows = []
    for question, losses in zip(posed, nats, strict=True):
        scores = [-float(loss) / len(choice.encode()) for loss, choice in zip(losses, question.choices, strict=True)]
        truth = scores.pop(question.answer)
        # In a tie, a choice before the true one is selected.
        correct = all(truth > score for score in scores[: question.answer]) and all(
            truth >= score for score in scores[question.answer :]
        )
        rows.append(
            QuestionRow(language=question.language, question=question.document, correct=correct, margin=truth - max(scores))
        )
    return rows


def _losses(reader: Reader[ContinuingModel], families: Sequence[Family], description: str) -> list[np.ndarray]:
    """Nats of each continuation, (..., continuations) for each family.

    A continuation longer than the context is cut into windows like documents.
    """
    length, size = reader.context_length, reader.vocabulary.size
    fits = [max(map(len, family.continuations)) <= length for family in families]
    shared = iter(
        continuation_losses(
            reader.model, [family for family, fit in zip(families, fits, strict=True) if fit], vocab_size=size,
            device=reader.device, description=description,
        )
    )  # fmt: skip
    long = [family for family, fit in zip(families, fits, strict=True) if not fit]
    sequences = [[*family.text, *ids] for family in long for ids in family.continuations]
    alone = iter(token_losses(reader.model, sequences, context_length=length, vocab_size=size, device=reader.device))
    return [
        next(shared)
        if fit
        else np.stack([next(alone)[..., -len(ids) :].sum(-1, dtype=np.float64) for ids in family.continuations], axis=-1)
        for family, fit in zip(families, fits, strict=True)
    ]


def accuracy(rows: Iterable[QuestionRow]) -> tuple[dict[str, float], dict[str, float]]:
    """Share of right answers and its standard error sqrt(p (1 - p) / n), for each language with questions.

    "all" is the unweighted mean over the languages and its standard error, treating languages as independent.
    """
    groups: dict[str, list[bool]] = {}
    for row in rows:
        groups.setdefault(row["language"], []).append(row["correct"])
    shares = {language: sum(groups[language]) / len(groups[language]) for language in sorted(groups)}
    if not shares:
        return {}, {}
    errors = {language: math.sqrt(p * (1 - p) / len(groups[language])) for language, p in shares.items()}
    return {**shares, "all": math.fsum(shares.values()) / len(shares)}, with_all(errors)

"""Losses of token sequences and continuations under a model, batched to minimize padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinylm_ablate import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tinylm_ablate.arch.continuations import Layout
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.tokenizer.vocabulary import Vocabulary

#: Maximum tokens per batch: on a CPU, a layer's activations then fit its cache.
_MAX_TOKENS = {"cpu": 2**11, "other": 2**15}

#: Maximum logits per batch (1 GiB in fp32), for a model that computes all at once.
_MAX_LOGITS = 2**28


class LanguageModel(Protocol):
    """Interface of a model for scoring, which the decoder implements; any other causal model needs a small wrapper."""

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation."""

    def loss(self, tokens: Tensor, targets: Tensor, reduction: Any = "mean") -> Tensor:
        """Return the cross-entropy in nats; with reduction="none", one value for each of ``targets`` (B, T)."""


class ContinuingModel(LanguageModel, Protocol):
    """A model that can also score several continuations of one text in one pass."""

    def continuation_loss(self, tokens: Tensor, targets: Tensor, layout: Layout) -> Tensor:
        """Cross-entropy in nats.

        Args:
            tokens: (B, P + K * C) ids, arranged according to ``layout``.
            targets: (B, K * C) ids of the next tokens of the continuations.
            layout: Positions of texts and continuations.

        Returns:
            (B, K * C).
        """


class Continuing:
    """A decoder, of one run or of R runs, as a ``ContinuingModel``."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.runs = decoder, decoder.runs

    @property
    def training(self) -> bool:
        """Like the decoder's."""
        return self.decoder.training

    def train(self, mode: bool = True) -> Decoder:
        """Like the decoder's."""
        return self.decoder.train(mode)

    def loss(self, tokens: Tensor, targets: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Like ``Decoder.loss``."""
        return self.decoder.loss(tokens, targets, reduction)

    def continuation_loss(self, tokens: Tensor, targets: Tensor, layout: Layout) -> Tensor:
        """Like ``ContinuingModel``."""
        from tinylm_ablate.arch import continuations

        decoder = self.decoder
        x = continuations.through(decoder, decoder.embedding(decoder.each_run(tokens)), decoder.blocks, layout)
        return decoder.stream_loss(x[..., layout.text :, :], targets, "none")


_Model = TypeVar("_Model", bound=LanguageModel, covariant=True)
_Other = TypeVar("_Other", bound=LanguageModel)


@dataclass(frozen=True)
class Reader(Generic[_Model]):
    """A model with a tokenizer.

    Attributes:
        model: A causal language model.
        vocabulary: Its tokenizer.
        context_length: Maximum number of tokens in its context, as in training.
        device: Its device.
    """

    model: _Model
    vocabulary: Vocabulary
    context_length: int
    device: torch.device | str

    def by(self, model: _Other) -> Reader[_Other]:
        """Return a reader with another model and the same settings."""
        return Reader(model, self.vocabulary, self.context_length, self.device)


class Window(NamedTuple):
    """``length`` predictions in a sequence, starting at token ``start``."""

    sequence: int
    start: int
    length: int


def token_losses(
    model: LanguageModel,
    sequences: Sequence[Sequence[int]],
    *,
    context_length: int,
    vocab_size: int,
    device: torch.device | str,
    description: str = "",
) -> list[NDArray[np.float32]]:
    """Return the loss of each token of each sequence except the first, given the preceding tokens in its window.

    A sequence of n + 1 tokens has n predictions. They are cut into consecutive windows of ``context_length`` predictions, the
    last one shorter. The input of a window is its targets shifted by one token: its first input is the last target of the
    previous window, and earlier tokens are not visible. Each token is thus predicted exactly once, and in a sequence of at
    most ``context_length`` + 1 tokens, each prediction sees all earlier tokens.

    Windows of many sequences are padded on the right, which does not affect a causal model. The result does not depend on
    the composition of batches, except for fp32 rounding.

    Args:
        model: A causal language model. It is set to evaluation mode, and afterwards restored. A decoder of R runs
            (``arch.stacking.stacked``) scores the sequences with each of them.
        sequences: Token ids.
        context_length: Maximum number of tokens in the model's context.
        vocab_size: Entries of the vocabulary; bounds the size of a batch.
        device: Device of the model.
        description: Title of the progress bar.

    Returns:
        For each sequence an fp32 array of nats, one shorter than the sequence; with R runs (R, length).
    """
    import torch

    runs = runs_of(model)
    axis = () if runs is None else (runs,)
    losses = [np.empty((*axis, max(len(sequence) - 1, 0)), np.float32) for sequence in sequences]
    windows = [
        Window(index, start, min(context_length, len(sequence) - 1 - start))
        for index, sequence in enumerate(sequences)
        for start in range(0, len(sequence) - 1, context_length)
    ]
    # Longest first: adjacent sequences have similar lengths, and a batch that is too large for the memory fails immediately.
    windows.sort(key=lambda window: -window.length)
    was_training = model.training
    model.train(False)
    try:
        with (
            torch.inference_mode(),
            progress.bar(total=sum(window.length for window in windows), description=description, unit="tok") as bar,
        ):
            for batch in batches(windows, max(1, most_tokens(device, vocab_size) // (runs or 1))):
                inputs, targets = padded(batch, sequences)
                values = model.loss(inputs.to(device), targets.to(device), reduction="none").float().cpu().numpy()
                for row, window in zip(np.moveaxis(values, -2, 0), batch, strict=True):
                    losses[window.sequence][..., window.start : window.start + window.length] = row[..., : window.length]
                bar.update(sum(window.length for window in batch))
    finally:
        model.train(was_training)
    return losses


def runs_of(model: object) -> int | None:
    """Return the number of runs R of a model; None for a single model, whose losses have no axis of runs."""
    runs: int | None = getattr(model, "runs", None)
    return runs


def by_run(losses: Sequence[NDArray[Any]], runs: int | None) -> list[list[NDArray[Any]]]:
    """Split losses by run; those of a single model are the only list."""
    return [list(losses)] if runs is None else [[values[run] for values in losses] for run in range(runs)]


class Family(NamedTuple):
    """A text with its continuations, as token ids; neither the text nor any continuation is empty."""

    text: Sequence[int]
    continuations: Sequence[Sequence[int]]


def continuation_losses(
    model: ContinuingModel,
    families: Sequence[Family],
    *,
    vocab_size: int,
    device: torch.device | str,
    description: str = "",
) -> list[NDArray[np.float64]]:
    """Return the loss of each continuation given its text, in nats: the same as ``token_losses`` of text and continuation.

    The last token of a text is the first input of each of its continuations, whose last token is not an input.

    Args:
        model: The model. It is set to evaluation mode, and afterwards restored.
        families: Texts with equal numbers of continuations.
        vocab_size: Entries of the vocabulary; bounds the size of a batch.
        device: Device of the model.
        description: Title of the progress bar.

    Returns:
        For each family an array (continuations,), or (R, continuations) for a model of R runs.
    """
    import torch

    losses: list[NDArray[np.float64]] = [np.empty(0) for _ in families]
    # Largest first, as in ``token_losses``.
    order = sorted(range(len(families)), key=lambda index: -_size([families[index]]))
    most = max(1, most_tokens(device, vocab_size) // (runs_of(model) or 1))
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode(), progress.bar(total=len(families), description=description, unit="text") as bar:
            while order:
                count = 1
                while count < len(order) and _size([families[index] for index in order[: count + 1]]) <= most:
                    count += 1
                taken, order = order[:count], order[count:]
                batch = [families[index] for index in taken]
                tokens, targets, layout = _laid_out(batch)
                layout = dataclasses.replace(layout, texts=layout.texts.to(device))
                values = model.continuation_loss(tokens.to(device), targets.to(device), layout).double().cpu().numpy()
                tables = np.moveaxis(values.reshape(*values.shape[:-1], layout.count, -1), -3, 0)
                for index, family, table in zip(taken, batch, tables, strict=True):
                    sums = [table[..., place, : len(ids)].sum(-1) for place, ids in enumerate(family.continuations)]
                    losses[index] = np.stack(sums, axis=-1)
                bar.update(count)
    finally:
        model.train(was_training)
    return losses


def _size(batch: Sequence[Family]) -> int:
    """Tokens of a batch, padding included."""
    text = max(len(family.text) - 1 for family in batch)
    length = max(len(ids) for family in batch for ids in family.continuations)
    return len(batch) * (text + len(batch[0].continuations) * length)


def _laid_out(batch: Sequence[Family]) -> tuple[Tensor, Tensor, Layout]:
    """Inputs (B, P + K * C), targets (B, K * C) and their layout; the padding is token 0, whose losses are ignored."""
    import torch

    from tinylm_ablate.arch.continuations import Layout

    text = max(len(family.text) - 1 for family in batch)
    count, length = len(batch[0].continuations), max(len(ids) for family in batch for ids in family.continuations)
    inputs = np.zeros((len(batch), text + count * length), np.int64)
    targets = np.zeros((len(batch), count, length), np.int64)
    own = np.zeros_like(targets)
    for row, family in enumerate(batch):
        inputs[row, : len(family.text) - 1] = family.text[:-1]
        for place, ids in enumerate(family.continuations):
            own[row, place, : len(ids)] = [family.text[-1], *ids[:-1]]
            targets[row, place, : len(ids)] = ids
    inputs[:, text:] = own.reshape(len(batch), -1)
    texts = torch.tensor([len(family.text) - 1 for family in batch])
    layout = Layout(texts, text, count, length)
    return torch.from_numpy(inputs), torch.from_numpy(targets.reshape(len(batch), -1)), layout


def most_tokens(device: torch.device | str, vocab_size: int) -> int:
    """Tokens of a batch, padding included."""
    import torch

    most = _MAX_TOKENS["cpu" if torch.device(device).type == "cpu" else "other"]
    return max(1, min(most, _MAX_LOGITS // vocab_size))


def batches(windows: Sequence[Window], tokens: int) -> Iterator[Sequence[Window]]:
    """Group adjacent items, as many as fit into ``tokens`` when padded to the first, which is the longest."""
    start = 0
    while start < len(windows):
        stop = start + max(1, tokens // windows[start].length)
        yield windows[start:stop]
        start = stop


def padded(batch: Sequence[Window], sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (B, T); the padding is token 0, whose losses are ignored."""
    import torch

    both = np.zeros((2, len(batch), batch[0].length), np.int64)
    for row, (sequence, start, length) in enumerate(batch):
        tokens = sequences[sequence][start : start + length + 1]
        both[0, row, :length], both[1, row, :length] = tokens[:-1], tokens[1:]
    return torch.from_numpy(both[0]), torch.from_numpy(both[1])

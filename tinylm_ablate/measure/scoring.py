"""Losses of token sequences under a model, batched so that few padding tokens are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinylm_ablate import progress

#: A batch holds at most this many tokens: on a CPU few enough that a layer's activations stay in its cache.
_MAX_TOKENS = {"cpu": 2**11, "other": 2**15}

#: And at most this many logits (1 GiB in fp32), for a model that makes them all at once.
_MAX_LOGITS = 2**28


class LanguageModel(Protocol):
    """What is asked of a model: the decoder has it, and a few lines around any other causal model give it."""

    @property
    def training(self) -> bool:
        """Whether it is in the mode of training."""

    def train(self, mode: bool = True) -> Any:
        """Switch between training and evaluation."""

    def loss(self, tokens: Tensor, targets: Tensor, reduction: Any = "mean") -> Tensor:
        """Cross-entropy in nats; with reduction="none" one value for each of ``targets`` (B, T)."""


class Window(NamedTuple):
    """``length`` predictions in a sequence, from its token ``start`` on."""

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
    """The loss of each token of each sequence but the first, given what stands before it in its window.

    A sequence of n + 1 tokens is n predictions. They are cut into consecutive windows of ``context_length`` predictions, the
    last one shorter. The input of a window is the tokens one place to the left of its targets: its first input is the last
    target of the window before, and nothing older is seen. So each token is predicted exactly once, and in a sequence of at
    most ``context_length`` + 1 tokens each prediction sees all of its past.

    Windows of many sequences are padded to a batch on the right, which a causal model cannot see. The result does not depend
    on which sequences share a batch, beyond the rounding of fp32.

    Args:
        model: A causal language model. It is put into evaluation mode, and back into its mode afterwards.
        sequences: Token ids.
        context_length: Most tokens that the model sees at once.
        vocab_size: Entries of the vocabulary; bounds the size of a batch.
        device: Where the model is.
        description: Title of the progress bar.

    Returns:
        For each sequence an fp32 array of nats, one shorter than the sequence.
    """
    losses = [np.empty(max(len(sequence) - 1, 0), np.float32) for sequence in sequences]
    windows = [
        Window(index, start, min(context_length, len(sequence) - 1 - start))
        for index, sequence in enumerate(sequences)
        for start in range(0, len(sequence) - 1, context_length)
    ]
    # Longest first: neighbours are equally long, and a batch that is too large for the memory fails at once.
    windows.sort(key=lambda window: -window.length)
    was_training = model.training
    model.train(False)
    try:
        with (
            torch.inference_mode(),
            progress.bar(total=sum(window.length for window in windows), description=description, unit="tok") as bar,
        ):
            for batch in batches(windows, most_tokens(device, vocab_size)):
                inputs, targets = padded(batch, sequences)
                values = model.loss(inputs.to(device), targets.to(device), reduction="none").float().cpu().numpy()
                for row, window in zip(values, batch, strict=True):
                    losses[window.sequence][window.start : window.start + window.length] = row[: window.length]
                bar.update(sum(window.length for window in batch))
    finally:
        model.train(was_training)
    return losses


def most_tokens(device: torch.device | str, vocab_size: int) -> int:
    """Tokens of a batch, padding included."""
    most = _MAX_TOKENS["cpu" if torch.device(device).type == "cpu" else "other"]
    return max(1, min(most, _MAX_LOGITS // vocab_size))


def batches(windows: Sequence[Window], tokens: int) -> Iterator[Sequence[Window]]:
    """Neighbours, as many as fit into ``tokens`` when padded to the first, which is the longest."""
    start = 0
    while start < len(windows):
        stop = start + max(1, tokens // windows[start].length)
        yield windows[start:stop]
        start = stop


def padded(batch: Sequence[Window], sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (B, T); the padding is token 0, whose losses nobody reads."""
    both = np.zeros((2, len(batch), batch[0].length), np.int64)
    for row, (sequence, start, length) in enumerate(batch):
        tokens = sequences[sequence][start : start + length + 1]
        both[0, row, :length], both[1, row, :length] = tokens[:-1], tokens[1:]
    return torch.from_numpy(both[0]), torch.from_numpy(both[1])

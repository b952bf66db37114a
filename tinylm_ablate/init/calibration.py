"""Calibration text for criteria that need more than the weights, in the parent's tokens.

The text is a part of the child's training text, ``init.calibration_tokens`` long and the same for every seed and child, so that
a parent is scored once. If parent and child share a tokenizer, the run's shards are read; otherwise a sample of the documents
is encoded with the parent's tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.stacking import stacked
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.data.shards import open_shards
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint, sha256_file
from tinylm_ablate.formats.huggingface import from_huggingface, to_huggingface

if TYPE_CHECKING:
    from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
    from tinylm_ablate.init.parents import Parent
    from tinylm_ablate.tokenizer.vocabulary import Vocabulary

#: Round that determines the order of the sequences; no run trains it, so that no child sees the text in this order.
_SEED, _ROUND = 0, 2**32

#: Maximum number of tokens per forward pass.
_MICRO_TOKENS = 1_024

#: Bytes of text per token of the sample: more than the average of any tokenizer.
_BYTES_PER_TOKEN = 8
_BATCH_DOCUMENTS = 256


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration text of a parent; tokens are read or created on first use.

    Attributes:
        context_length: Tokens per sequence.
        sequences: Sequences in the whole budget.
        fingerprint: Identity of text, tokenizer, budget and sequence length.
        load: Returns the tokens in one row.
    """

    context_length: int
    sequences: int
    fingerprint: str
    load: Callable[[], npt.NDArray[Any]]

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self.load(), self.context_length, _SEED, _ROUND)

    def batches(self, first: int, last: int) -> Iterator[Tensor]:
        """Yield the sequences ``first`` to ``last`` - 1 in micro batches of token ids, (B, context_length + 1).

        If the text is shorter than the budget, it is repeated in another order.
        """
        size = max(1, _MICRO_TOKENS // self.context_length)
        for start in range(first, last, size):
            positions = np.arange(start, min(start + size, last), dtype=np.int64)
            yield torch.from_numpy(self._batches.inputs(positions))


def open_calibration(
    parent: Parent, corpus: Corpus, vocabulary: Vocabulary, tokens: int, context_length: int, cache_dir: Path
) -> Calibration:
    """Return the calibration text of a parent.

    Args:
        parent: The parent, whose tokenizer is used.
        corpus: The child's corpus, whose training split is read.
        vocabulary: The child's tokenizer.
        tokens: The budget, rounded down to whole sequences, at least one.
        context_length: Tokens per sequence.
        cache_dir: Folder of the run's shards.

    Raises:
        ValueError: The parent has no tokenizer.
    """
    own = parent.vocabulary
    if own is None:
        raise ValueError(f"{parent.reference}: no tokenizer")
    sequences = max(1, tokens // context_length)
    shared = sha256_file(vocabulary.folder / "tokenizer.json").startswith(own.fingerprint)

    def load() -> npt.NDArray[Any]:
        if shared:
            return open_shards(corpus, vocabulary, cache_dir).tokens("train")
        return _sample(corpus, own, sequences * context_length + 1, parent)

    content = {"text": corpus.fingerprint, "vocabulary": own.fingerprint, "sequences": sequences, "length": context_length}
    return Calibration(context_length, sequences, fingerprint(content), load)


def _sample(corpus: Corpus, vocabulary: FolderVocabulary, wanted: int, parent: Parent) -> npt.NDArray[Any]:
    """Encode documents in the order of their hashes until there are ``wanted`` tokens or no more documents."""
    from tokenizers import Tokenizer

    share = min(1.0, _BYTES_PER_TOKEN * wanted / max(1, corpus.bytes("train")))
    chosen: list[tuple[str, str]] = []
    with progress.bar(total=corpus.bytes("train"), description="calibration text", unit="B") as bar:
        for document in corpus.documents("train"):
            # The first half of a hash decides the split.
            place = document.hash[len(document.hash) // 2 :]
            if int(place, 16) < share * 16 ** len(place):
                chosen.append((place, document.text))
            bar.update(len(document.text.encode()))
    chosen.sort()
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer.to_str())
    tokenizer.encode_special_tokens = True  # special tokens in the text are encoded as text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end = [] if vocabulary.end_of_text is None else [vocabulary.end_of_text]
    ids: list[int] = []
    for start in range(0, len(chosen), _BATCH_DOCUMENTS):
        texts = [text for _, text in chosen[start : start + _BATCH_DOCUMENTS]]
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ids += encoding.ids + end
        if len(ids) >= wanted:
            break
    tokens = np.array(ids[:wanted], dtype=np.int64)
    if len(tokens) and tokens.max() >= parent.shape.vocab_size:
        raise UserError(
            f"init.parent={parent.reference}: its tokenizer produces the id {tokens.max()}, but its embedding has "
            f"{parent.shape.vocab_size} rows; the tokenizer belongs to another model"
        )
    return tokens


def loss_gradients(parents: Sequence[Parent], calibration: Calibration, device: str = "cpu") -> list[dict[str, Tensor]]:
    """Return the gradient of the mean loss on the calibration text with respect to every weight, in single precision.

    Memory: two copies in single precision, the parents' weights and their gradients, and the activations of a micro batch.

    Args:
        parents: Models of one shape and tokenizer.
        calibration: Their text.
        device: "cpu" or "cuda".

    Returns:
        For each parent, gradients under Hugging Face's names, on the CPU; a tied matrix has one, the sum of both uses.
    """
    decoder = parents_decoder(parents).to(device)
    total = calibration.sequences
    with progress.bar(total=total * calibration.context_length, description="gradients of the parent", unit="tok") as bar:
        for batch in calibration.batches(0, total):
            tokens = batch.to(device)
            loss = decoder.loss(tokens[:, :-1], tokens[:, 1:])
            (loss.sum() * (len(tokens) / total)).backward()  # type: ignore[no-untyped-call]
            bar.update(len(tokens) * calibration.context_length)
            bar.set_postfix_str(f"loss {float(loss.detach().mean()):.3f}")
    gradients = {name: parameter.grad.cpu() for name, parameter in decoder.named_parameters() if parameter.grad is not None}
    own = [gradients] if len(parents) == 1 else [{n: g[run] for n, g in gradients.items()} for run in range(len(parents))]
    return [to_huggingface(each, parents[0].shape) for each in own]


def parents_decoder(parents: Sequence[Parent]) -> Decoder:
    """Return one parent as our decoder, or several of one shape as one decoder with as many runs."""
    if len(parents) == 1:
        return parent_decoder(parents[0])
    return stacked([parent_decoder(parent) for parent in parents])


def parent_decoder(parent: Parent) -> Decoder:
    """Return the parent as our decoder, in single precision, with its own copy of the weights."""
    with torch.device("meta"):
        decoder = Decoder(parent.shape)
    weights = from_huggingface(parent.state, parent.shape)
    state = {name: weight.to(torch.float32, copy=True) for name, weight in weights.items()}
    decoder.load_state_dict(state, assign=True)
    return decoder.requires_grad_()

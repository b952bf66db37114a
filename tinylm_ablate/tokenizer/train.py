"""A byte-level BPE of any size, trained on the text of a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.alphabet import byte_characters
from tinylm_ablate.formats.lossless import END_OF_TEXT, State, make_lossless

if TYPE_CHECKING:
    from tinylm_ablate.data.corpus import Corpus

#: The least size: the 256 bytes and the end-of-text token.
MIN_VOCAB_SIZE = 257

#: A pair that was seen once teaches nothing.
_MIN_FREQUENCY = 2

_LETTER = r"[\p{L}\p{M}&&[^\p{Han}]]"

#: Where text is cut before merging. A space belongs to the word behind it; digits are separate; Chinese characters make
#: runs of their own, separate from letters of other scripts; so do symbols; the last space of a run goes to the next word.
_SPLIT = "|".join(
    [
        r"\p{N}",
        rf"['’]\p{{Ll}}{{1,2}}(?!{_LETTER})",  # the end of "it's", "don't", "we'll"
        r" ?\p{Han}+",
        rf" ?{_LETTER}+",
        r" ?[^\s\p{L}\p{M}\p{N}]+",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def training_texts(corpus: Corpus, train_bytes: int) -> Iterator[str]:
    """The texts of the training split, in each language up to ``train_bytes`` bytes of UTF-8; the last one is cut there."""
    for language in corpus.languages:
        left = train_bytes
        for document in corpus.documents("train", language):
            content = document.text.encode()
            if len(content) > left:
                if cut := content[:left].decode(errors="ignore"):
                    yield cut
                break
            yield document.text
            left -= len(content)


def train_bpe(texts: Iterable[str], vocab_size: int) -> tuple[State, str]:
    """Train a byte-level BPE with one special token, end-of-text, at id 0.

    The same texts give the same tokenizer in any process.

    Args:
        texts: Any number of texts; only their distinct words are held.
        vocab_size: Entries, the 256 bytes and the special token included.

    Returns:
        The tokenizer in exact form, and its end-of-text token.

    Raises:
        UserError: The size is under 257, or the text is too small for it.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(f"tokenizer.vocab_size={vocab_size}: allowed: at least {MIN_VOCAB_SIZE} (256 bytes and {END_OF_TEXT})")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=list(byte_characters()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    reached = tokenizer.get_vocab_size()
    if reached != vocab_size:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size}: the text is too small to train that many entries: {reached:,} were reached; "
            f"allowed for this text: at most {reached:,}, or give more text (data, tokenizer.train_bytes)"
        )
    return make_lossless(json.loads(tokenizer.to_str()), "the trained BPE")

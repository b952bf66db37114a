"""Training of a byte-level BPE of any size on a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.alphabet import byte_characters
from tinylm_ablate.formats.lossless import END_OF_TEXT, State, make_lossless

if TYPE_CHECKING:
    from tinylm_ablate.data.corpus import Corpus

#: Minimum size: the 256 bytes and the end-of-text token.
MIN_VOCAB_SIZE = 257

#: Minimum occurrences of a pair; a pair that occurs once is not worth merging.
_MIN_FREQUENCY = 2

_LETTER = r"[\p{L}\p{M}&&[^\p{Han}]]"

#: Pre-tokenization. A space belongs to the following word; digits are separate; Chinese characters form their own runs,
#: separate from letters of other scripts, and so do symbols; the last space of a run belongs to the next word.
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
    """Yield the texts of the training split, up to ``train_bytes`` bytes of UTF-8 per language; the last text is truncated."""
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


def train_bpe(texts: Iterable[str], vocab_size: int, key: str = "tokenizer.vocab_size") -> tuple[State, str]:
    """Train a byte-level BPE with one special token, end-of-text, at id 0.

    The same texts give the same tokenizer in any process.

    Args:
        texts: Any number of texts; memory holds only their distinct words.
        vocab_size: Number of entries, including the 256 bytes and the special token.
        key: The setting that ``vocab_size`` comes from, for messages.

    Returns:
        The tokenizer in exact form, and its end-of-text token.

    Raises:
        UserError: The size is below 257, or the text is too short for it.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(f"{key}={vocab_size}: allowed: at least {MIN_VOCAB_SIZE} (256 bytes and {END_OF_TEXT})")
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
            f"{key}={vocab_size}: the text is too short to train that many entries; "
            f"allowed for this text: at most {reached:,}, or provide more text (data, tokenizer.train_bytes)"
        )
    return make_lossless(json.loads(tokenizer.to_str()), "the trained BPE")

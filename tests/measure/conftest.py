"""A small decoder with random weights, a small byte-level BPE, and texts in two scripts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape

END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    language: str
    hash: str


@dataclass
class Texts:
    """Documents by split, with the interface of a corpus."""

    splits: dict[str, list[Text]]

    @property
    def languages(self) -> list[str]:
        return sorted({text.language for texts in self.splits.values() for text in texts})

    def documents(self, split: str, language: str | None = None) -> Iterator[Text]:
        return (text for text in self.splits[split] if language in (None, text.language))


@dataclass
class SmallVocabulary:
    tokenizer: Tokenizer

    @property
    def size(self) -> int:
        return self.tokenizer.get_vocab_size()

    @property
    def end_of_text(self) -> int:
        return self.tokenizer.token_to_id(END_OF_TEXT)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]


def make_text(language: str, number: int, words: int) -> Text:
    """Return a text of invented words, equal for equal arguments."""
    source = random.Random(f"{language} {number}")
    if language == "en":
        text = " ".join("".join(source.choices("etaoinshrdlu", k=source.randint(2, 7))) for _ in range(words)) + "."
    else:
        text = "".join(source.choices("的一是不了在人有我他这中大来上国", k=3 * words)) + "。"
    return Text(text, language, hashlib.sha256(text.encode()).hexdigest())


@pytest.fixture(scope="session")
def texts() -> Texts:
    """Thirty documents per language and split, with 3 to 90 words each."""
    return Texts(
        {
            split: [make_text(language, offset + n, 3 * (n + 1)) for n in range(30) for language in ("en", "zh")]
            for split, offset in (("validation", 0), ("test", 100))
        }
    )


@pytest.fixture(scope="session")
def vocabulary(texts: Texts) -> SmallVocabulary:
    """A byte-level BPE of 400 entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.text for text in texts.documents("validation")], trainer)
    return SmallVocabulary(tokenizer)


def random_decoder(depth: int, vocabulary: SmallVocabulary) -> Decoder:
    """Layers with weights large enough that the past matters."""
    torch.manual_seed(0)
    decoder = Decoder(Shape(depth=depth, width=32, ffn_width=48, heads=4, kv_heads=2, head_dim=8, vocab_size=vocabulary.size))
    for parameter in decoder.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return decoder


@pytest.fixture(scope="session")
def model(vocabulary: SmallVocabulary) -> Decoder:
    """Two layers with random weights."""
    return random_decoder(2, vocabulary)

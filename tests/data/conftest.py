"""Configs of the group ``data``, texts, and a small tokenizer."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tinylm_ablate.config import Config, DataConfig

EN = ("the wind", "moved", "over", "water", "and nobody", "spoke", "of what had", "been", "lost in", "long", "winter", "before")
ZH = "风吹过水面没有人说起那个漫长的冬天里失去的一切后来春天来了城里的人们又走到河边看船"


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return different texts of 80 to 200 characters, alternately English and Chinese."""
    draw = random.Random(seed)
    texts = []
    for number in range(count):
        if number % 2:
            texts.append(f"第{number}篇：" + "".join(draw.choices(ZH, k=draw.randint(80, 190))))
        else:
            texts.append(f"Number {number}: " + " ".join(draw.choices(EN, k=draw.randint(18, 30))))
    return texts


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return sentences(400)


@pytest.fixture(scope="session")
def data_config(compose: Callable[[list[str]], Config]) -> Callable[..., DataConfig]:
    """``data_config(path, max_documents=3)`` returns a config of data=files with a fifth each for validation and test."""
    base = compose(["data=files", "data.path=unset", "data.validation_share=0.2", "data.test_share=0.2"]).data

    def make(path: Path | None = None, **changes: Any) -> DataConfig:
        return dataclasses.replace(base, path=None if path is None else str(path), **changes)

    return make


class SmallVocabulary:
    """A byte-level BPE with the attributes of a Vocabulary that shards need."""

    def __init__(self, texts: list[str], size: int) -> None:
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False)
        self.tokenizer.train_from_iterator(texts, trainer)
        self.size = self.tokenizer.get_vocab_size()
        self.end_of_text = self.tokenizer.token_to_id("<end>")
        self.fingerprint = hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()[:16]
        self.calls = 0

    def encode_batch(self, batch: list[str]) -> list[list[int]]:
        self.calls += 1
        return [encoding.ids for encoding in self.tokenizer.encode_batch(batch, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.fixture(scope="session")
def vocabulary(texts: list[str]) -> SmallVocabulary:
    return SmallVocabulary(texts, 400)

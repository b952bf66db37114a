"""A small synthetic bilingual text, and small real tokenizers of every importable format."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tinylm_ablate.config import TokenizerConfig
from tinylm_ablate.data.documents import Document
from tinylm_ablate.formats.alphabet import byte_values
from tinylm_ablate.formats.lossless import State, added
from tinylm_ablate.tokenizer.train import train_bpe

WORDS = {
    "en": (
        "the river bends around a small town where people repair old boats and sell bread in winter children skate on "
        "frozen canals while their parents watch from wooden bridges nobody remembers who painted the tower but it's still "
        "blue don't ask we'll see Machine learning measures how language models spread probability over words"
    ),
    "zh": (
        "今天 天气 很好 我们 去 公园 散步 语言 模型 训练 需要 大量 文本 数据 词表 越大 参数 越多 河水 经过 小镇 人们 修理 旧船 "
        "冬天 卖 面包 的 了 在 和 是"
    ),
}


def make_text(language: str, documents: int, seed: int) -> list[str]:
    """Return sentences of a few hundred words with realistic frequencies, numbers, punctuation and line breaks."""
    draw = random.Random(f"{language}{seed}")
    words = WORDS[language].split()
    weights = [1 / (rank + 1) for rank in range(len(words))]
    texts = []
    for _ in range(documents):
        parts = []
        for _ in range(draw.randint(2, 6)):
            chosen = draw.choices(words, weights, k=draw.randint(4, 15))
            if draw.random() < 0.3:
                chosen.append(str(draw.randint(0, 2030)))
            if language == "en":
                parts.append(" ".join(chosen).capitalize() + draw.choice([".", "?", ", yes!", ' ("so").\n\n']))
            else:
                parts.append("".join(chosen) + draw.choice(["。", "？", "，“好”！", "……\n"]))
        texts.append((" " if language == "en" else "").join(parts))
    return texts


class SmallCorpus:
    """A corpus in memory, with the attributes that the tokenizer package uses."""

    def __init__(self, texts: dict[str, dict[str, list[str]]], fingerprint: str = "small") -> None:
        self.fingerprint = fingerprint
        self.languages = sorted(next(iter(texts.values())))
        self._texts = texts
        self.reads = 0

    def documents(self, split: str, language: str | None = None) -> Iterator[Document]:
        self.reads += 1
        for name in self.languages if language is None else [language]:
            yield from (Document(text=text, language=name) for text in self._texts[split][name])


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_text("en", 250, 0) + make_text("zh", 250, 0)


@pytest.fixture
def small_text() -> Any:
    splits = {"train": (250, 0), "validation": (30, 1), "test": (30, 2)}
    return SmallCorpus({split: {lang: make_text(lang, *how) for lang in ("en", "zh")} for split, how in splits.items()})


@pytest.fixture(scope="session")
def bpe(texts: list[str]) -> tuple[State, str]:
    """A trained BPE of 600 entries, and its end-of-text token."""
    return train_bpe(texts, 600)


@pytest.fixture(scope="session")
def ranks_file(bpe: tuple[State, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same entries as tiktoken ranks."""
    state, _ = bpe
    values = byte_values()
    entries = sorted(state["model"]["vocab"].keys() - added(state).keys(), key=state["model"]["vocab"].__getitem__)
    lines = (base64.b64encode(bytes(values[letter] for letter in entry)) + b" %d" % rank for rank, entry in enumerate(entries))
    path = tmp_path_factory.mktemp("ranks") / "small.tiktoken"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def train_sentencepiece(texts: list[str], **options: Any) -> bytes:
    """A SentencePiece model, serialized."""
    import sentencepiece

    written = io.BytesIO()
    sentences = [line for text in texts for line in text.splitlines() if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, minloglevel=2,
        **{"model_type": "bpe", "vocab_size": 600, "byte_fallback": True, "normalization_rule_name": "identity"}
        | {"remove_extra_whitespaces": False, "character_coverage": 0.995} | options,
    )  # fmt: skip
    return written.getvalue()


@pytest.fixture(scope="session")
def sentencepiece_file(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sentencepiece") / "small.model"
    path.write_bytes(train_sentencepiece(texts))
    return path


@pytest.fixture
def settings() -> TokenizerConfig:
    return TokenizerConfig(
        kind="bpe", vocab_size=400, source=None, source_vocab_size=600, source_train_bytes=None, keep_special="all",
        train_bytes=1_000_000,
    )  # fmt: skip

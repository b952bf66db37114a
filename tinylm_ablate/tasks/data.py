"""The tasks that turn documents into token ids: corpus, tokenizer, shards."""

from __future__ import annotations

from pathlib import Path

from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.data.shards import open_shards, shards_folder
from tinylm_ablate.tasks.base import Task
from tinylm_ablate.tokenizer.build import open_vocabulary
from tinylm_ablate.tokenizer.vocabulary import Vocabulary
from tinylm_ablate.tracking import Follower


class CorpusTask(Task):
    """Reads the documents, and splits and stores them."""

    kind = "text"

    @property
    def product(self) -> Path:
        return self.run.cache / "text" / self.run.text / "corpus.json"

    def do(self, tracked: Follower) -> None:
        del tracked
        open_corpus(self.run.config.data, self.run.cache)


class TokenizerTask(Task):
    """Trains, cuts or imports the tokenizer."""

    kind = "tokenizer"

    @property
    def product(self) -> Path:
        return self.run.cache / "tokenizers" / self.run.vocabulary

    def do(self, tracked: Follower) -> None:
        del tracked
        self.open()

    def open(self) -> Vocabulary:
        """The tokenizer, made first if it is missing."""
        run = self.run
        corpus = open_corpus(run.config.data, run.cache)
        return open_vocabulary(run.config.tokenizer, run.shape.vocab_size, run.source_vocab_size, corpus, run.cache)


class ShardsTask(Task):
    """Encodes the corpus."""

    kind = "shards"

    def __init__(self, name: str, tokenizer: TokenizerTask) -> None:
        run = tokenizer.run
        self.tokenizer = tokenizer
        self.folder = shards_folder(run.text, run.vocabulary, run.shape.vocab_size, run.cache)
        super().__init__(self.folder.name, name, run, [tokenizer])

    @property
    def product(self) -> Path:
        return self.folder / "shards.json"

    def do(self, tracked: Follower) -> None:
        del tracked
        open_shards(open_corpus(self.run.config.data, self.run.cache), self.tokenizer.open(), self.run.cache)

"""Tasks that convert documents to token ids: corpus, tokenizer, shards."""

from __future__ import annotations

import sys
from pathlib import Path

from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.data.corpus_summary import summarize
from tinylm_ablate.data.mixing import grouped_by
from tinylm_ablate.data.shards import open_shards
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tokenizer.vocabularies import open_vocabulary
from tinylm_ablate.tokenizer.vocabulary import Vocabulary
from tinylm_ablate.tracking import Follower


class CorpusTask(Task):
    """Reads, splits and stores the documents."""

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
        """Open the tokenizer, after building it if necessary."""
        run = self.run
        corpus = open_corpus(run.config.data, run.cache)
        return open_vocabulary(run.config.tokenizer, run.shape.vocab_size, run.source_vocab_size, corpus, run.cache)


class ShardsTask(Task):
    """Encodes the corpus."""

    kind = "shards"

    def __init__(self, name: str, tokenizer: TokenizerTask) -> None:
        run = tokenizer.run
        self.tokenizer = tokenizer
        super().__init__(run.shards.name, name, run, [tokenizer])

    @property
    def product(self) -> Path:
        return self.run.shards / "shards.json"

    def do(self, tracked: Follower) -> None:
        del tracked
        data, cache = self.run.config.data, self.run.cache
        corpus = open_corpus(data, cache)
        shards = open_shards(corpus, self.tokenizer.open(), cache, grouped_by(data))
        for line in summarize(data, corpus, shards, self.run.tokens).lines():
            print(line, file=sys.stderr)

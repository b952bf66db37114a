"""Small real tokenizers of every format, shared with the tests of the package tokenizer."""

from tests.tokenizer.conftest import bpe, ranks_file, sentencepiece_file, texts

__all__ = ["bpe", "ranks_file", "sentencepiece_file", "texts"]

"""Small real tokenizers of every format, as the tests of the tokenizer package use them."""

from tests.tokenizer.conftest import bpe, ranks_file, sentencepiece_file, texts

__all__ = ["bpe", "ranks_file", "sentencepiece_file", "texts"]

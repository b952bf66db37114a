"""Models and tokenizers in other programs' formats: Hugging Face, GGUF, SentencePiece and tiktoken ranks."""

"""Models and tokenizers in the layouts of other programs: Hugging Face, GGUF, SentencePiece and tiktoken ranks."""

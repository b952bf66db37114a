"""Settings that several tests share."""

#: The smallest run that has everything: a second of training.
TINY = [
    "arch.depth=2",
    "arch.width=16",
    "arch.ffn_width=24",
    "tokenizer=bpe",
    "tokenizer.vocab_size=300",
    "tokenizer.train_bytes=20000",
    "train.context_length=32",
    "train.batch_tokens=128",
    "train.tokens=512",
    "train.device=cpu",
    "train.threads=1",
    "train.compile=false",
    "evaluate.max_bytes=2000",
    "evaluate.cloze_questions=4",
    "tracking=none",
]

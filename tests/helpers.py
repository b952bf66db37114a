"""Settings and steps that several tests share."""

from __future__ import annotations

from tinylm_ablate.config import Config
from tinylm_ablate.execute.perform import perform, results
from tinylm_ablate.settle import settle
from tinylm_ablate.tasks.run import Record

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
    "train.threads=1",
    "train.compile=false",
    "evaluate.max_bytes=2000",
    "evaluate.cloze_questions=4",
    "tracking=none",
]


def run(config: Config) -> Record:
    """Train and measure the run that a config describes, with whatever it needs, unless that was done before.

    Returns:
        Its record, with the metrics that the config requests.
    """
    settled = settle(config)
    walk = perform([("the run", settled)], config, quiet=True)
    for state in walk.failed():
        assert state.exception is not None
        raise state.exception
    record = results(settled)
    assert record is not None
    return record

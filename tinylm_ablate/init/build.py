"""The initial weights of a run, by whatever its ``init`` says, and a record of where they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.init.huggingface import from_huggingface
from tinylm_ablate.init.inherit import inherit, open_scores
from tinylm_ablate.init.parents import open_parent
from tinylm_ablate.init.random import initialise
from tinylm_ablate.settle import Settled
from tinylm_ablate.tokenizer.vocabulary import Vocabulary


def initial_decoder(settled: Settled, vocabulary: Vocabulary) -> tuple[Decoder, dict[str, Any]]:
    """A decoder with the run's initial weights.

    Args:
        settled: The run; a parent that it trains itself is finished.
        vocabulary: Its tokenizer, for the rows that are inherited.

    Returns:
        The decoder in fp32 on the CPU, and the record: the random rule, or the parent with what was kept of it.

    Raises:
        UserError: The parent cannot be inherited from.
    """
    config, shape = settled.config, settled.shape
    decoder = Decoder(shape)
    if config.init.method == "random":
        initialise(decoder, config.init, config.seed)
        return decoder, {"method": "random", "rule": config.init.rule, "std": config.init.std}
    runs = Path(config.runs_dir)
    reference = settled.parent.identity if settled.parent is not None else str(config.init.parent)
    parent = open_parent(reference, runs)
    scores = open_scores(parent, config.init.criterion, Path(config.cache_dir))
    state, record = inherit(parent, shape, vocabulary, config.init, config.seed, scores=scores)
    decoder.load_state_dict(from_huggingface(state, shape))
    return decoder, record

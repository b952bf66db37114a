"""One run with every setting resolved: plain data that any process can read back from a file."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.arch.shapes import OWN_BLOCKS, Shape, own_block
from tinylm_ablate.budget import Rounds
from tinylm_ablate.config import Config, InitConfig, OptimizerConfig
from tinylm_ablate.hardware import fast_bf16

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: Subfolder of a run for its intermediate models.
POINTS = "points"


@dataclass(frozen=True)
class Settled:
    """One run, settled.

    Attributes:
        config: The config that was settled.
        shape: The decoder.
        source_vocab_size: Entries of the large tokenizer that a compact one is cut from.
        tokens: Training tokens over all rounds: ``steps`` whole batches.
        steps: Optimizer steps over all rounds; 0 for a named model as it is, which is measured and not trained.
        rounds: Where each round begins and ends.
        micro_batch: Sequences in a forward pass.
        accumulation: Forward passes in an optimizer step.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay, the dial's rule applied.
        init_std: Sigma of the random rules.
        precision: "fp32", "bf16" or "bf16-true".
        parent: The run whose weights this one starts from, trained first; or None.
        previous: The run that this one continues: that of all rounds but the last, or the one that a branch leaves; or None.
        keep_state: Whether the optimizer's state is kept at the end, for the next round.
        text: Fingerprint of the corpus.
        vocabulary: Fingerprint of the tokenizer.
        identity: Name of the run: a fingerprint of every setting that can change its weights, and of nothing else.
        at: Optimizer steps after which its model was kept that is meant here; 0 is the final one.
    """

    config: Config
    shape: Shape
    source_vocab_size: int
    tokens: int
    steps: int
    rounds: Rounds
    micro_batch: int
    accumulation: int
    learning_rate: float
    weight_decay: float
    init_std: float
    precision: str
    parent: Settled | None
    previous: Settled | None
    keep_state: bool
    text: str
    vocabulary: str
    identity: str
    at: int = 0

    @property
    def optimizer(self) -> OptimizerConfig:
        """The group ``optimizer`` with the weight decay that applies."""
        return dataclasses.replace(self.config.optimizer, weight_decay=self.weight_decay)

    @property
    def init(self) -> InitConfig:
        """The group ``init`` with the sigma that applies."""
        return dataclasses.replace(self.config.init, std=self.init_std)

    @property
    def folder(self) -> Path:
        """Folder of the run, or of its intermediate model."""
        folder = Path(self.config.runs_dir) / self.identity
        return folder / POINTS / f"{self.at:09d}" if self.at else folder

    @property
    def cache(self) -> Path:
        """Folder of corpora, tokenizers, shards and parents' scores."""
        return Path(self.config.cache_dir)

    @property
    def shards(self) -> Path:
        """Folder of the token shards of the corpus."""
        from tinylm_ablate.data.mixing import grouped_by
        from tinylm_ablate.data.shards import shards_folder

        return shards_folder(self.text, self.vocabulary, self.shape.vocab_size, self.cache, grouped_by(self.config.data))

    @property
    def needs(self) -> tuple[Settled, ...]:
        """The runs that must be finished before this one can start."""
        return tuple(run for run in (self.previous, self.parent) if run is not None)

    @property
    def multiplies_bf16(self) -> bool:
        """Whether products are rounded to bf16; with "bf16-true", which is about memory, only where that is no slower."""
        return self.precision == "bf16" or (self.precision == "bf16-true" and fast_bf16(self.config.train.device))

    def to_json(self) -> str:
        """The run as JSON text, which ``from_json`` reads back unchanged."""
        return _adapter().dump_json(self, indent=1).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Settled:
        """The run that ``to_json`` wrote.

        Raises:
            ValueError: The text is something else.
            ConfigError: A block of the user's own cannot be imported here.
        """
        run: Settled = _adapter().validate_json(text)
        for name in OWN_BLOCKS:
            own_block(run.shape, name)  # imports it: reading a model's file does not
        return run


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(Settled)

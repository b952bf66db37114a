"""One run with every setting resolved, as plain data that any process can read from a file."""

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
    """A run with every setting resolved.

    Attributes:
        config: The config that was settled.
        shape: The decoder.
        source_vocab_size: Entries of the large tokenizer that a compact one is made from.
        tokens: Training tokens over all rounds, ``steps`` whole batches.
        steps: Optimizer steps over all rounds; 0 for an existing model that is only measured.
        rounds: Start and end of each round.
        micro_batch: Sequences per forward pass.
        accumulation: Forward passes per optimizer step.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay after the scale's rule.
        init_std: Sigma of the random rules.
        precision: "fp32", "bf16" or "bf16-true".
        parent: The run whose weights this one starts from, which is trained first; or None.
        previous: The run that this one continues: that of all rounds but the last, or the one that a branch leaves; or None.
        keep_state: Whether the optimizer state is kept at the end, for the next round.
        text: Fingerprint of the corpus.
        vocabulary: Fingerprint of the tokenizer.
        identity: Name of the run: a fingerprint of exactly those settings that can change its weights.
        at: Optimizer steps after which the model was kept; 0 is the final model.
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
        """The group ``optimizer`` with the resolved weight decay."""
        return dataclasses.replace(self.config.optimizer, weight_decay=self.weight_decay)

    @property
    def init(self) -> InitConfig:
        """The group ``init`` with the resolved sigma."""
        return dataclasses.replace(self.config.init, std=self.init_std)

    @functools.cached_property
    def folder(self) -> Path:
        """Folder of the run, or of its intermediate model."""
        folder = Path(self.config.runs_dir) / self.identity
        return folder / POINTS / f"{self.at:09d}" if self.at else folder

    @property
    def cache(self) -> Path:
        """Folder of corpora, tokenizers, shards and parents' scores."""
        return Path(self.config.cache_dir)

    @functools.cached_property
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
        """Whether products are rounded to bf16; with "bf16-true", chosen to save memory, only if that is not slower."""
        return self.precision == "bf16" or (self.precision == "bf16-true" and fast_bf16(self.config.train.device))

    def to_json(self) -> str:
        """Return the run as JSON, which ``from_json`` reads."""
        return _adapter().dump_json(self, indent=1).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Settled:
        """Read the JSON of ``to_json``.

        Raises:
            ValueError: The text is not such JSON.
            ConfigError: A user-defined block cannot be imported.
        """
        run: Settled = _adapter().validate_json(text)
        for name in OWN_BLOCKS:
            own_block(run.shape, name)  # imports it: reading a model's file does not
        return run


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(Settled)

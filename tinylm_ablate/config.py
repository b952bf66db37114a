"""Typed schema of every config group, with the values that each setting allows.

Defaults are in ``conf/``, never here: every field is missing until a YAML file or the command line sets it. Each field
has its help and its bounds, so that the checks and the error messages share one source. Checks that involve more than one
value are in ``tinylm_ablate.settle``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

#: All libraries in use store token counts in signed 64-bit integers.
MAX_TOKENS = 2**63 - 1

#: How a key enters a run's identity (``setting``).
VALUE, SETTLED, NONE = "value", "settled", "none"


def setting(
    help: str,
    *,
    choices: tuple[str, ...] = (),
    dial: bool = False,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    identity: str = VALUE,
    active: Callable[[Any], bool] | None = None,
    free: bool = False,
) -> Any:
    """Define a field of a config group.

    Args:
        help: One line for the reference, with the unit.
        choices: Allowed words; for a number, words allowed in addition to a number.
        dial: Whether to allow "N/s" (see ``tinylm_ablate.scale``).
        at_least, above, at_most, below: Bounds of a number.
        identity: How the key enters a run's identity: ``VALUE`` (as it is), ``SETTLED`` (as what it resolves to: a shape,
            a fingerprint of the corpus, a number of steps) or ``NONE`` (it cannot change the weights).
        active: For ``VALUE``: returns whether the key has any effect, given the whole config; inactive keys are omitted.
        free: Whether to allow any string in addition to ``choices`` (a path, an address, a name).
    """
    return field(
        default=MISSING,
        metadata={
            "help": help, "choices": choices, "dial": dial, "at_least": at_least, "above": above, "at_most": at_most,
            "below": below, "identity": identity, "active": active, "free": free,
        },
    )  # fmt: skip


def several(
    help: str,
    identity: str = NONE,
    active: Callable[[Any], bool] | None = None,
    among: tuple[str, ...] = (),
    allowed: str = "",
) -> dict[str, Any]:
    """Metadata of a field that holds several values, each from ``among`` if that is given; ``allowed`` describes them."""
    return {"help": help, "several": True, "identity": identity, "active": active, "among": among, "allowed": allowed}


@dataclass
class ScaleConfig:
    """size of the baseline: the paper's 1B shape, or the same shape with width, FFN and vocabulary divided by s"""

    name: str = setting("name of the scale, as shown in tables", free=True, identity=NONE)
    factor: int = setting(
        "the dial's s: width, FFN width and vocabulary are divided by it", at_least=1, at_most=256, identity=SETTLED
    )
    depth: int = setting("layers of the paper's baseline (Table 2)", at_least=1, identity=SETTLED)
    width: int | str = setting("width of the paper's baseline (Table 2)", dial=True, at_least=2, identity=SETTLED)
    ffn_width: int | str = setting("FFN width of the paper's baseline", dial=True, at_least=1, identity=SETTLED)
    vocab_size: int | str = setting("vocabulary of the paper's baseline (Table 1)", dial=True, at_least=257, identity=SETTLED)
    min_head_dim: int = setting("smallest head size that N/s can result in, channels", at_least=2, identity=SETTLED)
    context_length: int = setting("tokens in a training sequence at this scale", at_least=2, identity=SETTLED)
    batch_tokens: int = setting("tokens in a batch at this scale", at_least=1, at_most=MAX_TOKENS, identity=SETTLED)
    learning_rate: float = setting(
        "peak learning rate for this batch size at 8 tokens per parameter", above=0, identity=SETTLED
    )
    init_std: float = setting("sigma of the random rules at the paper's width", above=0, identity=SETTLED)
    rate_sum: float = setting("the paper's peak learning rate times its number of steps", above=0, identity=SETTLED)
    mask_batch_tokens: int = setting(
        "tokens in a mask-learning step: Sheared-LLaMA's divided by s squared, at least one sequence",
        at_least=1,
        identity=SETTLED,
    )
    tokens_per_parameter: float = setting("default budget at this scale; the paper's is about 52", above=0, identity=SETTLED)


@dataclass
class DataConfig:
    """the corpus: built-in English and Chinese, your own files, a Hugging Face data set, or a mixture"""

    source: str = setting(
        "source of the documents; 'auto' is large for budgets of at least data.large_from tokens, and default otherwise",
        choices=("auto", "default", "large", "files", "hub", "mixture", "own"),
        identity=SETTLED,
    )
    large_from: int = setting("source=auto: smallest budget that uses the large corpus, tokens", at_least=1, identity=SETTLED)
    own: dict[str, Any] = field(default_factory=dict, metadata=several("source=own: {_target_: module.Class, …}", SETTLED))
    path: str | None = setting(
        "source=files: a file or folder of .txt .jsonl .json .csv .tsv .parquet, also .gz .zst .bz2 .xz",
        free=True,
        identity=SETTLED,
    )
    encoding: str = setting(
        "source=files: encoding of the files, such as gb18030, cp1252 or utf-16", free=True, identity=SETTLED
    )
    text_column: str = setting("column that holds the text (tables and hub)", free=True, identity=SETTLED)
    language_column: str | None = setting("column that holds the language, if any", free=True, identity=SETTLED)
    language: str = setting(
        "language of every document, or 'auto' to identify it", choices=("auto",), free=True, identity=SETTLED
    )
    name: str | None = setting("source=hub: name of the data set, or a local copy of one", free=True, identity=SETTLED)
    subset: str | None = setting("source=hub: configuration of the data set", free=True, identity=SETTLED)
    split: str = setting("source=hub: split to read", free=True, identity=SETTLED)
    revision: str | None = setting("source=hub: commit or tag to pin", free=True, identity=SETTLED)
    streaming: bool = setting("source=hub: read without downloading everything", identity=NONE)
    languages: list[str] = field(
        default_factory=list, metadata=several("keep only documents in these languages; empty keeps all", SETTLED)
    )
    near_duplicates: float | str | None = setting(
        "drop a document if the Jaccard similarity of its 5-word shingles to those of an earlier one is at least this "
        "(MinHash estimate); null drops only exact duplicates; 'auto' is 0.7 for the large corpus and null for all others",
        choices=("auto",),
        above=0,
        at_most=1,
        identity=SETTLED,
    )
    sources: dict[str, str] = field(
        default_factory=dict,
        metadata=several("source=mixture: {name: path, default, large or hub:NAME}, read in this order", SETTLED),
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata=several(
            "shares of the training text, as in {en: 0.5, zh: 0.5}, by language or by name in data.sources; empty keeps the "
            "natural shares",
            VALUE,
            lambda config: bool(config.data.weights),
        ),
    )
    weights_by: str = setting(
        "unit of the shares in data.weights", choices=("tokens", "bytes"), active=lambda config: bool(config.data.weights)
    )
    max_documents: int | None = setting("maximum number of documents to read", at_least=1, identity=SETTLED)
    min_characters: int = setting("drop shorter documents, characters", at_least=1, identity=SETTLED)
    validation_share: float = setting("share of documents for validation, by hash", above=0, below=0.5, identity=SETTLED)
    test_share: float = setting("share of documents for test, by hash", above=0, below=0.5, identity=SETTLED)


@dataclass
class TokenizerConfig:
    """the vocabulary: byte-level BPE of any size, or a compacted larger tokenizer (Section 2.1)"""

    kind: str = setting("how the vocabulary is made", choices=("bpe", "compact", "file"), identity=SETTLED)
    vocab_size: int | str = setting(
        "entries, special tokens included", dial=True, at_least=1, at_most=2**31 - 1, identity=SETTLED
    )
    source: str | None = setting(
        "kind=compact or file: the large tokenizer (tokenizer.json, tiktoken ranks, GGUF, SentencePiece model, smollm2-135m); "
        "null trains one with source_vocab_size entries",
        free=True,
        identity=SETTLED,
    )
    source_vocab_size: int | str = setting(
        "kind=compact without source: entries of the large tokenizer", dial=True, at_least=1, identity=SETTLED
    )
    source_train_bytes: int | None = setting(
        "kind=compact without source: training text of the large tokenizer, bytes per language; null is train_bytes. "
        "With less text, more of its entries are rare in other text (docs/dial.md)",
        at_least=1,
        identity=SETTLED,
    )
    keep_special: str = setting("kind=compact: which special tokens to keep", choices=("all", "used"), identity=SETTLED)
    train_bytes: int = setting(
        "text for training a BPE and counting its entries, bytes per language", at_least=1, identity=SETTLED
    )


@dataclass
class ArchConfig:
    """the decoder: depth, width, expanding rate, heads, and the PanGu-pi blocks (Section 2.2)"""

    depth: int = setting("layers", at_least=1, at_most=10_000, identity=SETTLED)
    width: int | str = setting(
        "channels; 'auto' is the width closest to the parameter budget",
        choices=("auto",),
        dial=True,
        at_least=2,
        identity=SETTLED,
    )
    parameters: int | str = setting(
        "parameter budget of width=auto; 'auto' is the paper's baseline at this scale",
        choices=("auto",),
        at_least=1,
        identity=SETTLED,
    )
    expanding_rate: float = setting("ffn_width=auto: FFN width divided by width", above=0, identity=SETTLED)
    ffn_width: int | str = setting(
        "FFN neurons; 'auto' follows the expanding rate", choices=("auto",), dial=True, at_least=1, identity=SETTLED
    )
    ffn_multiple: int | str = setting(
        "ffn_width=auto is rounded up to a multiple of this", dial=True, at_least=1, identity=SETTLED
    )
    heads: int | str = setting(
        "query heads; 'auto' is width / head_dim, with the named parent's head size if there is one",
        choices=("auto",),
        at_least=1,
        at_most=65_536,
        identity=SETTLED,
    )
    head_dim: int | str = setting(
        "channels per attention head, an even number; 'auto' is the named parent's, or else 128/s",
        choices=("auto",),
        dial=True,
        at_least=2,
        identity=SETTLED,
    )
    kv_heads: int | str = setting(
        "key-value heads; 'auto' is one per query head, or the named parent's grouping; 'heads/N' is one per N query heads",
        choices=("auto", "heads/N"),
        at_least=1,
        free=True,
        identity=SETTLED,
    )
    tied: bool | str = setting(
        "share one matrix between embedding and output head; 'auto' is the named parent's, or else false",
        choices=("auto",),
        identity=SETTLED,
    )
    rope_theta: int | float | str = setting(
        "base of the rotary embedding; 'auto' is the named parent's, or else 10000",
        choices=("auto",),
        above=0,
        identity=SETTLED,
    )
    rope_scaling: str = setting(
        "scaling of the rotary embedding: none, linear/FACTOR, llama3/FACTOR/LOW/HIGH/CONTEXT; 'auto' is the named parent's, "
        "or else none",
        choices=("auto", "none"),
        free=True,
        identity=SETTLED,
    )
    norm_eps: int | float | str = setting(
        "epsilon of RMSNorm; 'auto' is the named parent's, or else 1e-5", choices=("auto",), above=0, identity=SETTLED
    )
    activations: int = setting(
        "number of terms n of the series informed activation; 1 is the plain FFN", at_least=1, at_most=4, identity=SETTLED
    )
    shortcuts: int = setting(
        "number of augmented shortcuts T in parallel with attention", at_least=0, at_most=8, identity=SETTLED
    )
    shortcut_ratio: int = setting("bottleneck of a shortcut: its inner width is width/ratio", at_least=1, identity=SETTLED)
    qkv_bias: bool | str = setting(
        "biases of queries, keys and values, as in Qwen2; 'auto' is the named parent's, or else false",
        choices=("auto",),
        identity=SETTLED,
    )
    qk_norm: bool | str = setting(
        "norms of each head's queries and keys, as in Qwen3; 'auto' is the named parent's, or else false",
        choices=("auto",),
        identity=SETTLED,
    )
    own_attention: dict[str, Any] | None = field(
        default_factory=dict,
        metadata=several("your own block instead of attention: {_target_: module.Class, …}; null for none", SETTLED),
    )
    own_ffn: dict[str, Any] | None = field(
        default_factory=dict,
        metadata=several("your own block instead of the FFN: {_target_: module.Class, …}; null for none", SETTLED),
    )


def _random(config: Config) -> bool:
    return config.init.method == "random"


def _inherits(config: Config) -> bool:
    return config.init.method == "inherit"


def _learns_masks(config: Config) -> bool:
    return _inherits(config) and config.init.criterion == "learned"


def _calibrates(config: Config) -> bool:
    return _inherits(config) and (config.init.criterion in ("taylor", "learned") or config.init.layers == "importance")


@dataclass
class InitConfig:
    """the initial weights: a random rule (Table 4, Appendix B) or inherited from a larger model (Table 5)"""

    method: str = setting("source of the weights", choices=("random", "inherit", "pool"))
    rule: str = setting(
        "random rule; 'own' is the class in init.own",
        choices=("constant", "gpt2", "internlm", "depthwise", "own"),
        active=_random,
    )
    own: dict[str, Any] = field(
        default_factory=dict,
        metadata=several("rule=own: {_target_: module.Class, …}", VALUE, lambda c: _random(c) and c.init.rule == "own"),
    )
    std: float | None = setting(
        "sigma of the random rule; null is the scale's for this width (docs/dial.md)", above=0, at_most=10, identity=SETTLED
    )
    parent: str | None = setting("a run or a Hugging Face folder; null trains a parent once", free=True, identity=SETTLED)
    parent_depth: int = setting("layers of the trained parent (the paper's 7B has 29)", at_least=1, identity=SETTLED)
    parent_width: int | str = setting("width of the trained parent", dial=True, at_least=2, identity=SETTLED)
    parent_ffn_width: int | str = setting("FFN width of the trained parent", dial=True, at_least=1, identity=SETTLED)
    parent_vocab_size: int | str | None = setting(
        "entries of the trained parent's vocabulary (the paper's has 100,883), built like the child's; null is the child's",
        dial=True,
        at_least=1,
        at_most=2**31 - 1,
        identity=SETTLED,
    )
    parent_seed: int = setting(
        "seed of the trained parent, the same for every seed of a grid", at_least=0, at_most=2**31 - 1, identity=SETTLED
    )
    parent_tokens: int | None = setting(
        "budget of the parent of init=inherit; null is the run's own", at_least=1, at_most=MAX_TOKENS, identity=SETTLED
    )
    parent_lr: float | None = setting(
        "peak learning rate of the trained parent at the base batch; null is the scale's for the parent's shape",
        above=0,
        identity=SETTLED,
    )
    train: str = setting(
        "what the run trains: the child, or the parent that the child would inherit from",
        choices=("child", "parent"),
        identity=SETTLED,
    )
    criterion: str = setting("how to choose neurons", choices=("l1", "l2", "taylor", "learned", "random"), active=_inherits)
    layers: str = setting(
        "how to choose layers: a rule, or the parent's layers as '0-3,7,9-11'",
        choices=("middle", "even", "importance"),
        free=True,
        active=_inherits,
    )
    keep_first: int = setting("number of first layers that are always kept", at_least=0, active=_inherits)
    keep_last: int = setting("number of last layers that are always kept", at_least=0, active=_inherits)
    calibration_tokens: int = setting(
        "training text for criterion=taylor, criterion=learned and layers=importance, tokens",
        at_least=1,
        active=_calibrates,
    )
    masks: MasksConfig = field(default_factory=lambda: MasksConfig())

    @property
    def sigma(self) -> float:
        """Return ``std``, which is set in ``Settled.init``."""
        if self.std is None:
            raise ValueError("init.std=null: sigma is known only after the run is settled")
        return self.std


@dataclass
class MasksConfig:
    """criterion=learned: hard-concrete gates trained with Lagrange multipliers (Sheared-LLaMA, arXiv 2310.06694)"""

    learning_rate: float = setting("learning rate of the gates and the multipliers", above=0, active=_learns_masks)
    weight_learning_rate: float = setting(
        "learning rate of the weights, which are trained with the gates; 0 freezes them", at_least=0, active=_learns_masks
    )
    warmup: float = setting(
        "share of the steps in which the target moves from the parent's shape to the child's",
        at_least=0,
        at_most=1,
        active=_learns_masks,
    )
    batch_tokens: int = setting(
        "tokens per step, rounded to whole sequences, at least one", at_least=1, at_most=MAX_TOKENS, active=_learns_masks
    )
    steps: int = setting("steps (Sheared-LLaMA: 3,200)", at_least=1, at_most=10**9, active=_learns_masks)
    temperature: float = setting("beta of the hard-concrete distribution", above=0, active=_learns_masks)


@dataclass
class OptimizerConfig:
    """the optimizer, its schedule, and the learning rate as a function of the batch size (Section 4.1)"""

    name: str = setting(
        "algorithm; 'own' is the class in optimizer.own", choices=("adamw", "lion", "muon", "schedule_free", "own")
    )
    own: dict[str, Any] = field(
        default_factory=dict,
        metadata=several("name=own: {_target_: module.Class, setting: value}", VALUE, lambda c: c.optimizer.name == "own"),
    )
    scaling: ScalingConfig = field(default_factory=lambda: ScalingConfig())
    beta1: float = setting("decay of the first moment", at_least=0, below=1)
    beta2: float = setting("decay of the second moment", at_least=0, below=1)
    momentum: float = setting(
        "name=muon: decay of the matrices' momentum", at_least=0, below=1, active=lambda config: config.optimizer.name == "muon"
    )
    eps: float = setting("epsilon of the update", above=0)
    weight_decay: float = setting(
        "decoupled weight decay at the paper's scale (Table 13); smaller scales multiply it (optimizer.scaling.rate_sum)",
        at_least=0,
        identity=SETTLED,
    )
    decay: str = setting("parameters with weight decay: matrices only, or all", choices=("matrices", "all"))
    clip: float = setting("maximum norm of the gradient", above=0)
    schedule: str = setting(
        "learning rate schedule after warm-up; 'own' is the class in optimizer.own_schedule",
        choices=("cosine", "linear", "constant", "wsd", "own"),
    )
    own_schedule: dict[str, Any] = field(
        default_factory=dict,
        metadata=several("schedule=own: {_target_: module.Class, …}", VALUE, lambda c: c.optimizer.schedule == "own"),
    )
    warmup: float = setting("warm-up: a share of the steps if below 1, otherwise tokens", at_least=0)
    final: float = setting(
        "final learning rate divided by the peak",
        at_least=0,
        at_most=1,
        active=lambda config: config.optimizer.schedule != "constant" or config.train.anneal_from is not None,
    )
    decay_share: float = setting(
        "schedule=wsd, and train.anneal_from: share of the steps in the final decay",
        above=0,
        at_most=1,
        active=lambda config: config.optimizer.schedule == "wsd",
    )


@dataclass
class ScalingConfig:
    """lr = (batch / base_batch) ** exponent * base_lr * multiplier"""

    base_lr: float | None = setting(
        "peak learning rate at the base batch; null computes it from scale, shape and budget (docs/dial.md)",
        above=0,
        identity=SETTLED,
    )
    base_batch_tokens: int = setting("base batch, tokens", at_least=1, at_most=MAX_TOKENS, identity=SETTLED)
    exponent: float = setting(
        "exponent r of the rule; the paper recommends 0.5 above the critical batch", at_least=-4, at_most=4, identity=SETTLED
    )
    multiplier: float = setting(
        "factor on base_lr, for an optimizer with smaller or larger updates than AdamW", above=0, identity=SETTLED
    )
    rate_sum: float | None = setting(
        "below the paper's scale, weight_decay is multiplied by rate_sum / (peak learning rate x steps), so that learning "
        "rate x decay, summed over the steps, is the paper's; null uses weight_decay unchanged",
        above=0,
        identity=SETTLED,
    )


@dataclass
class RoundsConfig:
    """passes over the data (Section 4.2)"""

    count: int = setting("number of rounds", at_least=1, at_most=16, identity=SETTLED)
    sampling_rate: float = setting(
        "share of the first round's batches that each later round trains on; 0 disables later rounds",
        at_least=0,
        at_most=1,
        identity=SETTLED,
    )
    rule: str = setting(
        "how to draw these batches: by loss, uniformly, the highest losses, or none (all batches, whatever the rate)",
        choices=("loss", "uniform", "top", "none"),
        identity=SETTLED,
    )
    temperature: float = setting("rule=loss: p = softmax(loss / temperature), losses in nats", above=0, identity=SETTLED)
    parts: int = setting(
        "number of equal parts of the first round; batches are drawn, and forgetting is reported, per part",
        at_least=1,
        identity=SETTLED,
    )
    schedule: str = setting(
        "later rounds: 'rewarm' restarts schedule and optimizer, 'continue' uses one schedule for all rounds, "
        "'constant' stays at the first round's final learning rate",
        choices=("rewarm", "continue", "constant"),
        identity=SETTLED,
    )
    forgetting: bool = setting("measure the final model's loss on every training batch (Figure 9)", identity=NONE)


@dataclass
class TrainConfig:
    """the budget and how to spend it: tokens, batch, precision, checkpoints"""

    tokens: int | None = setting(
        "budget, tokens; null uses tokens_per_parameter", at_least=1, at_most=MAX_TOKENS, identity=SETTLED
    )
    tokens_per_parameter: float | None = setting(
        "budget divided by the parameters of the paper's baseline at this scale; the same budget for every arm of a grid",
        above=0,
        identity=SETTLED,
    )
    share: float = setting(
        "share of the budget that the run trains on; a parent always trains on all of it (Table 10: 0.05)",
        above=0,
        at_most=100,
        identity=SETTLED,
    )
    anneal_from: float | None = setting(
        "branch off the run without this setting at this share of the budget (above 1: this number of tokens), and decay "
        "linearly over optimizer.decay_share of the branch's steps; several branches of one run give a curve over budgets",
        above=0,
        identity=SETTLED,
    )
    context_length: int = setting("tokens per sequence", at_least=2)
    batch_tokens: int = setting(
        "tokens per optimizer step; a multiple of context_length", at_least=1, at_most=MAX_TOKENS, identity=SETTLED
    )
    batch_multiple: int = setting(
        "batch_tokens as a multiple of the scale's, unless batch_tokens is set", at_least=1, at_most=2**20, identity=SETTLED
    )
    micro_batch: int | str = setting(
        "sequences per forward pass; 'auto' is the largest possible up to 32", choices=("auto",), at_least=1, identity=SETTLED
    )
    precision: str = setting(
        "precision of the matrix products; 'auto' is bf16 if the processor has bf16 instructions and the model is at least "
        "32 wide, and fp32 otherwise: set it if different machines share a grid. 'bf16-true' also keeps weights, gradients "
        "and optimizer state in bf16: half the memory, but small updates are lost to rounding",
        choices=("auto", "fp32", "bf16", "bf16-true"),
        identity=SETTLED,
    )
    recompute: bool = setting(
        "keep only the input of each layer and recompute the rest in the backward pass (activation checkpointing): far "
        "less memory, a third more computation, the same results",
        identity=NONE,
    )
    device: str = setting("device to train on", choices=("auto", "cpu", "cuda", "mps"), identity=NONE)
    devices: int = setting("GPUs, or CPU processes, that share a run on one machine", at_least=1, at_most=64, identity=NONE)
    strategy: str = setting(
        "devices above 1: each holds all weights (Lightning's DDP) or a part of them (FSDP2)",
        choices=("ddp", "fsdp"),
        identity=NONE,
    )
    stack: int | str = setting(
        "runs of one shape to train together on one device, each with the same results as alone; 'auto' is as many as "
        "fit in GPU memory, and 1 on a CPU",
        choices=("auto",),
        at_least=1,
        identity=NONE,
    )
    compile: bool | str = setting(
        "compile the layers; 'auto' does if there is a C++ compiler and the run is long enough for it to save time",
        choices=("auto",),
        identity=NONE,
    )
    threads: int | str = setting("CPU threads; 'auto' is one per core", choices=("auto",), at_least=1, identity=NONE)
    checkpoint_minutes: float = setting("minutes between checkpoints", above=0, identity=NONE)
    log_every: int = setting("optimizer steps between points of the curve", at_least=1, identity=NONE)
    on_nonfinite: str = setting(
        "action if a loss or gradient is not finite: stop before the update, or skip the update", choices=("stop", "skip")
    )
    spike_deviations: float = setting(
        "log a loss as a spike, with its batch, if it is this many standard deviations above the recent mean",
        above=0,
        identity=NONE,
    )
    keep_model: bool = setting("keep the final weights", identity=NONE)
    keep_checkpoints: list[float] = field(
        default_factory=list,
        metadata=several(
            "keep the model and the optimizer state at these shares of the budget (above 1: numbers of tokens), as in "
            "[0.25,0.5]"
        ),
    )


@dataclass
class DecodeConfig:
    """speed of generation with random weights, by the paper's protocol (Tables 2, 3, 12)"""

    measure: bool = setting("measure the speed of generation, once per shape and machine", identity=NONE)
    batch: int = setting("sequences", at_least=1, identity=NONE)
    prefix: int = setting("tokens of the prompt", at_least=1, identity=NONE)
    new_tokens: int = setting("tokens to generate", at_least=1, identity=NONE)
    repeats: int = setting("number of measurements; the fastest is reported", at_least=1, identity=NONE)
    precision: str = setting(
        "precision of weights and arithmetic; 'auto' is the paper's fp16 on a GPU and fp32 on a CPU",
        choices=("auto", "fp32", "bf16", "fp16"),
        identity=NONE,
    )
    llama_cpp: list[str] = field(
        default_factory=list,
        metadata=several(
            "weight formats for which to measure speed and memory of llama.cpp and of our decoder on this CPU",
            among=("f32", "f16", "q8_0", "q4_0"),
        ),
    )


@dataclass
class EvaluateConfig:
    """what is measured at the end: bits per byte and a four-way cloze, per language"""

    max_bytes: int | str = setting(
        "text to score per split and language, bytes; 'auto' is 25,000 to 200,000 depending on the training tokens, the "
        "same for every arm of a grid",
        choices=("auto",),
        at_least=1,
        identity=NONE,
    )
    cloze_questions: int | str = setting(
        "cloze questions per language; 0 for none; 'auto' is 50 to 200, like evaluate.max_bytes",
        choices=("auto",),
        at_least=0,
        identity=NONE,
    )
    cloze_context: int = setting("characters before the gap", at_least=1, identity=NONE)
    cloze_continuation: int = setting("characters of each of the four continuations", at_least=1, identity=NONE)
    layer_skip: int = setting(
        "measure the model with 1 to this many adjacent layers skipped, at each position (Figure 5); 0 for none",
        at_least=0,
        identity=NONE,
    )
    effective_dimension: float = setting(
        "measure how many principal components explain this share of the variance of each layer's features (PanGu-π: 0.8); "
        "0 for none",
        at_least=0,
        below=1,
        identity=NONE,
    )
    quantized: list[str] = field(
        default_factory=list,
        metadata=several(
            "weight formats for which to measure bits per byte of the model exported to GGUF", among=("f16", "q8_0", "q4_0")
        ),
    )
    tasks: list[str] = field(
        default_factory=list,
        metadata=several("mode=evaluate: tasks of EleutherAI's harness, or one of the lists 'paper' and 'ablations'"),
    )
    task_folder: str | None = setting(
        "mode=evaluate: a folder of your own tasks in the harness's YAML format", free=True, identity=NONE
    )
    shots: int | None = setting(
        "mode=evaluate: examples before each question; null is the task's default", at_least=0, identity=NONE
    )
    limit: int | None = setting(
        "mode=evaluate: maximum questions per task, for a trial; null for all", at_least=1, identity=NONE
    )
    own: list[dict[str, Any]] = field(
        default_factory=list, metadata=several("your own measures, as in [{_target_: module.Class, …}]")
    )
    measures: list[str] = field(
        default_factory=list,
        metadata=several("take only these of the requested measures, such as bits_per_byte; empty for all"),
    )
    every: float | None = setting(
        "also measure during training, every time this share of the budget is done (above 1: this number of tokens)",
        above=0,
        identity=NONE,
    )
    every_measures: list[str] = field(
        default_factory=list,
        metadata=several("evaluate.every: which of the requested measures to take, such as bits_per_byte and cloze"),
    )
    every_bytes: int | str = setting(
        "evaluate.every: text to score each time per split and language, bytes; 'auto' is evaluate.max_bytes divided by "
        "the number of times, at least 5,000",
        choices=("auto",),
        at_least=1,
        identity=NONE,
    )
    decode: DecodeConfig = field(default_factory=DecodeConfig)


@dataclass
class TrackingConfig:
    """MLflow in an SQLite file next to the runs or on a server, and other trackers through Lightning's loggers"""

    kind: str = setting("whether to record runs in MLflow", choices=("mlflow", "none"), identity=NONE)
    loggers: list[str] = field(default_factory=list, metadata=several("other trackers to write to: tensorboard, wandb, csv"))
    uri: str | None = setting("tracking address; null is an SQLite file in runs_dir", free=True, identity=NONE)
    artifacts: str | None = setting(
        "where to store artifacts; null is a folder in runs_dir (or the server's choice)", free=True, identity=NONE
    )
    experiment: str = setting("name of the MLflow experiment", free=True, identity=NONE)
    flush_seconds: float = setting("seconds between syncs of runs in training", above=0, identity=NONE)


@dataclass
class ExperimentConfig:
    """the table or figure of the paper that a grid reproduces; set by the files in experiments/"""

    name: str = setting("name of the table", free=True, identity=NONE)
    title: str | None = setting("what the table shows; null is the settings that differ", free=True, identity=NONE)
    paper: str | None = setting("the paper's numbers: a CSV in tinylm_ablate/report/paper", free=True, identity=NONE)
    paper_axis: list[str] = field(
        default_factory=list, metadata=several("columns of the paper's CSV with the settings that differ")
    )
    note: str | None = setting("note for readers, shown with the table", free=True, identity=NONE)
    correlate: list[str] = field(
        default_factory=list, metadata=several("settings or sizes to correlate with quality, by rank (Figure 4)")
    )
    figures: list[str] = field(default_factory=list, metadata=several("figures that the report draws with the table"))


@dataclass
class PlanConfig:
    """output of mode=plan"""

    format: str = setting("a table, or one JSON object per line", choices=("table", "json"), identity=NONE)
    read_text: bool = setting(
        "read and check your own text as a run would, unless that is done already, and summarize it in the table",
        identity=NONE,
    )


@dataclass
class GenerateConfig:
    """text generation with mode=generate"""

    new_tokens: int = setting("tokens to generate", at_least=1, identity=NONE)
    temperature: float = setting("sampling temperature; 0 always takes the most likely token", at_least=0, identity=NONE)
    top_k: int | None = setting("sample from the k most likely tokens; null for all", at_least=1, identity=NONE)


@dataclass
class ExportConfig:
    """export of a model to other programs with mode=export"""

    format: str = setting(
        "a Hugging Face folder, or a GGUF file for llama.cpp and programs based on it",
        choices=("huggingface", "gguf"),
        identity=NONE,
    )
    weights: str = setting(
        "format=gguf: type of the matrices; q8_0 and q4_0 are blocks of 32 entries with 8 or 4 bits each",
        choices=("f32", "f16", "q8_0", "q4_0"),
        identity=NONE,
    )


@dataclass
class GridConfig:
    """cells of a multirun, and how to run them"""

    zip: list[list[str]] = field(
        default_factory=list, metadata=several("axes to zip, value by value, as in [[arch.depth,arch.width]]")
    )
    exclude: list[str] = field(
        default_factory=list, metadata=several("cells to leave out", allowed="a list, as in ['arch.depth=40 init=gpt2']")
    )
    arms: dict[str, list[str]] = field(
        default_factory=dict,
        metadata=several(
            "named arms, each a list of settings; together an axis of the grid",
            allowed="names with lists of settings, as in {shallow: ['arch.depth=9'], deep: ['arch.depth=40']}",
        ),
    )
    experiments: list[str] = field(
        default_factory=list, metadata=several("experiments to combine into one grid, as in experiments/paper.yaml")
    )
    tune: bool = setting("tune the settings in tune_keys for each arm before comparing arms", identity=NONE)
    tune_keys: list[str] = field(default_factory=list, metadata=several("settings that grid.tune tunes: keys with real values"))
    tune_seed: int = setting("seed for tuning, excluded from comparisons", at_least=0, at_most=2**31 - 1, identity=NONE)
    on_failure: str = setting("what to do with the other cells if one fails", choices=("continue", "stop"), identity=NONE)
    workers: int | str = setting(
        "worker processes on this machine; 'auto' measures how best to divide the cores", choices=("auto",), at_least=1,
        at_most=1024, identity=NONE,
    )  # fmt: skip
    retries: int = setting("times to retry a failed cell", at_least=0, at_most=100, identity=NONE)
    require_clean: bool = setting("refuse to run from a git tree with uncommitted changes", identity=NONE)
    lease_seconds: float = setting(
        "seconds without a sign of life after which a worker loses its task to another", above=0, identity=NONE
    )
    unclaim: str | None = setting("identity of a run whose lease to revoke before the grid starts", free=True, identity=NONE)
    on_end: str | None = setting("shell command to run when the grid has ended", free=True, identity=NONE)
    work: str | None = setting(
        "internal: file with the tasks of a grid, set for the workers that a grid starts", free=True, identity=NONE
    )


@dataclass
class SearchConfig:
    """hydra/sweeper=optuna: a search over ranges instead of a grid of values"""

    name: str | None = setting("name of the study; null derives one from the search space", free=True, identity=NONE)
    trials: int = setting(
        "total trials over all sessions of the study; those outside the parameter range do not count", at_least=1, identity=NONE
    )
    objectives: list[str] = field(default_factory=list, metadata=several("one or more metrics of a run (docs/search.md)"))
    parameters: list[int] = field(
        default_factory=list, metadata=several("[low,high]: allowed number of parameters; other shapes are not trained")
    )
    sampler: str = setting("how to propose trials", choices=("tpe", "random"), identity=NONE)
    pruner: str = setting("how to prune weak trials during training", choices=("none", "median", "hyperband"), identity=NONE)
    seed: int = setting("seed of the sampler", at_least=0, at_most=2**31 - 1, identity=NONE)


@dataclass
class Config:
    """Complete config of one run."""

    mode: str = setting(
        "what to do", choices=("run", "plan", "status", "evaluate", "generate", "export", "coverage", "sync"), identity=NONE
    )
    seed: int = setting("seed of initial weights and data order", at_least=0, at_most=2**31 - 1)
    seeds: int | str | None = setting(
        "in a multirun: adds the axis seed=0,…,seeds-1; 'sequential' adds seeds only while a comparison is undecided",
        choices=("sequential",),
        at_least=1,
        at_most=10_000,
        identity=NONE,
    )
    runs_dir: str = setting("folder of the runs", free=True, identity=NONE)
    cache_dir: str = setting("folder of corpora, tokenizers and token shards, shared by runs", free=True, identity=NONE)
    results_dir: str = setting("mode=coverage: folder of tables and figures", free=True, identity=NONE)
    model: str | None = setting(
        "mode=evaluate, generate or export: a run, a Hugging Face folder, OWNER/NAME on the hub, or (except for export) a GGUF "
        "file; null is the run that the config describes",
        free=True,
        identity=NONE,
    )
    prompt: str = setting("mode=generate: text to continue", free=True, identity=NONE)
    folder: str | None = setting("mode=export: folder to write, or file with export.format=gguf", free=True, identity=NONE)
    progress: str = setting("progress bars", choices=("auto", "on", "off"), identity=NONE)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    init: InitConfig = field(default_factory=InitConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


#: Config groups that users choose from, in the order of the pipeline.
GROUPS: dict[str, type] = {
    "scale": ScaleConfig, "data": DataConfig, "tokenizer": TokenizerConfig, "arch": ArchConfig, "init": InitConfig,
    "optimizer": OptimizerConfig, "rounds": RoundsConfig, "train": TrainConfig, "evaluate": EvaluateConfig,
    "tracking": TrackingConfig,
}  # fmt: skip


#: Settings whose value is a dictionary with keys of the user's choice; Hydra rejects unknown keys in all others.
_OPEN = {
    "data": ("sources", "weights", "own"), "optimizer": ("own", "own_schedule"), "init": ("own",),
    "arch": ("own_attention", "own_ffn"),
}  # fmt: skip


def register() -> None:
    """Register with Hydra: ``schema`` for the root, ``<group>/schema`` for each group, and the resolver ``times``."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("times", operator.mul, replace=True)
    store = ConfigStore.instance()
    if "schema.yaml" in store.repo:
        return
    store.store(name="schema", node=Config)
    OmegaConf.set_struct(store.repo["schema.yaml"].node.grid.arms, False)
    for group, kind in GROUPS.items():
        store.store(group=group, name="schema", node=kind)
        for name in _OPEN.get(group, ()):
            OmegaConf.set_struct(store.repo[group]["schema.yaml"].node[name], False)

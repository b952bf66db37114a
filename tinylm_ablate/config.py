"""The typed schema of every config group, and what each value may be.

Defaults live in ``conf/``, never here: every field is missing until a YAML file or the command line gives it. Each field
carries its help and its bounds, so that the checks and the error messages come from one place. Checks that need more than one
value are in ``tinylm_ablate.settle``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from tinylm_ablate.scale import is_dial

#: Counts of tokens are kept in signed 64-bit integers by every library below.
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
    """A field of a config group.

    Args:
        help: One line for the reference, with the unit.
        choices: The words that are allowed; for a number, the words that are allowed beside a number.
        dial: Whether "N/s" is allowed (see ``tinylm_ablate.scale``).
        at_least, above, at_most, below: Bounds of a number.
        identity: How the key enters a run's identity: ``VALUE`` (as it is), ``SETTLED`` (through what it settles to: a shape,
            a fingerprint of text, a number of steps) or ``NONE`` (it cannot change the weights).
        active: For ``VALUE``: whether the key has any effect, given the whole config; inactive keys are left out.
        free: Any text is allowed beside ``choices`` (a path, an address, a name).
    """
    return field(
        default=MISSING,
        metadata={
            "help": help, "choices": choices, "dial": dial, "at_least": at_least, "above": above, "at_most": at_most,
            "below": below, "identity": identity, "active": active, "free": free,
        },
    )  # fmt: skip


def several(
    help: str, identity: str = NONE, active: Callable[[Any], bool] | None = None, among: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The metadata of a field that holds several values; with ``among``, each is one of those."""
    return {"help": help, "several": True, "identity": identity, "active": active, "among": among}


@dataclass
class ScaleConfig:
    """the one dial: the paper's 1B shape, or the same with width, FFN and vocabulary divided by s"""

    name: str = setting("name of the scale, as shown in tables", free=True, identity=NONE)
    factor: int = setting(
        "the dial's s: width, FFN width and vocabulary are divided by it", at_least=1, at_most=256, identity=SETTLED
    )
    depth: int = setting("layers of the paper's baseline (Table 2)", at_least=1, identity=SETTLED)
    width: int | str = setting("width of the paper's baseline (Table 2)", dial=True, at_least=2, identity=SETTLED)
    ffn_width: int | str = setting("FFN width of the paper's baseline", dial=True, at_least=1, identity=SETTLED)
    vocab_size: int | str = setting("vocabulary of the paper's baseline (Table 1)", dial=True, at_least=257, identity=SETTLED)
    min_head_dim: int = setting("a head size given as N/s is not cut below this many channels", at_least=2, identity=SETTLED)
    context_length: int = setting("tokens in a training sequence at this scale", at_least=2, identity=SETTLED)
    batch_tokens: int = setting("tokens in a batch at this scale", at_least=1, at_most=MAX_TOKENS, identity=SETTLED)
    learning_rate: float = setting("peak learning rate for that batch, at 8 tokens per parameter", above=0, identity=SETTLED)
    init_std: float = setting("sigma of the random rules at the paper's width", above=0, identity=SETTLED)
    rate_sum: float = setting("sum of the paper's peak learning rate over its steps", above=0, identity=SETTLED)
    mask_batch_tokens: int = setting(
        "tokens in a step that learns masks: Sheared-LLaMA's over s squared, at least one sequence",
        at_least=1,
        identity=SETTLED,
    )
    tokens_per_parameter: float = setting("default budget at this scale; the paper's is about 52", above=0, identity=SETTLED)


@dataclass
class DataConfig:
    """the text: English and Chinese, as much as the budget needs; your own files, a set in the hub's layout, or a mixture"""

    source: str = setting(
        "where the documents come from; 'auto' is default or, for budgets of data.large_from tokens and more, large",
        choices=("auto", "default", "large", "files", "hub", "mixture", "own"),
        identity=SETTLED,
    )
    large_from: int = setting("source=auto: the least budget that takes the large text, tokens", at_least=1, identity=SETTLED)
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
    language_column: str | None = setting("column that holds the language, if there is one", free=True, identity=SETTLED)
    language: str = setting(
        "language of every document, or 'auto' to identify it", choices=("auto",), free=True, identity=SETTLED
    )
    name: str | None = setting("source=hub: name of the data set, or a folder in the hub's layout", free=True, identity=SETTLED)
    subset: str | None = setting("source=hub: configuration of the data set", free=True, identity=SETTLED)
    split: str = setting("source=hub: split to read", free=True, identity=SETTLED)
    revision: str | None = setting("source=hub: commit or tag, for a data set that may change", free=True, identity=SETTLED)
    streaming: bool = setting("source=hub: read without downloading everything", identity=NONE)
    languages: list[str] = field(
        default_factory=list, metadata=several("keep documents of these languages only; empty keeps all", SETTLED)
    )
    near_duplicates: float | str | None = setting(
        "drop a document that shares this much of its runs of five words with one before it (Jaccard similarity, by MinHash); "
        "null drops only those that are the same; 'auto' is 0.7 for the large text and null for all others",
        choices=("auto",),
        above=0,
        at_most=1,
        identity=SETTLED,
    )
    sources: dict[str, str] = field(
        default_factory=dict,
        metadata=several("source=mixture: {name: path, or default, large, or hub:NAME}, one after the other", SETTLED),
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata=several(
            "shares of the training text, as in {en: 0.5, zh: 0.5}, by language or name in data.sources; empty is as it comes",
            VALUE,
            lambda config: bool(config.data.weights),
        ),
    )
    weights_by: str = setting(
        "what the shares are of", choices=("tokens", "bytes"), active=lambda config: bool(config.data.weights)
    )
    max_documents: int | None = setting("read no more documents than this", at_least=1, identity=SETTLED)
    min_characters: int = setting("shorter documents are dropped", at_least=1, identity=SETTLED)
    validation_share: float = setting("share of documents for validation, by hash", above=0, below=0.5, identity=SETTLED)
    test_share: float = setting("share of documents for test, by hash", above=0, below=0.5, identity=SETTLED)


@dataclass
class TokenizerConfig:
    """the vocabulary: byte-level BPE of any size, or a compact cut of a larger tokenizer (Section 2.1)"""

    kind: str = setting("how the vocabulary is made", choices=("bpe", "compact", "file"), identity=SETTLED)
    vocab_size: int | str = setting(
        "entries, special tokens included", dial=True, at_least=1, at_most=2**31 - 1, identity=SETTLED
    )
    source: str | None = setting(
        "kind=compact or file: the large tokenizer (tokenizer.json, tiktoken ranks, GGUF, SentencePiece model, smollm2-135m); "
        "null trains one of source_vocab_size",
        free=True,
        identity=SETTLED,
    )
    source_vocab_size: int | str = setting(
        "kind=compact without source: entries of the large tokenizer", dial=True, at_least=1, identity=SETTLED
    )
    source_train_bytes: int | None = setting(
        "kind=compact without source: text that the large tokenizer is trained on, bytes per language; null is train_bytes. "
        "Less text gives it a longer tail of entries that other text hardly uses (docs/dial.md)",
        at_least=1,
        identity=SETTLED,
    )
    keep_special: str = setting("kind=compact: which special tokens are kept", choices=("all", "used"), identity=SETTLED)
    train_bytes: int = setting("text that a BPE is trained and counted on, bytes per language", at_least=1, identity=SETTLED)


@dataclass
class ArchConfig:
    """the decoder: depth, width, expanding rate, heads, and the PanGu-pi blocks (Section 2.2)"""

    depth: int = setting("layers", at_least=1, at_most=10_000, identity=SETTLED)
    width: int | str = setting(
        "channels; 'auto' comes nearest to the parameter budget", choices=("auto",), dial=True, at_least=2, identity=SETTLED
    )
    parameters: int | str = setting(
        "parameter budget of width=auto; 'auto' is the paper's baseline at this scale",
        choices=("auto",),
        at_least=1,
        identity=SETTLED,
    )
    expanding_rate: float = setting("FFN width over width when ffn_width=auto", above=0, identity=SETTLED)
    ffn_width: int | str = setting(
        "FFN neurons; 'auto' follows the expanding rate", choices=("auto",), dial=True, at_least=1, identity=SETTLED
    )
    ffn_multiple: int | str = setting(
        "ffn_width=auto is rounded up to a multiple of this", dial=True, at_least=1, identity=SETTLED
    )
    heads: int | str = setting(
        "query heads; 'auto' is width / head_dim, or the named parent's for the width",
        choices=("auto",),
        at_least=1,
        at_most=65_536,
        identity=SETTLED,
    )
    head_dim: int | str = setting(
        "channels of one attention head; even; 'auto' is the named parent's, or else 128/s",
        choices=("auto",),
        dial=True,
        at_least=2,
        identity=SETTLED,
    )
    kv_heads: int | str = setting(
        "key-value heads; 'auto' is one for each head, or the named parent's grouping; 'heads/N' is one for N heads",
        choices=("auto", "heads/N"),
        at_least=1,
        free=True,
        identity=SETTLED,
    )
    tied: bool | str = setting(
        "share the matrix of embedding and head; 'auto': as the named parent, or else not", choices=("auto",), identity=SETTLED
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
        "terms n of the series informed activation; 1 is the plain FFN", at_least=1, at_most=4, identity=SETTLED
    )
    shortcuts: int = setting("augmented shortcuts T beside attention; 0 is none", at_least=0, at_most=8, identity=SETTLED)
    shortcut_ratio: int = setting("bottleneck of a shortcut: its inner width is width/ratio", at_least=1, identity=SETTLED)
    qkv_bias: bool | str = setting(
        "biases of queries, keys and values, as in Qwen2; 'auto': as the named parent, or else not",
        choices=("auto",),
        identity=SETTLED,
    )
    qk_norm: bool | str = setting(
        "norms of each head's queries and keys, as in Qwen3; 'auto': as the named parent, or else not",
        choices=("auto",),
        identity=SETTLED,
    )
    own_attention: dict[str, Any] | None = field(
        default_factory=dict,
        metadata=several("a block instead of attention: {_target_: module.Class, …}; null is none", SETTLED),
    )
    own_ffn: dict[str, Any] | None = field(
        default_factory=dict,
        metadata=several("a block instead of the FFN: {_target_: module.Class, …}; null is none", SETTLED),
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

    method: str = setting("where the weights come from", choices=("random", "inherit", "pool"))
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
        "sigma of the random rule; null is the dial's for the width (docs/dial.md)", above=0, at_most=10, identity=SETTLED
    )
    parent: str | None = setting("a run, or a Hugging Face folder; null trains the parent once", free=True, identity=SETTLED)
    parent_depth: int = setting("layers of the trained parent (the paper's 7B has 29)", at_least=1, identity=SETTLED)
    parent_width: int | str = setting("width of the trained parent", dial=True, at_least=2, identity=SETTLED)
    parent_ffn_width: int | str = setting("FFN width of the trained parent", dial=True, at_least=1, identity=SETTLED)
    parent_vocab_size: int | str | None = setting(
        "entries of the trained parent's vocabulary (the paper's has 100,883), made as the child's; null is the child's",
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
        "peak learning rate of the trained parent at the base batch; null is the dial's for its shape, whatever the child's",
        above=0,
        identity=SETTLED,
    )
    train: str = setting(
        "what the run trains: the child, or the parent that the child would be cut out of",
        choices=("child", "parent"),
        identity=SETTLED,
    )
    criterion: str = setting("how neurons are chosen", choices=("l1", "l2", "taylor", "learned", "random"), active=_inherits)
    layers: str = setting(
        "how layers are chosen: a rule, or the parent's layers as '0-3,7,9-11'",
        choices=("middle", "even", "importance"),
        free=True,
        active=_inherits,
    )
    keep_first: int = setting("first layers that are always kept", at_least=0, active=_inherits)
    keep_last: int = setting("last layers that are always kept", at_least=0, active=_inherits)
    calibration_tokens: int = setting(
        "training text that the criteria taylor and learned and layers=importance look at, tokens",
        at_least=1,
        active=_calibrates,
    )
    masks: MasksConfig = field(default_factory=lambda: MasksConfig())

    @property
    def sigma(self) -> float:
        """``std``, which ``Settled.init`` has filled in."""
        if self.std is None:
            raise ValueError("init.std=null: only a settled run knows the dial's sigma")
        return self.std


@dataclass
class MasksConfig:
    """criterion=learned: hard-concrete gates trained with Lagrange multipliers (Sheared-LLaMA, arXiv 2310.06694)"""

    learning_rate: float = setting("learning rate of the gates and of the multipliers", above=0, active=_learns_masks)
    weight_learning_rate: float = setting(
        "learning rate of the weights, trained beside the gates; 0 freezes them", at_least=0, active=_learns_masks
    )
    warmup: float = setting(
        "share of the steps in which the target goes from the parent's shape to the child's",
        at_least=0,
        at_most=1,
        active=_learns_masks,
    )
    batch_tokens: int = setting(
        "tokens in a step, whole sequences and at least one", at_least=1, at_most=MAX_TOKENS, active=_learns_masks
    )
    steps: int = setting("steps; Sheared-LLaMA takes 3,200", at_least=1, at_most=10**9, active=_learns_masks)
    temperature: float = setting("beta of the hard-concrete distribution", above=0, active=_learns_masks)


@dataclass
class OptimizerConfig:
    """the optimizer, its schedule, and the rule from batch to learning rate (Section 4.1)"""

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
        "decoupled weight decay of the paper (Table 13), multiplied by the dial below its scale (optimizer.scaling.rate_sum)",
        at_least=0,
        identity=SETTLED,
    )
    decay: str = setting("what decays: matrices only, or all parameters", choices=("matrices", "all"))
    clip: float = setting("gradients are clipped to this norm", above=0)
    schedule: str = setting(
        "course of the learning rate after warm-up; 'own' is the class in optimizer.own_schedule",
        choices=("cosine", "linear", "constant", "wsd", "own"),
    )
    own_schedule: dict[str, Any] = field(
        default_factory=dict,
        metadata=several("schedule=own: {_target_: module.Class, …}", VALUE, lambda c: c.optimizer.schedule == "own"),
    )
    warmup: float = setting("warm-up: a share of the steps if below 1, otherwise tokens", at_least=0)
    final: float = setting(
        "last learning rate over the peak",
        at_least=0,
        at_most=1,
        active=lambda config: config.optimizer.schedule != "constant" or config.train.anneal_from is not None,
    )
    decay_share: float = setting(
        "schedule=wsd, and train.anneal_from: share of the steps in the decay at the end",
        above=0,
        at_most=1,
        active=lambda config: config.optimizer.schedule == "wsd",
    )


@dataclass
class ScalingConfig:
    """lr = (batch / base_batch) ** exponent * base_lr * multiplier"""

    base_lr: float | None = setting(
        "peak learning rate at the base batch; null is the dial's for the scale, the shape and the budget (docs/dial.md)",
        above=0,
        identity=SETTLED,
    )
    base_batch_tokens: int = setting("the base batch, tokens", at_least=1, at_most=MAX_TOKENS, identity=SETTLED)
    exponent: float = setting(
        "the rule's r; the paper advises 0.5 above the critical batch", at_least=-4, at_most=4, identity=SETTLED
    )
    multiplier: float = setting(
        "of base_lr, for an optimizer that takes smaller or larger steps than AdamW", above=0, identity=SETTLED
    )
    rate_sum: float | None = setting(
        "below the paper's scale weight_decay is multiplied by this over the sum of the dial's peak learning rate over the "
        "steps, so that the sum of rate x decay is the paper's; null takes weight_decay as it is",
        above=0,
        identity=SETTLED,
    )


@dataclass
class RoundsConfig:
    """passes over the data (Section 4.2)"""

    count: int = setting("rounds of training", at_least=1, at_most=16, identity=SETTLED)
    sampling_rate: float = setting(
        "share of the first round's batches that a later round trains on; 0 is one round",
        at_least=0,
        at_most=1,
        identity=SETTLED,
    )
    rule: str = setting(
        "how they are drawn: by their loss, evenly, the highest losses, or none: every batch again, whatever the rate",
        choices=("loss", "uniform", "top", "none"),
        identity=SETTLED,
    )
    temperature: float = setting("rule=loss: p = softmax(loss / temperature), losses in nats", above=0, identity=SETTLED)
    parts: int = setting(
        "equal parts of the first round in which batches are drawn, and for which forgetting is reported",
        at_least=1,
        identity=SETTLED,
    )
    schedule: str = setting(
        "later rounds: 'rewarm' starts schedule and optimizer anew, 'continue' has one schedule over all rounds, "
        "'constant' continues at the first round's last learning rate",
        choices=("rewarm", "continue", "constant"),
        identity=SETTLED,
    )
    forgetting: bool = setting("measure the final model's loss of every training batch (Figure 9)", identity=NONE)


@dataclass
class TrainConfig:
    """the budget and how it is spent: tokens, batch, precision, checkpoints"""

    tokens: int | None = setting("budget; null takes tokens_per_parameter", at_least=1, at_most=MAX_TOKENS, identity=SETTLED)
    tokens_per_parameter: float | None = setting(
        "budget over the parameters of the paper's baseline at this scale, the same for every arm of a grid",
        above=0,
        identity=SETTLED,
    )
    share: float = setting(
        "the run trains on this share of the budget; a parent on the whole (Table 10: 0.05)",
        above=0,
        at_most=100,
        identity=SETTLED,
    )
    anneal_from: float | None = setting(
        "branch off, at this share of the budget (above 1: at so many tokens), from the run without this setting, and decay "
        "linearly over optimizer.decay_share of the branch's steps; several branches share one run, so that it gives a curve "
        "of budgets",
        above=0,
        identity=SETTLED,
    )
    context_length: int = setting("tokens in a sequence", at_least=2)
    batch_tokens: int = setting(
        "tokens in an optimizer step; a multiple of context_length", at_least=1, at_most=MAX_TOKENS, identity=SETTLED
    )
    batch_multiple: int = setting(
        "batch_tokens is this many times the scale's, unless it is set itself", at_least=1, at_most=2**20, identity=SETTLED
    )
    micro_batch: int | str = setting(
        "sequences in one forward pass; 'auto' takes the largest within 32", choices=("auto",), at_least=1, identity=SETTLED
    )
    precision: str = setting(
        "arithmetic of the matrix products; 'auto' is bf16 where the processor has instructions for it and the model is 32 "
        "wide or more, and fp32 elsewhere: name it where machines of several kinds share a grid. 'bf16-true' also keeps "
        "weights, gradients and the optimizer's state in bf16: half the memory, and small updates are lost to rounding",
        choices=("auto", "fp32", "bf16", "bf16-true"),
        identity=SETTLED,
    )
    recompute: bool = setting(
        "keep only the input of each layer and recompute the rest in the backward pass (activation checkpointing): far "
        "less memory, a third more arithmetic, the same numbers",
        identity=NONE,
    )
    device: str = setting("where to train", choices=("auto", "cpu", "cuda", "mps"), identity=NONE)
    devices: int = setting("GPUs, or CPU processes, of one machine that share a run", at_least=1, at_most=64, identity=NONE)
    strategy: str = setting(
        "devices above 1: each holds all weights (Lightning's DDP), or a part of them (its FSDP2)",
        choices=("ddp", "fsdp"),
        identity=NONE,
    )
    stack: int | str = setting(
        "runs of one shape that train together on one device, each with the same numbers as alone; 'auto' is as many as "
        "the memory of a GPU allows, and 1 on a processor",
        choices=("auto",),
        at_least=1,
        identity=NONE,
    )
    compile: bool | str = setting(
        "compile the layers; 'auto' does where a C++ compiler is found and the run is long enough to win by it",
        choices=("auto",),
        identity=NONE,
    )
    threads: int | str = setting("CPU threads; 'auto' is one per core", choices=("auto",), at_least=1, identity=NONE)
    checkpoint_minutes: float = setting("minutes between checkpoints", above=0, identity=NONE)
    log_every: int = setting("optimizer steps between two points of the curve", at_least=1, identity=NONE)
    on_nonfinite: str = setting(
        "what a loss or gradient that is not finite does: stop before the update, or skip it", choices=("stop", "skip")
    )
    spike_deviations: float = setting(
        "a loss this many standard deviations over the recent mean is logged as a spike, with its batch",
        above=0,
        identity=NONE,
    )
    keep_model: bool = setting("keep the final weights", identity=NONE)
    keep_checkpoints: list[float] = field(
        default_factory=list,
        metadata=several(
            "keep the model and the state of the optimizer at these shares of the budget (above 1: at so many tokens), as in "
            "[0.25,0.5]"
        ),
    )


@dataclass
class DecodeConfig:
    """speed of generation with random weights, by the paper's protocol (Tables 2, 3, 12)"""

    measure: bool = setting("measure it, once for each shape on each machine", identity=NONE)
    batch: int = setting("sequences", at_least=1, identity=NONE)
    prefix: int = setting("tokens of the prompt", at_least=1, identity=NONE)
    new_tokens: int = setting("tokens to add", at_least=1, identity=NONE)
    repeats: int = setting("measurements, of which the fastest counts", at_least=1, identity=NONE)
    precision: str = setting(
        "of weights and arithmetic; 'auto' is the paper's fp16 on a GPU and fp32 on a CPU",
        choices=("auto", "fp32", "bf16", "fp16"),
        identity=NONE,
    )
    llama_cpp: list[str] = field(
        default_factory=list,
        metadata=several(
            "measure llama.cpp on this processor with these weights, and our decoder beside it: speed and memory",
            among=("f32", "f16", "q8_0", "q4_0"),
        ),
    )


@dataclass
class EvaluateConfig:
    """what is measured at the end: bits per byte and a four-way cloze, per language"""

    max_bytes: int | str = setting(
        "text of each split and language that is scored, bytes; 'auto' is 25,000 to 200,000 by the training tokens, the same "
        "for every arm of a grid",
        choices=("auto",),
        at_least=1,
        identity=NONE,
    )
    cloze_questions: int | str = setting(
        "cloze questions per language; 0 for none; 'auto' is 50 to 200, as 'evaluate.max_bytes'",
        choices=("auto",),
        at_least=0,
        identity=NONE,
    )
    cloze_context: int = setting("characters before the gap", at_least=1, identity=NONE)
    cloze_continuation: int = setting("characters of each of the four continuations", at_least=1, identity=NONE)
    layer_skip: int = setting(
        "measure the model, a finished one too, with 1 to this many adjacent layers skipped at each position (Figure 5)",
        at_least=0,
        identity=NONE,
    )
    effective_dimension: float = setting(
        "measure how many principal components of each layer's features hold this share of their variance (PanGu-π: 0.8)",
        at_least=0,
        below=1,
        identity=NONE,
    )
    quantized: list[str] = field(
        default_factory=list,
        metadata=several(
            "measure bits per byte of the model as exported to GGUF with these weights", among=("f16", "q8_0", "q4_0")
        ),
    )
    tasks: list[str] = field(
        default_factory=list,
        metadata=several("mode=evaluate: tasks of EleutherAI's harness, and the lists 'paper' and 'ablations'"),
    )
    task_folder: str | None = setting(
        "mode=evaluate: a folder of your own tasks in the harness's YAML format", free=True, identity=NONE
    )
    shots: int | None = setting(
        "mode=evaluate: examples before each question; null is the task's own number", at_least=0, identity=NONE
    )
    limit: int | None = setting("mode=evaluate: most questions of a task, for a trial; null for all", at_least=1, identity=NONE)
    own: list[dict[str, Any]] = field(
        default_factory=list, metadata=several("measures of your own, as in [{_target_: module.Class, …}]")
    )
    every: float | None = setting(
        "also measure along the run, each time after this share of the budget (above 1: after so many tokens)",
        above=0,
        identity=NONE,
    )
    every_measures: list[str] = field(
        default_factory=list,
        metadata=several("evaluate.every: what is measured, of what is requested for the end (cloze, for one, can be added)"),
    )
    every_bytes: int | str = setting(
        "evaluate.every: text of each split and language that is scored each time, bytes; 'auto' is evaluate.max_bytes over "
        "the number of times, at least 5,000",
        choices=("auto",),
        at_least=1,
        identity=NONE,
    )
    decode: DecodeConfig = field(default_factory=DecodeConfig)


@dataclass
class TrackingConfig:
    """MLflow on sqlite beside the runs or on a server, and other trackers by Lightning's loggers"""

    kind: str = setting("whether runs are kept in MLflow", choices=("mlflow", "none"), identity=NONE)
    loggers: list[str] = field(
        default_factory=list, metadata=several("other trackers, written beside: tensorboard, wandb, csv")
    )
    uri: str | None = setting("tracking address; null is an sqlite file in runs_dir", free=True, identity=NONE)
    artifacts: str | None = setting(
        "where artifacts go; null is a folder in runs_dir (or the server's choice)", free=True, identity=NONE
    )
    experiment: str = setting("MLflow experiment", free=True, identity=NONE)
    flush_seconds: float = setting("runs in training are synced this often", above=0, identity=NONE)


@dataclass
class ExperimentConfig:
    """which table or figure of the paper a grid belongs to; set by the files in experiments/"""

    name: str = setting("name of the table", free=True, identity=NONE)
    title: str = setting("what the table shows", free=True, identity=NONE)
    paper: str | None = setting("the paper's own numbers: a CSV in tinylm_ablate/report/paper", free=True, identity=NONE)
    axis: list[str] = field(default_factory=list, metadata=several("settings that distinguish the rows"))
    paper_axis: list[str] = field(default_factory=list, metadata=several("the columns of the paper's CSV that hold them"))
    note: str | None = setting("what a reader must know beside the table", free=True, identity=NONE)
    correlate: list[str] = field(
        default_factory=list, metadata=several("settings or sizes whose rank correlation with quality is reported (Figure 4)")
    )
    figures: list[str] = field(default_factory=list, metadata=several("figures that the report draws beside the table"))


@dataclass
class PlanConfig:
    """how mode=plan prints"""

    format: str = setting("a table for people, or one JSON object per line", choices=("table", "json"), identity=NONE)
    read_text: bool = setting(
        "read and check your own text, as the run would, if that has not been done; the table reports what is in it",
        identity=NONE,
    )


@dataclass
class GenerateConfig:
    """how mode=generate draws text"""

    new_tokens: int = setting("tokens to draw", at_least=1, identity=NONE)
    temperature: float = setting("0 takes the likeliest token", at_least=0, identity=NONE)
    top_k: int | None = setting("draw among the k likeliest; null for all", at_least=1, identity=NONE)


@dataclass
class ExportConfig:
    """how mode=export writes a model for other programs"""

    format: str = setting(
        "a Hugging Face folder, or a GGUF file for llama.cpp and what stands on it",
        choices=("huggingface", "gguf"),
        identity=NONE,
    )
    weights: str = setting(
        "format=gguf: how matrices are stored; q8_0 and q4_0 are blocks of 32 entries in 8 or 4 bits",
        choices=("f32", "f16", "q8_0", "q4_0"),
        identity=NONE,
    )


@dataclass
class GridConfig:
    """how a multirun walks its cells"""

    zip: list[list[str]] = field(
        default_factory=list, metadata=several("axes that are zipped, value by value, as in [[arch.depth,arch.width]]")
    )
    exclude: list[str] = field(
        default_factory=list, metadata=several("cells that are left out, as in ['arch.depth=40 init=gpt2']")
    )
    arms: dict[str, list[str]] = field(
        default_factory=dict, metadata=several("named arms, each a list of overrides; an axis of the grid")
    )
    experiments: list[str] = field(
        default_factory=list, metadata=several("experiments that make one grid together, as in experiments/paper.yaml")
    )
    tune: bool = setting("tune each arm's learning rate, or what tune_keys names, before arms are compared", identity=NONE)
    tune_keys: list[str] = field(default_factory=list, metadata=several("what grid.tune tunes: keys with a real number"))
    tune_seed: int = setting("the seed that tuning uses, and no comparison", at_least=0, at_most=2**31 - 1, identity=NONE)
    on_failure: str = setting("what a failed cell does to the others", choices=("continue", "stop"), identity=NONE)
    workers: int | str = setting(
        "runs at once on this machine; 'auto' divides its cores by a measurement", choices=("auto",), at_least=1,
        at_most=1024, identity=NONE,
    )  # fmt: skip
    retries: int = setting("how often a failed cell is tried again", at_least=0, at_most=100, identity=NONE)
    require_clean: bool = setting("refuse to run from a git tree with uncommitted changes", identity=NONE)
    lease_seconds: float = setting(
        "a worker that has given no sign of life for this long loses its task to another", above=0, identity=NONE
    )
    unclaim: str | None = setting(
        "identity of a run whose lease is taken from its worker before the grid starts", free=True, identity=NONE
    )
    on_end: str | None = setting("command that a shell runs when the grid has ended", free=True, identity=NONE)
    work: str | None = setting(
        "file with the tasks of a grid; set for the workers that a grid starts", free=True, identity=NONE
    )


@dataclass
class SearchConfig:
    """hydra/sweeper=optuna: a search over ranges in place of a grid of values"""

    name: str | None = setting("name of the study; null makes one from what is searched", free=True, identity=NONE)
    trials: int = setting(
        "trials in all, over all sessions of the study; those off the budget are free", at_least=1, identity=NONE
    )
    objectives: list[str] = field(default_factory=list, metadata=several("metrics of a run, one or several (docs/search.md)"))
    parameters: list[int] = field(
        default_factory=list, metadata=several("[low,high]: shapes with fewer or more parameters are not trained")
    )
    sampler: str = setting("how trials are proposed", choices=("tpe", "random"), identity=NONE)
    pruner: str = setting("how weak trials are pruned while they train", choices=("none", "median", "hyperband"), identity=NONE)
    seed: int = setting("seed of the sampler", at_least=0, at_most=2**31 - 1, identity=NONE)


@dataclass
class Config:
    """One run, whole."""

    mode: str = setting(
        "what to do", choices=("run", "plan", "status", "evaluate", "generate", "export", "coverage", "sync"), identity=NONE
    )
    seed: int = setting("seed of initial weights and data order", at_least=0, at_most=2**31 - 1)
    seeds: int | str | None = setting(
        "in a multirun: seeds 0 to seeds-1 as an axis of the grid; 'sequential' adds seeds where a comparison is open",
        choices=("sequential",),
        at_least=1,
        at_most=10_000,
        identity=NONE,
    )
    runs_dir: str = setting("folder of the runs", free=True, identity=NONE)
    cache_dir: str = setting("folder of text, tokenizers and token shards that runs share", free=True, identity=NONE)
    results_dir: str = setting("mode=coverage: folder of tables and figures", free=True, identity=NONE)
    model: str | None = setting(
        "mode=evaluate, generate or export: a run, a Hugging Face folder, OWNER/NAME of the hub, or (not for export) a GGUF "
        "file; null is the run that the config describes",
        free=True,
        identity=NONE,
    )
    prompt: str = setting("mode=generate: the text to continue", free=True, identity=NONE)
    folder: str | None = setting(
        "mode=export: the folder, or with export.format=gguf the file, that is written", free=True, identity=NONE
    )
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


#: The groups that a user chooses from, in the order of the pipeline.
GROUPS: dict[str, type] = {
    "scale": ScaleConfig, "data": DataConfig, "tokenizer": TokenizerConfig, "arch": ArchConfig, "init": InitConfig,
    "optimizer": OptimizerConfig, "rounds": RoundsConfig, "train": TrainConfig, "evaluate": EvaluateConfig,
    "tracking": TrackingConfig,
}  # fmt: skip


#: Keys of groups whose value is a dictionary with keys of the user's choice; Hydra closes all others.
_OPEN = {
    "data": ("sources", "weights", "own"), "optimizer": ("own", "own_schedule"), "init": ("own",),
    "arch": ("own_attention", "own_ffn"),
}  # fmt: skip


def register() -> None:
    """Give Hydra the schema, ``schema`` for the root and ``<group>/schema`` for each group, and the resolver ``times``."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("times", operator.mul, replace=True)
    store = ConfigStore.instance()
    if "schema.yaml" in store.repo:
        return
    root = OmegaConf.structured(Config)
    OmegaConf.set_struct(root.grid.arms, False)
    store.store(name="schema", node=root)
    for group, kind in GROUPS.items():
        node = OmegaConf.structured(kind)
        for name in _OPEN.get(group, ()):
            OmegaConf.set_struct(node[name], False)
        store.store(group=group, name="schema", node=node)


def walk(config: Config) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every value of a config with its dotted key and the metadata of its field, depth first."""
    keys, rules, values = _flat()
    return zip(keys, values(config), rules, strict=True)


@functools.cache
def _flat() -> tuple[list[str], list[dict[str, Any]], Callable[[Config], tuple[Any, ...]]]:
    """Keys, their metadata, and a function for all values: a grid walks ten thousand configs."""

    def entries(group: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        for item in dataclasses.fields(group):
            value = getattr(group, item.name)
            if dataclasses.is_dataclass(value):
                yield from entries(value, f"{prefix}{item.name}.")
            else:
                yield f"{prefix}{item.name}", dict(item.metadata) | {"type": item.type}

    found = dict(entries(Config()))
    return list(found), list(found.values()), operator.attrgetter(*found)


def nullable(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of values for which null means something."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from nullable(value, f"{prefix}{item.name}.")
        elif str(item.type).endswith("| None"):
            yield f"{prefix}{item.name}"


def allowed(rule: dict[str, Any]) -> str:
    """Description of the values that a field takes: the end of every message and a column of the reference."""
    kinds = str(rule["type"]).split(" | ")
    parts = [*(("true", "false") if "bool" in kinds else ()), *rule.get("choices", ())]
    if kinds[0].startswith("list"):
        parts.append(f"a list of {', '.join(rule['among'])}" if rule.get("among") else "a list, as in [a,b]")
    if kinds[0].startswith("dict"):
        parts.append("names with values, as in {a: 1}")
    bounds = [
        f"{word} {rule[name]:,}" if isinstance(rule[name], int) else f"{word} {rule[name]:g}"
        for name, word in (("at_least", "at least"), ("above", "above"), ("at_most", "at most"), ("below", "below"))
        if rule.get(name) is not None
    ]
    if "int" in kinds or "float" in kinds:
        parts.append(" ".join(["a number" if "float" in kinds else "a whole number", " and ".join(bounds)]).strip())
    if rule.get("dial"):
        parts.append("the paper's size as 'N/s'")
    if "str" in kinds and (rule.get("free") or not parts):
        parts.append("text")
    if "None" in kinds:
        parts.append("null")
    return ", ".join(parts)


def check_values(config: Config) -> list[str]:
    """The mistakes that are visible in one value alone, as "key=value: allowed: …"."""
    mistakes = []
    for key, value, rule in walk(config):
        seen = (key, type(value), None if isinstance(value, list | dict) else value)
        if value is None or seen in _fitting:
            continue
        if rule and not fits(value, rule):
            mistakes.append(f"{key}={value!s}: allowed: {allowed(rule)}")
        elif not isinstance(value, list | dict):
            _fitting.add(seen)
    return mistakes


#: Values that were found to fit: the cells of a grid have most of theirs in common.
_fitting: set[tuple[str, type, Any]] = set()


def fits(value: Any, rule: dict[str, Any]) -> bool:
    """Return whether a value of the right type is among the choices and within the bounds of its field."""
    if isinstance(value, list):
        return not rule.get("among") or set(value) <= set(rule["among"])
    if isinstance(value, bool):
        return True
    if isinstance(value, str):
        has_list = bool(rule["choices"]) or rule["dial"] or rule["at_least"] is not None or rule["above"] is not None
        return value in rule["choices"] or rule["free"] or (rule["dial"] and is_dial(value)) or not has_list
    if isinstance(value, int | float):
        if not math.isfinite(value):
            return False
        return not (
            (rule["at_least"] is not None and value < rule["at_least"])
            or (rule["above"] is not None and value <= rule["above"])
            or (rule["at_most"] is not None and value > rule["at_most"])
            or (rule["below"] is not None and value >= rule["below"])
        )
    return True

"""The sizes of a decoder: from a configuration to numbers, and the exact counts that follow from them.

Nothing here imports torch, so that a grid is checked and planned in an instant. The count of parameters is the sum of all
entries of all weights, norms included: 951,983,872 for the paper's baseline. (Leaving the 73,472 entries of its norms out, as
the arithmetic behind Table 1 may do, changes no printed digit.)
"""

from __future__ import annotations

import bisect
import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tinylm_ablate.arch import rope
from tinylm_ablate.arch.rope import NONE
from tinylm_ablate.config import ArchConfig, ScaleConfig
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.extension import TARGET, normal, part
from tinylm_ablate.files import canonical_json
from tinylm_ablate.scale import at_scale

#: The paper's head size: "N/s" of a head size keeps its ratio to this one.
_PAPER_HEAD_DIM = 128

#: Channels per head for which attention on a CPU has a kernel of its own: those of the scale s32.
KERNEL_CHANNELS = 8

#: Settings that change the function of a block and not its size: "auto" is the parent's, or else the default of ``Shape``.
_FUNCTION = ("tied", "rope_theta", "rope_scaling", "norm_eps", "qkv_bias", "qk_norm")

#: Blocks of the user's own by their field of ``Shape``, and what their classes must have.
OWN_BLOCKS = {"own_attention": ("matrices", "attend"), "own_ffn": ("matrices", "feed")}

#: "heads/N": one key-value head for N heads.
_GROUPS = re.compile(r"heads\s*/\s*([1-9]\d*)")

#: Widths are searched up to this many steps; far more than any memory holds.
_MAX_STEPS = 2**24


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of one decoder.

    Attributes:
        depth: Layers.
        width: Channels of the residual stream.
        ffn_width: Neurons of a feed-forward block.
        heads, kv_heads: Query heads, and the key-value heads that they share (grouped-query attention).
        head_dim: Channels of a head; ``heads * head_dim`` may differ from the width (Qwen3-0.6B: 16 heads of 128, width 1024).
        vocab_size: Entries of the vocabulary.
        tied: Whether the embedding's matrix is the head's too.
        rope_theta: Base of the rotary embedding.
        rope_scaling: Its scaling for long texts, as ``arch.rope`` writes it.
        norm_eps: Epsilon of RMSNorm.
        activations: Terms n of PanGu-pi's series informed activation; 1 is plain SwiGLU.
        shortcuts: Augmented shortcuts T in parallel with attention; 0 is none.
        shortcut_ratio: r: the inner width of a shortcut is width/r.
        qkv_bias: Whether queries, keys and values have biases (Qwen2, arXiv 2407.10671).
        qk_norm: Whether each head's queries and keys are normalized before they are turned, with one weight for all query heads
            of a layer and one for all its key heads (Qwen3, arXiv 2505.09388).
        own_attention, own_ffn: A user-defined block that replaces attention or FFN: class and settings as JSON; empty
            is none.
    """

    depth: int
    width: int
    ffn_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool = False
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    activations: int = 1
    shortcuts: int = 0
    shortcut_ratio: int = 32
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_scaling: str = NONE
    own_attention: str = ""
    own_ffn: str = ""

    def __post_init__(self) -> None:
        sizes = (self.depth, self.width, self.ffn_width, self.heads, self.kv_heads, self.head_dim, self.vocab_size)
        if min(sizes) < 1 or self.activations < 1 or self.shortcuts < 0 or self.shortcut_ratio < 1:
            raise ValueError(f"a size is below its minimum: {self}")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError(f"key-value heads must divide the heads, and a head size is even: {self}")
        if self.qkv_bias and self.qk_norm:
            raise ValueError(f"biases and norms of queries and keys at once, which no other program reads: {self}")
        rope.parse(self.rope_scaling)

    @property
    def shortcut_width(self) -> int:
        """Inner width of one augmented shortcut: width/r, halves rounded up, at least one."""
        return max(1, (2 * self.width + self.shortcut_ratio) // (2 * self.shortcut_ratio))

    @property
    def is_llama(self) -> bool:
        """Whether the blocks are Llama's or Qwen's, so that the shape can be written for other programs."""
        return self.activations == 1 and self.shortcuts == 0 and not self.is_own

    @property
    def is_own(self) -> bool:
        """Whether it has a block of the user's own."""
        return bool(self.own_attention or self.own_ffn)


def plain(shape: Shape) -> dict[str, Any]:
    """Return the sizes as plain data for fingerprints.

    Options added later are omitted while they are inactive, so that the fingerprint of a shape stays the same.
    """
    later = {"qkv_bias": False, "qk_norm": False, "rope_scaling": NONE, "own_attention": "", "own_ffn": ""}
    names = (item.name for item in fields(shape))
    return {name: value for name in names if (value := getattr(shape, name)) != later.get(name, ...)}


def own_block(shape: Shape, name: str) -> Any:
    """The block of the user's own in a field of ``OWN_BLOCKS``, or None.

    Raises:
        ConfigError: Its class cannot be imported, or its settings do not fit it.
    """
    text = getattr(shape, name)
    return part(json.loads(text), f"arch.{name}", OWN_BLOCKS[name]) if text else None


def own_matrices(shape: Shape, name: str) -> dict[str, tuple[int, int]]:
    """The matrices of such a block in one layer; empty where there is none.

    Raises:
        ConfigError: The class names no matrices of whole sizes.
    """
    block = own_block(shape, name)
    if block is None:
        return {}
    where = f"arch.{name}: {TARGET}={json.loads(getattr(shape, name))[TARGET]}: matrices"
    try:
        found = {str(key): (rows, columns) for key, (rows, columns) in block.matrices(shape).items()}
    except Exception as error:  # whatever the user's code raises
        raise ConfigError([f"{where}: {type(error).__name__}: {error}"]) from error
    taken = set() if name == "own_attention" else set(own_matrices(shape, "own_attention") or ("q", "k", "v", "out"))
    if name == "own_attention" and not shape.own_ffn:
        taken = {"gate", "up", "down"}
    for key, size in found.items():
        if not key.isidentifier() or key in taken or not all(type(n) is int and n > 0 for n in size):
            raise ConfigError([f"{where}: {key}={size}: allowed: a name that no other matrix of the layer has, and two sizes"])
    return found


def matrices(shape: Shape) -> dict[str, dict[str, tuple[int, int]]]:
    """The matrices of one layer: name in the decoder -> the matrices stacked in it, in order, each with (rows, columns).

    The decoder multiplies by q, k and v at once, and by gate and up at once; whatever speaks of single matrices (initial
    weights, Hugging Face's names, the tables of Fig. 11) slices them by this table.
    """
    inner = shape.heads * shape.head_dim
    kv = shape.kv_heads * shape.head_dim
    table = {f"attention.matrix.{name}": {name: size} for name, size in own_matrices(shape, "own_attention").items()}
    if not shape.own_attention:
        table["attention.qkv"] = {"q": (inner, shape.width), "k": (kv, shape.width), "v": (kv, shape.width)}
        table["attention.out"] = {"out": (shape.width, inner)}
    table |= {f"ffn.matrix.{name}": {name: size} for name, size in own_matrices(shape, "own_ffn").items()}
    if not shape.own_ffn:
        table["ffn.gate_up"] = {"gate": (shape.ffn_width, shape.width), "up": (shape.ffn_width, shape.width)}
        table["ffn.down"] = {"down": (shape.width, shape.ffn_width)}
    if shape.shortcuts:
        # The sum of T bottlenecks is one bottleneck of T times the width: GELU acts on each channel alone.
        bottleneck = shape.shortcuts * shape.shortcut_width
        table["shortcuts.down"] = {"shortcut_down": (bottleneck, shape.width)}
        table["shortcuts.up"] = {"shortcut_up": (shape.width, bottleneck)}
    return table


def parameters(shape: Shape) -> dict[str, int]:
    """Parameters by part, and their ``total``. With ``tied``, the shared matrix counts once, as ``embedding``."""
    size = layer_entries(shape)
    biases = (shape.heads + 2 * shape.kv_heads) * shape.head_dim if shape.qkv_bias else 0
    head_norms = 2 * shape.head_dim if shape.qk_norm else 0
    counts = {
        "embedding": shape.vocab_size * shape.width,
        "head": 0 if shape.tied else shape.vocab_size * shape.width,
        "attention": shape.depth * (size["attention"] + biases),
        "ffn": shape.depth * size["ffn"],
        "shortcuts": shape.depth * size["shortcuts"],
        "activations": shape.depth * 2 * shape.activations * shape.ffn_width if shape.activations > 1 else 0,
        "norms": (2 * shape.depth + 1) * shape.width + shape.depth * head_norms,
    }
    return {**counts, "total": sum(counts.values())}


@functools.lru_cache(maxsize=16384)  # the cells of a grid have few shapes, and each width is found by trying 26
def layer_entries(shape: Shape) -> Mapping[str, int]:
    """Entries of the matrices of one layer: of attention, FFN and shortcuts."""
    found = {"attention": 0, "ffn": 0, "shortcuts": 0}
    for name, parts in matrices(shape).items():
        found[name.partition(".")[0]] += sum(rows * columns for rows, columns in parts.values())
    return found


def embedding_head_share(shape: Shape) -> float:
    """Share of embedding and head in all parameters, percent: the PEHL of Table 1."""
    counts = parameters(shape)
    return 100 * (counts["embedding"] + counts["head"]) / counts["total"]


def flops_per_token(shape: Shape, context_length: int) -> dict[str, int]:
    """Floating-point operations of the matrix products for one token, two for each multiply-add, exactly.

    Attention's scores and weighted values are counted causally: the token at position p meets p + 1 keys, so the mean over a
    sequence of T is (T + 1) / 2. Embedding look-up, biases, norms, activations, softmax and the rotary embedding are not
    counted.

    Args:
        shape: The decoder.
        context_length: Tokens T of a sequence.

    Returns:
        By part; their sum as ``forward``; and ``training``, three times that, since the backward pass multiplies twice for each
        product of the forward pass. Recomputation by activation checkpointing is not counted.
    """
    layer = layer_entries(shape)
    scores = 2 * shape.heads * shape.head_dim * (context_length + 1)
    own = {name: getattr(own_block(shape, name), "flops", None) for name in OWN_BLOCKS}
    counts = {
        "projections": 2 * shape.depth * layer["attention"],
        "scores": shape.depth * (scores if (flops := own["own_attention"]) is None else int(flops(shape, context_length))),
        "ffn": 2 * shape.depth * layer["ffn"]
        + shape.depth * (0 if (flops := own["own_ffn"]) is None else int(flops(shape, context_length))),
        "shortcuts": 2 * shape.depth * layer["shortcuts"],
        "head": 2 * shape.vocab_size * shape.width,
    }
    forward = sum(counts.values())
    return {**counts, "forward": forward, "training": 3 * forward}


def resolve(arch: ArchConfig, scale: ScaleConfig, vocab_size: int, parent: Shape | None = None) -> Shape:
    """The shape that a configuration describes.

    Args:
        arch: The group ``arch``; every "auto" and "N/s" in it is worked out here.
        scale: The dial, and the paper's baseline that "auto" budgets refer to.
        vocab_size: Entries of the vocabulary, as a number.
        parent: The shape of the named model that weights are inherited from, if any. "auto" then takes from it whatever changes
            the function of a block, so that a full-size child is the same function.

    Raises:
        ConfigError: All that is wrong with it, one line a mistake.
    """
    if arch.own_attention or arch.own_ffn:  # whose classes say what they refuse
        return _Resolver(arch, scale, vocab_size, parent).shape()
    key = repr((arch, scale, vocab_size, parent))
    if key not in _resolved:  # the cells of a grid have few shapes, and each is found by trying widths
        if len(_resolved) >= _MOST_RESOLVED:
            _resolved.clear()
        _resolved[key] = _Resolver(arch, scale, vocab_size, parent).shape()
    return _resolved[key]


#: Shapes by what they were resolved from, and how many are kept.
_resolved: dict[str, Shape] = {}
_MOST_RESOLVED = 4096


def baseline_parameters(scale: ScaleConfig) -> int:
    """Parameters of the paper's common baseline at a scale (Tables 1 to 4), the budget of every arm of a grid.

    A formula rather than a shape, because at some scales 1792/s is no whole number of heads, and nobody builds that one.
    """
    width, ffn_width, vocab = (at_scale(size, scale.factor) for size in (scale.width, scale.ffn_width, scale.vocab_size))
    layer = 4 * width * width + 3 * width * ffn_width + 2 * width
    return 2 * vocab * width + scale.depth * layer + width


class _Resolver:
    """Works out one configuration, and collects its mistakes on the way."""

    def __init__(self, arch: ArchConfig, scale: ScaleConfig, vocab_size: int, parent: Shape | None) -> None:
        self.arch, self.scale, self.vocab_size, self.parent = arch, scale, vocab_size, parent
        self.mistakes: list[str] = []

    def mistake(self, key: str, value: object, allowed: str) -> None:
        self.mistakes.append(f"{key}={value}: {allowed}")

    def size(self, key: str, value: int | str) -> int | None:
        try:
            number = at_scale(value, self.scale.factor)
        except ValueError:
            self.mistake(key, value, "allowed: auto where it is offered, a whole number, or the paper's size as 'N/s'")
            return None
        if number < 1:
            self.mistake(key, value, "allowed: at least 1")
            return None
        return number

    def shape(self) -> Shape:
        arch = self.arch
        head_dim = self.head_dim()
        multiple = self.size("arch.ffn_multiple", arch.ffn_multiple)
        ffn_width = None if arch.ffn_width == "auto" else self.size("arch.ffn_width", arch.ffn_width)
        kv_heads, group = self.kv_heads()
        width = None if arch.width == "auto" else self.size("arch.width", arch.width)
        function = self.function() | self.own()
        if function["qkv_bias"] and function["qk_norm"]:
            self.mistake("arch.qk_norm", "true", "allowed with arch.qkv_bias=false; together no other program reads them")
        if self.vocab_size < 1:
            self.mistake("tokenizer.vocab_size", self.vocab_size, "allowed: at least 1")
        if arch.depth < 1:
            self.mistake("arch.depth", arch.depth, "allowed: at least 1")
        if self.mistakes or head_dim is None or multiple is None:
            raise ConfigError(self.mistakes)

        channels, heads_there = self.channels_of_heads(head_dim)

        def of_width(width: int) -> Shape:
            """The shape of a width that has whole heads."""
            heads = width // channels * heads_there if arch.heads == "auto" else int(arch.heads)
            neurons = ffn_width or math.ceil(arch.expanding_rate * width / multiple - 1e-6) * multiple
            return Shape(
                arch.depth, width, neurons, heads, kv_heads or heads // group, head_dim, self.vocab_size,
                activations=arch.activations, shortcuts=arch.shortcuts, shortcut_ratio=arch.shortcut_ratio, **function,
            )  # fmt: skip

        if arch.heads != "auto":
            channels = 1
            self.check_heads(int(arch.heads), kv_heads, group)
        if width is None and not self.mistakes:
            shared = kv_heads or group
            whole_groups = 1 if arch.heads != "auto" else shared // math.gcd(shared, heads_there)
            width = self.solve(of_width, step=channels * whole_groups)
        elif width is not None:
            self.check_width(width, channels, heads_there, kv_heads, group)
        if self.mistakes or width is None:
            raise ConfigError(self.mistakes)
        found = of_width(width)
        matrices(found)  # refuses what a block of the user's own names
        return found

    def own(self) -> dict[str, str]:
        """The blocks of the user's own, as ``Shape`` holds them."""
        arch = self.arch
        given = {"own_attention": arch.own_attention, "own_ffn": arch.own_ffn}
        found: dict[str, str] = {}
        for name, described in given.items():
            if described:
                try:
                    part(described, f"arch.{name}", OWN_BLOCKS[name])
                    found[name] = canonical_json(normal(described, f"arch.{name}"))
                except ConfigError as error:
                    self.mistakes += error.mistakes
        if arch.own_ffn and arch.activations > 1:
            self.mistake("arch.activations", arch.activations, "allowed without arch.own_ffn: 1 with it")
        for key in ("qkv_bias", "qk_norm"):
            if arch.own_attention and getattr(arch, key) is True:
                self.mistake(f"arch.{key}", "true", "allowed without arch.own_attention")
        return found

    def function(self) -> dict[str, Any]:
        """The settings in ``_FUNCTION`` by name, without "auto"."""
        defaults: dict[str, Any] = {item.name: item.default for item in fields(Shape)}
        if self.parent is not None:
            defaults = asdict(self.parent)
        given = {name: getattr(self.arch, name) for name in _FUNCTION}
        found = {name: defaults[name] if value == "auto" else value for name, value in given.items()}
        found |= {name: float(found[name]) for name in ("rope_theta", "norm_eps")}
        try:
            kind, numbers = rope.parse(found["rope_scaling"])
            found["rope_scaling"] = rope.scaling(kind, *numbers)
        except ValueError as error:
            self.mistake("arch.rope_scaling", found["rope_scaling"], str(error))
        return found

    def channels_of_heads(self, head_dim: int) -> tuple[int, int]:
        """The least width that has whole heads, and how many: that of one head, or in a named parent's proportion."""
        if self.parent is None:
            return head_dim, 1
        common = math.gcd(self.parent.width, self.parent.heads)
        return self.parent.width // common, self.parent.heads // common

    def head_dim(self) -> int | None:
        """Resolve a plain number, or "N/s" as N/128 of the scale's head size.

        128/s, 64/s and 32/s thus stay 4 : 2 : 1 where the smallest head size would otherwise make them equal (Table 12).
        """
        value = self.arch.head_dim
        if value == "auto":
            if self.parent is not None:
                return self.parent.head_dim
            value = f"{_PAPER_HEAD_DIM}/s"
        unit = at_scale(f"{_PAPER_HEAD_DIM}/s", self.scale.factor, self.scale.min_head_dim)
        try:
            channels = value if isinstance(value, int) else at_scale(value, 1) * unit / _PAPER_HEAD_DIM
        except ValueError:
            channels = 0
        if channels >= 2 and channels % 2 == 0:
            return int(channels)
        found = f"{channels:g} channels at this scale, where 128/s is {unit}; " if channels and isinstance(value, str) else ""
        self.mistake(
            "arch.head_dim", value,
            f"{found}allowed: an even number or the paper's size as 'N/s'; the rotary embedding turns pairs of channels",
        )  # fmt: skip
        return None

    def kv_heads(self) -> tuple[int | None, int]:
        """Key-value heads if their number is given, and otherwise None and how many heads share one."""
        value = self.arch.kv_heads
        if isinstance(value, int):
            return self.size("arch.kv_heads", value), 1
        if value == "auto":
            return None, 1 if self.parent is None else self.parent.heads // self.parent.kv_heads
        if match := _GROUPS.fullmatch(value):
            return None, int(match[1])
        self.mistake("arch.kv_heads", value, "allowed: auto, a whole number, or heads/N as in heads/2")
        return None, 1

    def check_width(self, width: int, channels: int, heads_there: int, kv_heads: int | None, group: int) -> None:
        """What must hold between a given width, its heads and its shortcuts."""
        units, rest = divmod(width, channels)
        if rest or not units:
            of = f"the head size {channels}" if self.parent is None else f"{channels}, {heads_there} of the parent's heads,"
            self.mistake(
                "arch.width", self.arch.width,
                f"{width} channels are not whole heads; allowed: a multiple of {of} (arch.head_dim={self.arch.head_dim}), such "
                f"as {max(1, round(width / channels)) * channels}, or arch.heads=N",
            )  # fmt: skip
        elif self.arch.heads == "auto":
            self.check_heads(units * heads_there, kv_heads, group)
        if self.arch.shortcuts and self.arch.shortcut_ratio > width:
            self.mistake("arch.shortcut_ratio", self.arch.shortcut_ratio, f"allowed: at most the width, {width}")

    def check_heads(self, heads: int, kv_heads: int | None, group: int) -> None:
        """What must hold between the numbers of heads."""
        if kv_heads and heads % kv_heads:
            divisors = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
            self.mistake("arch.kv_heads", kv_heads, f"allowed with {heads} heads: auto, {divisors}")
        elif heads % group:
            smallest, auto = (2, ["auto"]) if self.parent is None else (1, [])
            groups = ", ".join(auto + [f"heads/{number}" for number in range(smallest, heads + 1) if heads % number == 0])
            self.mistake("arch.kv_heads", self.arch.kv_heads, f"allowed with {heads} heads: {groups}")

    def solve(self, of_width: Callable[[int], Shape], step: int) -> int:
        """The multiple of ``step`` whose shape comes nearest to the parameter budget; the smaller of two equally near."""
        least = max(1, math.ceil(self.arch.shortcut_ratio / step)) if self.arch.shortcuts else 1
        if self.arch.parameters == "auto":
            budget = baseline_parameters(self.scale)
            source = f"arch.parameters=auto, the paper's baseline at scale {self.scale.name}: {budget:,}"
        else:
            budget = int(self.arch.parameters)
            source = f"arch.parameters={budget}"

        def total(steps: int) -> int:
            return parameters(of_width(steps * step))["total"]

        steps = bisect.bisect_left(range(_MAX_STEPS), budget, lo=least, key=total)
        if steps == least and total(least) > budget:
            smallest = of_width(least * step)
            self.mistakes.append(
                f"{source}: no width reaches this budget at arch.depth={smallest.depth}; the smallest shape (width "
                f"{smallest.width}, FFN {smallest.ffn_width}, vocabulary {smallest.vocab_size:,}) has {total(least):,} "
                "parameters; allowed: at least as many, or fewer layers, or a smaller vocabulary"
            )
            return least * step
        if steps > least and budget - total(steps - 1) <= total(steps) - budget:
            steps -= 1
        return steps * step

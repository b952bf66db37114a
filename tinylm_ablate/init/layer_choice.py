"""Mapping of the child's layers to layers of the parent (Section 3.2, first stage).

The paper finds the first two or three layers and the last ones crucial and the intermediate ones redundant (Figure 5), and
therefore drops intermediate layers; it gives neither a formula nor a list of indices. The rules here are ours:

- "middle": keeps the first ``keep_first`` and last ``keep_last`` layers, and selects the intermediate ones evenly.
- "even": selects all layers evenly; none is protected.
- "importance": keeps the first ``keep_first`` and last ``keep_last`` layers, and drops the intermediate ones with the smallest
  cost of skipping (``tinylm_ablate.init.importance``). Each layer's cost is measured with all others in place.
- an explicit list of parent layers, "0-3,7,9-11".

A child deeper than its parent reuses layers by the same formula: intermediate layers are repeated in place, about equally
often. This is interleaved depth growth; SOLAR (Kim et al. 2023, arXiv 2312.15166) and G_stack (Du
et al. 2024, arXiv 2405.15319) repeat whole blocks of layers instead, and LLaMA Pro (Wu et al. 2024, arXiv 2401.02415)
inserts copies that start as the identity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tinylm_ablate.errors import UserError

RULES = ("middle", "even", "importance")

_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """Parent layer for each layer of the child, and the rule that selected it.

    Attributes:
        layers: For each child layer in order, the index of its layer in the parent.
        parent_depth: Layers of the parent.
        rule: "middle", "even", "importance" or "list".
        words: One sentence for the record.
        costs: rule "importance": cost of skipping each layer of the parent, nats per token.
    """

    layers: tuple[int, ...]
    parent_depth: int
    rule: str
    words: str
    costs: tuple[float, ...] | None = None

    @property
    def dropped(self) -> tuple[int, ...]:
        """Parent layers that the child does not have, ascending."""
        return tuple(sorted(set(range(self.parent_depth)) - set(self.layers)))

    @property
    def repeated(self) -> dict[int, int]:
        """Parent layers that the child has more than once, with their numbers of uses."""
        return {layer: count for layer, count in sorted(Counter(self.layers).items()) if count > 1}

    def record(self) -> dict[str, Any]:
        """The choice as a record for JSON."""
        return {
            "rule": self.rule,
            "words": self.words,
            "kept": list(self.layers),
            "dropped": list(self.dropped),
            "repeated": {str(layer): count for layer, count in self.repeated.items()},
        } | ({} if self.costs is None else {"skipping_costs": list(self.costs)})


def choose_layers(
    parent_depth: int,
    child_depth: int,
    keep_first: int,
    keep_last: int,
    rule: str | Sequence[int] = "middle",
    costs: Sequence[float] | None = None,
) -> LayerChoice:
    """Choose a parent layer for each layer of the child.

    Args:
        parent_depth: Layers of the parent, at least 1.
        child_depth: Layers of the child, at least 1.
        keep_first: rules "middle" and "importance": number of first layers to keep, each once.
        keep_last: rules "middle" and "importance": number of last layers to keep, each once.
        rule: "middle", "even", "importance", or the list of parent layers, ascending.
        costs: rule "importance", for a child with fewer layers: cost of skipping each layer of the parent.

    Raises:
        UserError: More layers must be kept than the child has, the list does not fit, or the rule is unknown.
        ValueError: A depth is below 1, or costs are missing.
    """
    if parent_depth < 1 or child_depth < 1 or keep_first < 0 or keep_last < 0:
        raise ValueError(f"impossible depths: parent {parent_depth}, child {child_depth}, keep {keep_first} and {keep_last}")
    if not isinstance(rule, str) or rule not in RULES:
        return _listed(parent_depth, child_depth, parse_layers(rule) if isinstance(rule, str) else rule)
    if rule == "even":
        return _choice(spread(parent_depth, child_depth), parent_depth, rule, "all layers spread evenly")
    if rule == "importance" and child_depth < parent_depth:
        if costs is None or len(costs) != parent_depth:
            raise ValueError(f"the rule 'importance' needs the costs of {parent_depth} layers")
        layers, words = _important(child_depth, keep_first, keep_last, costs)
        return _choice(layers, parent_depth, rule, words, tuple(costs))
    layers, words = _middle(parent_depth, child_depth, keep_first, keep_last)
    return _choice(layers, parent_depth, rule, words)


def parse_layers(text: str) -> tuple[int, ...]:
    """Parse a list of layers such as "0-3,7,9-11".

    Raises:
        UserError: The text is not such a list.
    """
    layers: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise UserError(f"init.layers={text}: allowed: {', '.join(RULES)}, or the parent's layers as '0-3,7,9-11'")
        layers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(layers)


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """Select ``wanted`` of ``count`` indices, evenly and in order: floor((2i + 1) count / (2 wanted)).

    The i-th index is the one whose interval contains the middle of the i-th of ``wanted`` equal parts. If ``wanted`` is
    smaller than ``count``, all indices differ; if equal, the result is the identity; if larger, every index is used and the
    numbers of uses differ by at most one.
    """
    return tuple((2 * i + 1) * count // (2 * wanted) for i in range(wanted))


def _middle(parent_depth: int, child_depth: int, keep_first: int, keep_last: int) -> tuple[tuple[int, ...], str]:
    if child_depth == parent_depth:
        return tuple(range(parent_depth)), "every layer kept"
    kept = keep_first + keep_last
    if child_depth < parent_depth:
        _check_kept(child_depth, keep_first, keep_last)
    if kept >= parent_depth:
        # The child is deeper than its parent, and no layer is intermediate, so all layers are repeated.
        return spread(parent_depth, child_depth), "all layers repeated evenly, since the parent has no intermediate ones"
    inner = spread(parent_depth - kept, child_depth - kept)
    layers = (
        *range(keep_first),
        *(keep_first + i for i in inner),
        *range(parent_depth - keep_last, parent_depth),
    )
    deed = "thinned" if child_depth < parent_depth else "repeated"
    return layers, f"first {keep_first} and last {keep_last} kept, the {parent_depth - kept} between {deed} evenly"


def _important(child_depth: int, keep_first: int, keep_last: int, costs: Sequence[float]) -> tuple[tuple[int, ...], str]:
    _check_kept(child_depth, keep_first, keep_last)
    depth = len(costs)
    intermediate = range(keep_first, depth - keep_last)
    # Of equal costs, the later layer is dropped.
    dropped = sorted(intermediate, key=lambda layer: (costs[layer], -layer))[: depth - child_depth]
    words = f"first {keep_first} and last {keep_last} kept, and of the {len(intermediate)} between, the most costly to skip"
    return tuple(layer for layer in range(depth) if layer not in dropped), words


def _check_kept(child_depth: int, keep_first: int, keep_last: int) -> None:
    kept = keep_first + keep_last
    if kept > child_depth:
        raise UserError(
            f"init.keep_first={keep_first}, init.keep_last={keep_last}: together {kept}, more than the child's "
            f"{child_depth} layers (arch.depth); lower them"
        )


def _listed(parent_depth: int, child_depth: int, listed: Sequence[int]) -> LayerChoice:
    layers = tuple(listed)
    mistakes = []
    if len(layers) != child_depth:
        mistakes.append(f"it has {len(layers)} layers, but the child has {child_depth} (arch.depth)")
    if outside := [layer for layer in layers if not 0 <= layer < parent_depth]:
        mistakes.append(f"{outside} are not among the parent's layers 0 to {parent_depth - 1}")
    if any(after < before for before, after in pairwise(layers)):
        mistakes.append("the layers are not in ascending order")
    if mistakes:
        raise UserError(f"init.layers={','.join(map(str, layers))}: {'; '.join(mistakes)}")
    return _choice(layers, parent_depth, "list", "layers as listed")


def _choice(
    layers: tuple[int, ...], parent_depth: int, rule: str, words: str, costs: tuple[float, ...] | None = None
) -> LayerChoice:
    dropped = parent_depth - len(set(layers))
    reused = len(layers) - len(set(layers))
    parts = [f"{parent_depth} layers to {len(layers)}: {words}"]
    if dropped:
        parts.append(f"{dropped} dropped")
    if reused:
        parts.append(f"{reused} are repetitions")
    return LayerChoice(layers, parent_depth, rule, "; ".join(parts), costs)

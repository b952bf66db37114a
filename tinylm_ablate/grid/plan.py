"""What runs would be and cost, without training them (``mode=plan``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.arch.costs import training_memory
from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters
from tinylm_ablate.grid.calibrate import seconds_per_sequence
from tinylm_ablate.settle import Settled

_COLUMNS = {
    "name": "cell", "depth": "depth", "width": "width", "ffn_width": "FFN", "heads": "heads", "vocab_size": "vocab",
    "parameters": "parameters", "embedding_head_share": "emb+head %", "flops": "FLOPs/token", "tokens": "tokens",
    "steps": "steps", "memory_bytes": "memory", "seconds": "time",
}  # fmt: skip


def plan(name: str, settled: Settled) -> dict[str, Any]:
    """One run as plain data.

    Returns:
        ``depth width ffn_width heads vocab_size parameters embedding_head_share`` (percent) ``flops`` (of training, a token)
        ``tokens steps memory_bytes seconds`` (measured on this machine, training alone), with ``name``, ``identity``,
        ``parts`` (parameters by part), ``kv_heads``, ``learning_rate`` and ``finished`` beside them.
    """
    shape, train = settled.shape, settled.config.train
    counts = parameters(shape)
    per_sequence = seconds_per_sequence(shape, train.context_length, settled.micro_batch, settled.precision)
    return {
        "name": name,
        "identity": settled.identity,
        "depth": shape.depth,
        "width": shape.width,
        "ffn_width": shape.ffn_width,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "vocab_size": shape.vocab_size,
        "parameters": counts["total"],
        "parts": {part: count for part, count in counts.items() if part != "total"},
        "embedding_head_share": round(embedding_head_share(shape), 4),
        "flops": flops_per_token(shape, train.context_length)["training"],
        "tokens": settled.tokens,
        "steps": settled.steps,
        "learning_rate": settled.learning_rate,
        "memory_bytes": training_memory(shape, settled.micro_batch, train.context_length, settled.precision),
        "seconds": round(per_sequence * settled.tokens / train.context_length, 3),
        "finished": (settled.folder / "metrics.json").exists(),
    }


def plans(cells: Sequence[tuple[str, Settled]], form: str) -> str:
    """The plans of all cells, as a table with totals or as one JSON object a line."""
    rows = [plan(name, settled) for name, settled in progress.bar(cells, description="plan", unit="cell")]
    if form == "json":
        return "\n".join(json.dumps(row) for row in rows)
    from tabulate import tabulate

    table = [[_shown(key, row[key]) for key in _COLUMNS] for row in rows]
    waiting = [row for row in rows if not row["finished"]]
    parents = {settled.parent.identity: settled.parent for _, settled in cells if settled.parent is not None}
    lines = [
        tabulate(table, headers=list(_COLUMNS.values()), disable_numparse=True, colalign=["left"] + ["right"] * 12),
        "",
        f"parameters by part: {_parts(rows)}",
        f"{len(rows)} runs, {len(rows) - len(waiting)} finished; to do: {sum(r['tokens'] for r in waiting):,} tokens, "
        f"{sum(r['tokens'] * r['flops'] for r in waiting):.3g} FLOPs, "
        f"{_time(sum(r['seconds'] for r in waiting))} of training here, evaluation not counted",
    ]
    if parents:
        lines.append(f"and {len(parents)} parent(s) that are trained once:")
        lines.append(plans([(f"parent {identity}", parent) for identity, parent in parents.items()], "table"))
    return "\n".join(lines)


def _parts(rows: Sequence[dict[str, Any]]) -> str:
    first = rows[0]["parts"]
    if all(row["parts"] == first for row in rows):
        return ", ".join(f"{part} {count:,}" for part, count in first.items() if count)
    return "; ".join(
        f"[{row['name']}] " + ", ".join(f"{part} {count:,}" for part, count in row["parts"].items() if count) for row in rows
    )


def _shown(key: str, value: Any) -> str:
    match key:
        case "memory_bytes":
            return f"{value / 2**20:,.0f} MiB" if value < 2**33 else f"{value / 2**30:,.1f} GiB"
        case "seconds":
            return _time(value)
        case "flops":
            return f"{value:.3g}"
        case "embedding_head_share":
            return f"{value:.2f}"
        case "name":
            return str(value)
        case _:
            return f"{value:,}"


def _time(seconds: float) -> str:
    for unit, size in (("years", 365 * 86400), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"

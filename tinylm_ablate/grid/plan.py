"""What runs would be and cost, without training them (``mode=plan``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.arch.costs import training_memory
from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters
from tinylm_ablate.grid.calibrate import seconds_per_token
from tinylm_ablate.optimizer.schedule import factor, warmup_steps
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
        ``tokens steps memory_bytes seconds`` (estimated on this machine, training alone), and beside them ``name``,
        ``identity``, ``kv_heads``, ``parts`` (parameters by part), the course of the learning rate, ``finished``, and
        ``parent``: the identity of the run that this one starts from, or None.
    """
    shape, train = settled.shape, settled.config.train
    counts = parameters(shape)
    optimizer = settled.config.optimizer
    warmup = warmup_steps(optimizer, settled.steps, train.batch_tokens)
    seconds = seconds_per_token(shape, train.context_length, settled.micro_batch, settled.precision, train.threads)
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
        "warmup_steps": warmup,
        "final_learning_rate": settled.learning_rate * factor(optimizer, settled.steps - 1, settled.steps, warmup),
        "schedule": optimizer.schedule,
        "memory_bytes": training_memory(shape, settled.micro_batch, train.context_length, settled.precision),
        "seconds": round(seconds * settled.tokens, 3),
        "finished": (settled.folder / "metrics.json").exists(),
        "parent": settled.parent.identity if settled.parent is not None else None,
    }


def plans(cells: Sequence[tuple[str, Settled]], form: str) -> str:
    """The plans of all cells, as a table with totals or as one JSON object a line."""
    rows = [plan(name, settled) for name, settled in progress.bar(cells, description="plan", unit="cell")]
    if form == "json":
        return "\n".join(json.dumps(row) for row in rows)
    waiting = list({row["identity"]: row for row in rows if not row["finished"]}.values())
    runs = len({row["identity"] for row in rows})
    lines = [
        _table([[_shown(key, row[key]) for key in _COLUMNS] for row in rows], list(_COLUMNS.values())),
        "",
        f"parameters by part{_parts(rows)}",
        *_schedules(rows),
        f"{runs} {'run' if runs == 1 else 'runs'}, {runs - len(waiting)} finished; to do: "
        f"{sum(row['tokens'] for row in waiting):,} tokens, "
        f"{sum(row['tokens'] * row['flops'] for row in waiting):.3g} FLOPs, "
        f"{_time(sum(row['seconds'] for row in waiting))} of training here, evaluation not counted",
    ]
    known = {row["identity"] for row in rows}
    parents = {settled.parent.identity: settled.parent for _, settled in cells if settled.parent is not None}
    apart = [(f"parent {identity}", parent) for identity, parent in parents.items() if identity not in known]
    if apart:
        lines += ["", f"and {len(apart)} {'parent that is' if len(apart) == 1 else 'parents that are'} trained once:"]
        lines.append(plans(apart, "table"))
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=head, disable_numparse=True, colalign=["left"] + ["right"] * (len(head) - 1))


def _parts(rows: Sequence[dict[str, Any]]) -> str:
    """A line where all cells have the same, otherwise a table with the first cell of each kind."""
    kinds = list({tuple(row["parts"].values()): row for row in reversed(rows)}.values())[::-1]
    if len(kinds) == 1:
        return ": " + ", ".join(f"{part} {count:,}" for part, count in rows[0]["parts"].items() if count)
    parts = [part for part in rows[0]["parts"] if any(row["parts"][part] for row in kinds)]
    return (
        ":\n"
        + _table([[row["name"], *(f"{row['parts'][part]:,}" for part in parts)] for row in kinds], ["cell", *parts])
        + "\n"
    )


def _schedules(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The course of the learning rate, a line for each one that occurs."""
    keys = ("learning_rate", "warmup_steps", "schedule", "final_learning_rate", "steps")
    courses: dict[tuple[Any, ...], str] = {}
    for row in rows:
        courses.setdefault(tuple(row[key] for key in keys), row["name"])
    return [
        f"learning rate{f' [{name}]' if len(courses) > 1 else ''}: up to {peak:.3g} over {warmup:,} of {steps:,} steps, "
        + ("then constant" if schedule == "constant" else f"then {schedule} to {final:.3g} at the last")
        for (peak, warmup, schedule, final, steps), name in courses.items()
    ]


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

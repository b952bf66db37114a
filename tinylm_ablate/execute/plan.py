"""Plan of runs: settings and costs, without training (``mode=plan``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.arch.costs import training_memory
from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters
from tinylm_ablate.data.corpus_summary import MANY_PASSES
from tinylm_ablate.execute.cost import PROGRAM_SECONDS, code_of, cost, scoring_cost
from tinylm_ablate.execute.stacks import stacks
from tinylm_ablate.execute.text_plan import passes, shard_bytes, text_lines
from tinylm_ablate.execute.timing import busy
from tinylm_ablate.execute.words import duration
from tinylm_ablate.execute.workers import divide
from tinylm_ablate.init.choice import reads_text, scores_marker
from tinylm_ablate.optimizer.schedule import drawn, run_factor, warmup_steps
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.stack_key import stack_memory

_COLUMNS = {
    "name": "cell", "depth": "depth", "width": "width", "ffn_width": "FFN", "heads": "heads", "vocab_size": "vocab",
    "parameters": "parameters", "embedding_head_share": "emb+head %", "flops": "FLOPs/token", "tokens": "tokens",
    "steps": "steps", "learning_rate": "peak rate", "passes": "passes", "precision": "precision", "memory_bytes": "memory",
    "seconds": "time",
}  # fmt: skip


def plan(name: str, settled: Settled, compiled: bool = False, stack: int = 1) -> dict[str, Any]:
    """Return the plan of one run as plain data.

    Args:
        name: Its name.
        settled: The run.
        compiled: Whether an earlier run has compiled the same code.
        stack: Number of runs that train together, including this one.

    Returns:
        ``depth width ffn_width heads vocab_size parameters embedding_head_share`` (percent) ``flops`` (of training, per token)
        ``tokens steps passes precision memory_bytes seconds`` (passes over the training text, or over the most repeated
        group of ``data.weights``, None if its size is unknown; seconds estimated here: training, evaluation and start), and
        also ``name``, ``identity``, ``text`` (``data.source``), ``kv_heads``, ``parts`` (parameters by part), the learning
        rate schedule, ``finished``, ``parent`` and ``previous`` (identities of the runs that this one starts from, or None),
        ``stack``, and the cost of the run without these, or its share in a stack: ``own_tokens``, ``own_flops``,
        ``training_seconds``, ``evaluation_seconds``, ``model_bytes`` (that it keeps) and ``checkpoint_bytes`` (while it
        trains).
    """
    shape, train = settled.shape, settled.config.train
    counts = parameters(shape)
    optimizer = settled.config.optimizer
    warmup = warmup_steps(optimizer, settled.rounds.place(0)[1], train.batch_tokens)
    costs = cost(settled, compiled, stack)
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
        "text": settled.config.data.source,
        "passes": None if (counted := passes(settled)) is None else max(counted.values()),
        "precision": settled.precision,
        "learning_rate": settled.learning_rate,
        "weight_decay": settled.weight_decay,
        "init_std": settled.init_std,
        "warmup_steps": warmup,
        "final_learning_rate": settled.learning_rate
        * run_factor(optimizer, settled.rounds, settled.steps - 1, train.batch_tokens),
        "schedule": optimizer.schedule,
        "schedule_drawn": drawn(optimizer, settled.rounds, train.batch_tokens),
        "memory_bytes": training_memory(shape, settled.micro_batch, train.context_length, settled.precision, train.recompute),
        "seconds": round(costs.seconds, 3),
        "training_seconds": round(costs.training, 3),
        "evaluation_seconds": round(costs.evaluation, 3),
        "own_tokens": costs.tokens,
        "own_flops": costs.flops,
        "model_bytes": costs.model_bytes,
        "checkpoint_bytes": costs.checkpoint_bytes,
        "stack": stack,
        "finished": (settled.folder / "metrics.json").exists(),
        "parent": settled.parent.identity if settled.parent is not None else None,
        "previous": settled.previous.identity if settled.previous is not None else None,
    }


def plans(cells: Sequence[tuple[str, Settled]], form: str, workers: int | str = 1, read_text: bool = False) -> str:
    """Format the plans of all cells and of the runs that they need, as tables with totals, or as one JSON object per line.

    Args:
        cells: The cells with their names.
        form: ``plan.format``.
        workers: ``grid.workers``.
        read_text: ``plan.read_text``, for the tables.

    Raises:
        UserError: The user's text cannot be read.
    """
    about_text = text_lines([settled for _, settled in cells], read_text) if form == "table" else []
    at_once, threads = divide([settled for _, settled in cells], workers)
    known = {settled.identity for _, settled in cells}
    needed = {run.identity: run for _, settled in cells for run in _before(settled) if run.identity not in known}
    apart = [(f"{run.identity}", run) for run in needed.values()] if form == "table" else []
    named = [*cells, *apart]
    together = _together([run for _, run in [*cells, *needed.items()]], at_once)
    rows: list[dict[str, Any]] = []
    compiled: set[tuple[object, ...]] = set()
    for name, settled in progress.bar(named, description="plan", unit="run"):
        if threads is not None:
            settled.config.train.threads = threads
        stack = len(together.get(settled.identity, [settled]))
        rows.append(plan(name, settled, code_of(settled) in compiled, stack))
        compiled.add(code_of(settled))
    if form == "json":
        return "\n".join(json.dumps(row) for row in rows)
    first, others = rows[: len(cells)], rows[len(cells) :]
    lines = [_runs(first), "", f"parameters by part{_parts(first)}", *_schedules(first), "", *about_text]
    if len(cells) > len(known):
        lines.insert(
            1, f"{len(cells)} cells are {len(known)} {'run' if len(known) == 1 else 'runs'}: some are the same run as others"
        )
    if others:
        phrase = "run that is" if len(others) == 1 else "runs that are"
        lines += ["", f"and {len(others)} {phrase} trained once, for those above to start from:", _runs(others)]
    if programs := _stacks(rows, together):
        lines += ["", *programs]
    first_of = {scores_marker(run): (name, run) for name, run in reversed(cells) if reads_text(run.config.init)}
    scoring = {name: found for name, run in reversed(first_of.values()) if (found := scoring_cost(run)) is not None}
    for name, found in scoring.items():
        lines.append(
            f"choice from the parent [{name}]: {found.what} on {found.tokens:,} tokens, {_size(found.memory)} of memory, "
            f"{duration(found.seconds)}"
        )
    return "\n".join(
        [
            *lines,
            "",
            *_totals(rows, [settled for _, settled in named], at_once, sum(found.seconds for found in scoring.values())),
        ]
    )


def _together(runs: Sequence[Settled], workers: int) -> dict[str, list[Settled]]:
    """Return the stack of each unfinished run, by identity."""
    waiting = {run.identity: run for run in runs if not (run.folder / "metrics.json").exists()}
    return {run.identity: stack for stack in stacks(list(waiting.values()), workers) for run in stack}


def _stacks(rows: Sequence[dict[str, Any]], together: dict[str, list[Settled]]) -> list[str]:
    """Format a table of the stacks: first run, number, memory and time; empty if all runs train alone."""
    by_identity = {row["identity"]: row for row in reversed(rows)}
    several = {stack[0].identity: stack for stack in together.values() if len(stack) > 1}
    if not several:
        return []
    table = []
    for first, stack in several.items():
        seconds = sum(by_identity[run.identity]["training_seconds"] for run in stack)
        names = f"{by_identity[first]['name']} and {len(stack) - 1} more"
        table.append([names, str(len(stack)), _shown("memory_bytes", stack_memory(stack[0], len(stack))), duration(seconds)])
    alone = sum(len(stack) == 1 for stack in together.values())
    return [
        f"{len(together) - alone} runs train as {len(several)} stack{'s' * (len(several) > 1)}, {alone} alone:",
        _table(table, ["stack", "runs", "memory", "training"]),
    ]


def _before(settled: Settled) -> Iterator[Settled]:
    """Return all runs that a run needs, directly or indirectly, in order of training."""
    for run in settled.needs:
        yield from _before(run)
        yield run


def _runs(rows: Sequence[dict[str, Any]]) -> str:
    return _table([[_shown(key, row[key]) for key in _COLUMNS] for row in rows], list(_COLUMNS.values()))


def _totals(rows: Sequence[dict[str, Any]], settled: Sequence[Settled], at_once: int, scoring: float) -> list[str]:
    """Summarize the remaining work, each run counted once: tokens, FLOPs, time and disk."""
    runs = {row["identity"]: row for row in rows}
    waiting = [row for row in runs.values() if not row["finished"]]
    open_runs = {run.identity: run for run in settled if not runs[run.identity]["finished"]}.values()
    training, evaluation = (sum(row[f"{name}_seconds"] for row in waiting) for name in ("training", "evaluation"))
    shards = [shard_bytes(run) for run in {(run.text, run.vocabulary): run for run in open_runs}.values()]
    known = [size for size in shards if size is not None]
    seconds = [row["seconds"] for row in waiting]
    whole = PROGRAM_SECONDS + scoring + max(sum(seconds) / at_once, *seconds, 0)
    unread = ", shards of a text that has not been read" if len(known) < len(shards) else ""
    return [
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}, {len(runs) - len(waiting)} finished; to do: {len(waiting)}, "
        f"{sum(row['own_tokens'] for row in waiting):,} tokens, {sum(row['own_flops'] for row in waiting):.3g} FLOPs",
        f"time here, {'one after another' if at_once == 1 else f'{at_once} at once'}: {duration(whole)} "
        f"({duration(training)} of training, {duration(evaluation)} of evaluation"
        + (f", {duration(scoring)} of choices from parents" if scoring else "")
        + ")"
        + ("; other programs are using this machine, and this is the time without them" if busy() else ""),
        f"disk: {_size(sum(row['model_bytes'] for row in waiting))} of models, "
        f"{_size(max((row['checkpoint_bytes'] for row in waiting), default=0))} of checkpoints while the largest trains, "
        f"{_size(sum(known))} of token shards{unread}",
    ]


def _size(count: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    from tabulate import tabulate

    return tabulate(rows, headers=head, disable_numparse=True, colalign=["left"] + ["right"] * (len(head) - 1))


def _parts(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line if all cells are equal, otherwise a table with the first cell of each kind."""
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
    """Describe the learning rate schedules, one line each; runs whose schedules differ only in the peak share a line."""
    courses: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        share = round(row["final_learning_rate"] / row["learning_rate"], 3)
        courses.setdefault((row["warmup_steps"], row["steps"], row["schedule"], share, row["schedule_drawn"]), []).append(row)
    return [
        f"learning rate{_of(group) if len(courses) > 1 else ''}: rises to {_peaks(group)} over {warmup:,} of {steps:,} steps, "
        + ("then constant" if schedule == "constant" else f"then {schedule} to {100 * share:.3g} % of it at the last")
        + f"  {course}"
        for (warmup, steps, schedule, share, course), group in courses.items()
    ]


def _of(group: Sequence[dict[str, Any]]) -> str:
    return f" [{group[0]['name']}{f' and {len(group) - 1} more' if len(group) > 1 else ''}]"


def _peaks(group: Sequence[dict[str, Any]]) -> str:
    rates = [row["learning_rate"] for row in group]
    lowest, highest = f"{min(rates):.3g}", f"{max(rates):.3g}"
    return lowest if lowest == highest else f"{lowest}–{highest}"


def _shown(key: str, value: Any) -> str:
    match key:
        case "memory_bytes":
            return f"{value / 2**20:,.0f} MiB" if value < 2**33 else f"{value / 2**30:,.1f} GiB"
        case "seconds":
            return duration(value)
        case "flops" | "learning_rate":
            return f"{value:.3g}"
        case "embedding_head_share":
            return f"{value:.2f}"
        case "passes":
            return "?" if value is None else f"{value:.2g}" + (" (!)" if value > MANY_PASSES else "")
        case "name" | "precision":
            return str(value)
        case _:
            return f"{value:,}"

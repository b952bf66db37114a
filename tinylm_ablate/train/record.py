"""Recording of the curve and the events of a run in training, for one run and for stacks."""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, TextIO

from tinylm_ablate.errors import RunFailed
from tinylm_ablate.files import write_atomic
from tinylm_ablate.train.member import CURVE, EVENTS, Member, Row, Trained

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled
    from tinylm_ablate.train.batch_order import Order
    from tinylm_ablate.train.member import Checkpoint

#: Number of recent losses for detecting a spike, and the minimum number.
_RECENT, _LEAST_RECENT = 50, 20


class Recorder:
    """Recorder of the losses of each optimizer step, which writes the curve and the events of a run.

    The written content is also kept in memory and part of every checkpoint. A run that resumes rewrites both files from its
    checkpoint, which removes rows of lost steps and repairs a damaged file.

    Args:
        member: The run.
        order: Its batches.
        restored: The checkpoint that it resumes from, or None.

    Attributes:
        step: Optimizer steps done in the whole run.
        seconds: Time in training, over all sessions.
        pruned: Whether ``on_rows`` has pruned the run.
    """

    def __init__(self, member: Member, order: Order, restored: Checkpoint | None) -> None:
        self.member, self.settled, self.folder, self.order = member, member.settled, member.folder, order
        state: dict[str, Any] = {"seconds": member.start.seconds} if restored is None else restored.recorder
        self.step = self.settled.rounds.start if restored is None else restored.step
        self.seconds: float = state.get("seconds", 0.0)
        self.skipped: int = state.get("skipped", 0)
        self.pruned = False
        self._pending: list[float] = state.get("pending", [])
        self._tail: deque[float] = deque(state.get("tail", []), maxlen=max(1, self.settled.steps // 20))
        self._recent: deque[float] = deque(state.get("recent", []), maxlen=_RECENT)
        self._norm: float = state.get("norm", math.nan)
        self._marked_seconds, self._marked_step = self.seconds, self.step
        self._lines = {CURVE: [member.start.curve], EVENTS: [""]} if restored is None else {
            name: [text] for name, text in restored.records.items()
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        self._streams = {name: self._anew(name, restored is not None) for name in self._lines}

    def _anew(self, name: str, resumes: bool) -> TextIO:
        """Replace a file by a new one and open it.

        A worker that was replaced, but does not know it yet, then writes to the deleted file.
        """
        path, content = self.folder / name, self.records()[name]
        if resumes and not (path.read_bytes() if path.exists() else b"").startswith(content.encode()):
            print(f"warning: {path} is damaged; it is restored from the checkpoint of step {self.step}", file=sys.stderr)
        write_atomic(path, content)
        return path.open("a", encoding="utf-8")

    def state(self) -> dict[str, Any]:
        """Return the state from which the next session of this run continues the curve."""
        return {
            "seconds": self.seconds, "pending": self._pending, "tail": list(self._tail), "recent": list(self._recent),
            "skipped": self.skipped, "norm": self._norm,
        }  # fmt: skip

    def records(self) -> dict[str, str]:
        """Return the content of both files."""
        return {name: "".join(lines) for name, lines in self._lines.items()}

    def take(self, losses: list[float], norm: float, rate: float, seconds: float) -> None:
        """Record a finished step.

        Args:
            losses: Mean loss of each micro batch, nats per token.
            norm: Norm of the gradients before clipping.
            rate: The learning rate.
            seconds: Time since the previous step.
        """
        self.step += 1
        self.seconds += seconds
        loss = math.fsum(losses) / len(losses)
        if finite(losses, norm):
            self._norm = norm
            if len(self._recent) >= _LEAST_RECENT:
                mean, spread = _mean_and_spread(self._recent)
                if loss > mean + self.settled.config.train.spike_deviations * spread:
                    self._event("spike", {"loss": loss, "recent_mean": mean, "recent_std": spread})
            self._recent.append(loss)
            self._pending.append(loss)
            self._tail.append(loss)
        else:
            self.skipped += 1
            self._event("skipped", {"loss": str(loss), "gradient_norm": str(norm)})
        if self.step % self.settled.config.train.log_every == 0 or self.step == self.settled.steps:
            self._row(rate)

    def _event(self, kind: str, values: dict[str, Any]) -> None:
        step = self.step - 1
        event = {"step": self.step, "event": kind, **values, "batch": self.order.batch(step)}
        self._append(EVENTS, event | {"sequences": self.order.windows(step)})

    def _row(self, rate: float) -> None:
        if not self._pending:  # all steps since the last row were skipped
            return
        batch_tokens = self.settled.config.train.batch_tokens
        since = (self.step - self._marked_step) * batch_tokens
        speed = since / max(1e-9, self.seconds - self._marked_seconds)
        self._marked_seconds, self._marked_step = self.seconds, self.step
        row: Row = {
            "step": self.step, "tokens": self.step * batch_tokens, "loss": math.fsum(self._pending) / len(self._pending),
            "learning_rate": rate, "gradient_norm": self._norm, "tokens_per_second": speed, "seconds": self.seconds,
        }  # fmt: skip
        self._pending = []
        self._append(CURVE, row)
        if not self.pruned:
            self.pruned = bool(self.member.on_rows([row]))

    def _append(self, name: str, entry: dict[str, Any]) -> None:
        line = json.dumps(entry) + "\n"
        self._lines[name].append(line)
        self._streams[name].write(line)
        self._streams[name].flush()

    def result(self, runs: int = 1) -> Trained:
        """Return the result of the finished run, after checking both files.

        Raises:
            RunFailed: All of its last steps were skipped.
        """
        for name, content in self.records().items():
            self._streams[name].close()
            path = self.folder / name
            if not path.exists() or path.read_bytes() != content.encode():
                print(f"warning: {path} was changed by another program; it is rewritten", file=sys.stderr)
                write_atomic(path, content)
        if not self._tail:
            raise RunFailed(f"{self.skipped} steps were skipped, including all of the last ones; see {self.folder / EVENTS}")
        loss = math.fsum(self._tail) / len(self._tail)
        return Trained(loss, self.seconds, self.settled.tokens / max(self.seconds, 1e-9), self.skipped, runs)


def _mean_and_spread(values: deque[float]) -> tuple[float, float]:
    """Mean and standard deviation. (``statistics`` takes longer than a step of a small run in a stack.)"""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def failure(settled: Settled, step: int, losses: list[float], norm: float) -> RunFailed:
    """Return the error of a run after ``step`` steps, whose next one has a loss or gradient that is not finite."""
    bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), 0)
    return RunFailed(
        f"step {step + 1} of {settled.steps}: loss {losses[bad]:g}, gradient norm {norm:g} "
        f"in micro batch {step * len(losses) + bad}; the weights were not changed. "
        f"Try a lower optimizer.scaling.base_lr, train.precision=fp32 or train.on_nonfinite=skip"
    )


def finite(losses: list[float], norm: float) -> bool:
    """Return whether a step may change the weights."""
    return math.isfinite(norm) and all(math.isfinite(loss) for loss in losses)

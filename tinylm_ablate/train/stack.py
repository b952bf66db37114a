"""Training of many runs of one shape as one program on one device.

The runs may differ in everything that does not change the shape of the program: seed, text and its order, initial weights,
learning rate, schedule, decay, betas, clip, and the batches of a later round. Each has its own curve, checkpoints and end: a
run that fails or is pruned leaves the stack, and a run that was stopped resumes from its own checkpoint, in another stack or
alone. A single run on a GPU is a stack of one, so that its steps are one graph; on a CPU it is trained by ``fit``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tinylm_ablate import progress
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.errors import Interrupted, Pruned
from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.signals import Stop
from tinylm_ablate.train import checkpoint
from tinylm_ablate.train.batch_order import Order, learning_rate
from tinylm_ablate.train.compile import compiled, worth_compiling
from tinylm_ablate.train.member import Checkpoint, Member, Trained
from tinylm_ablate.train.program import Program
from tinylm_ablate.train.record import Recorder, failure, finite
from tinylm_ablate.train.stack_key import stack_key, stackable

Outcome = Trained | Exception

#: Maximum steps between two looks at the runs, and their approximate maximum time in seconds.
_BLOCK, _BLOCK_SECONDS = 64, 0.25


def train_stack(members: Sequence[Member]) -> list[Outcome]:
    """Train runs with equal ``stack_key`` together, each resuming from its newest checkpoint.

    Args:
        members: The runs; afterwards, the decoders of finished runs have the trained weights.

    Returns:
        For each member its result, or the exception that ended it: ``RunFailed`` if its loss or gradient was not finite,
        ``Pruned``, ``Interrupted`` if a signal stopped the stack, or any other exception from reading or recording that run.
        Runs that were pruned or interrupted have saved their state. A run's exception does not affect the others.
    """
    outcomes: list[Outcome | None] = [None] * len(members)
    settled = members[0].settled
    keys = {stack_key(member.settled) for member in members}
    if len(keys) > 1:
        raise ValueError(f"runs with {len(keys)} different keys cannot train together")
    if not stackable(settled) or (len(members) == 1 and pick_device(settled.config.train.device) == "cpu"):
        return [_alone(member) for member in members]
    runs = []
    for index, member in enumerate(members):
        try:
            runs.append(_Run(index, member))
        except Exception as error:
            outcomes[index] = error
    if runs:
        too_large = False
        try:
            _Stack(runs, outcomes).train()
        except torch.OutOfMemoryError:
            if len(runs) == 1:
                raise
            too_large = True
        if too_large:  # outside the except block, whose traceback keeps the memory
            _free()
            waiting = [run.index for run in runs if outcomes[run.index] is None]
            half = (len(waiting) + 1) // 2
            for some in (waiting[:half], waiting[half:]):
                if some:
                    for index, outcome in zip(some, train_stack([members[index] for index in some]), strict=True):
                        outcomes[index] = outcome
    _free()
    assert all(outcome is not None for outcome in outcomes)
    return [outcome for outcome in outcomes if outcome is not None]


def _alone(member: Member) -> Outcome:
    """Train a run alone, with ``fit``."""
    from tinylm_ablate.train.lean import import_lightning

    import_lightning()
    from tinylm_ablate.train.fit import fit

    try:
        return fit(
            member.decoder, member.tokens, member.settled, member.folder, member.on_rows, member.start, member.points,
            member.on_point,
        )  # fmt: skip
    except Exception as error:
        return error


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Run:
    """A member in the stack, with its batches, recorder and checkpoint."""

    def __init__(self, index: int, member: Member) -> None:
        self.index, self.member, self.settled = index, member, member.settled
        restored = checkpoint.restore(member.folder / "checkpoint")
        self.order = Order(member.tokens, member.settled, member.start.order)
        self.opening = checkpoint.opening(member, restored)
        self.recorder = Recorder(member, self.order, restored)

    @property
    def left(self) -> int:
        """Remaining optimizer steps."""
        return self.settled.steps - self.recorder.step

    def until_a_look(self, done: int) -> int:
        """Return the steps, after ``done`` more, until the run ends or reaches a point; 0 if it is at one then."""
        step = self.recorder.step + done
        if done and step in self.member.points:
            return 0
        before_point = self.member.before_point(step)
        return self.left - done if before_point is None else min(before_point, self.left - done)


@dataclass
class _Block:
    """A block of steps of all active runs, see ``Program.start_block``."""

    steps: int
    active: list[bool]
    ids: np.ndarray
    rates: np.ndarray


class _Stack:
    """The runs of a stack and their program.

    Args:
        runs: One per row of the program.
        outcomes: Outcomes by the index of the member, added as runs end.
    """

    def __init__(self, runs: Sequence[_Run], outcomes: list[Outcome | None]) -> None:
        self.runs, self.outcomes = runs, outcomes
        settled = runs[0].settled
        train = settled.config.train
        torch.set_num_threads(thread_count(train.threads))
        self.device = pick_device(train.device)
        flops = flops_per_token(settled.shape, train.context_length)["training"] * sum(run.settled.tokens for run in runs)
        self.compiles = worth_compiling(settled, flops, graph_steps=settled.steps if self.device == "cuda" else 0)
        weights = [dict(run.member.decoder.named_parameters()) for run in runs]
        self.program = Program([run.settled for run in runs], weights, self.device, _BLOCK, self.compiles)
        for row, run in enumerate(runs):
            if run.opening is not None:
                self.program.restore(row, run.opening)
                run.opening = None
        self.block = 1
        self.ahead = self.device == "cuda"
        self.stop = Stop()
        self.clock = self.saved = time.monotonic()
        self.due = False

    @property
    def active(self) -> list[bool]:
        """The runs that have not ended."""
        return [self.outcomes[run.index] is None for run in self.runs]

    def train(self) -> None:
        """Train until every run has an outcome."""
        batch_tokens = self.runs[0].settled.config.train.batch_tokens
        done = sum(run.recorder.step for run in self.runs) * batch_tokens
        total = sum(run.settled.tokens for run in self.runs)
        title = f"train {len(self.runs)} runs" if len(self.runs) > 1 else "train"
        self.stop.watch()
        try:
            with (
                compiled(self.program.decoder, self.compiles),
                progress.bar(total=total, description=title, unit="tok") as bar,
            ):
                bar.update(done)
                for row, run in enumerate(self.runs):
                    if not run.left:  # its last session ended between the last checkpoint and the result
                        self._end(row)
                self.clock = self.saved = time.monotonic()
                flight: _Block | None = None
                while flight or any(self.active):
                    flight = flight or self._begin(self._prepare())
                    # The host prepares and records while the device computes: the next block starts before this one is
                    # recorded, unless runs must be checked in between.
                    upcoming = self._prepare(flight) if self.ahead else None
                    losses, norms = self.program.finish_block(flight.steps)
                    seconds = self._seconds(flight)
                    following = self._begin(upcoming) if upcoming and not self._wants_a_look() else None
                    last = self._record(flight, losses, norms, seconds)
                    bar.update(flight.steps * sum(flight.active) * batch_tokens)
                    if last:
                        bar.set_postfix_str(f"{sum(self.active)} active, mean loss {sum(last) / len(last):.3f}")
                    if following is None:
                        self._end_runs()
                    flight = following
        finally:
            self.stop.close()

    def _prepare(self, flight: _Block | None = None) -> _Block | None:
        """Return the next steps, up to the next end or point of an active run; None if one is there already."""
        active, program, done = self.active, self.program, flight.steps if flight else 0
        left = [run.until_a_look(done) for run, on in zip(self.runs, active, strict=True) if on]
        steps = min([self.block, program.block, *left]) if left else 0
        if not steps:
            return None
        ids = np.zeros((steps, *program.ids.shape[1:]), np.int32)
        rates = np.zeros((steps, len(self.runs)))
        for row, run in enumerate(self.runs):
            if active[row]:
                first = run.recorder.step + done
                own = run.order.inputs(range(first, first + steps))
                ids[:, :, row] = own.reshape(steps, program.accumulation, program.micro_batch, -1)
                rates[:, row] = [learning_rate(run.settled, first + place) for place in range(steps)]
        return _Block(steps, active, ids, rates)

    def _begin(self, block: _Block | None) -> _Block:
        assert block is not None, "an active run has steps left"
        self.program.start_block(block.ids, block.rates, block.active)
        return block

    def _seconds(self, block: _Block) -> float:
        """Seconds per step. Blocks take a quarter of a second, so that signals and pruning take effect soon."""
        now = time.monotonic()
        seconds, self.clock = (now - self.clock) / block.steps, now
        self.block = max(1, min(2 * self.block, int(_BLOCK_SECONDS / max(seconds, 1e-9))))
        minutes = min(run.settled.config.train.checkpoint_minutes for run in self.runs)
        self.due = now - self.saved > 60 * minutes
        return seconds

    def _wants_a_look(self) -> bool:
        """Return whether runs must be saved or ended before the next block."""
        pruned = any(run.recorder.pruned and on for run, on in zip(self.runs, self.active, strict=True))
        return self.due or pruned or bool(self.stop.signum)

    def _record(self, block: _Block, losses: np.ndarray, norms: np.ndarray, seconds: float) -> list[float]:
        """Pass each run its losses; returns the last finite loss of each."""
        last = []
        for row, run in enumerate(self.runs):
            if not block.active[row] or self.outcomes[run.index] is not None:
                continue
            try:
                for place in range(block.steps):
                    of_step, norm = losses[place, :, row].tolist(), float(norms[place, row])
                    if not finite(of_step, norm) and run.settled.config.train.on_nonfinite == "stop":
                        self.outcomes[run.index] = failure(run.settled, run.recorder.step, of_step, norm)
                        break
                    run.recorder.take(of_step, norm, float(block.rates[place, row]), seconds)
                    if place == block.steps - 1 and finite(of_step, norm):
                        last.append(of_step[-1])
            except Exception as error:
                self.outcomes[run.index] = error
        return last

    def _end_runs(self) -> None:
        """Save and end the runs that are finished, pruned or interrupted; save the others if a checkpoint is due."""
        for row, run in enumerate(self.runs):
            if self.outcomes[run.index] is not None:
                continue
            recorder, steps = run.recorder, run.settled.steps
            try:
                ends = not run.left or recorder.pruned or self.stop.signum
                if recorder.step in run.member.points:  # first, so that a run that resumes has all points before its checkpoint
                    run.member.on_point(self.program.optimizer.final_weights(row), self._state(row))
                if ends or self.due:
                    checkpoint.save(run.member.folder / "checkpoint", self._state(row))
                if self.stop.signum:  # also if a run is at its last step, since the command must end
                    self.outcomes[run.index] = Interrupted(
                        self.stop.signum,
                        f"stopped at step {recorder.step} of {steps}; saved in {run.member.folder}. "
                        "The same command resumes from there",
                    )
                elif not run.left:
                    self._end(row)
                elif recorder.pruned:
                    self.outcomes[run.index] = Pruned(
                        f"pruned at step {recorder.step} of {steps}; saved in {run.member.folder}"
                    )
            except Exception as error:
                self.outcomes[run.index] = error
        if self.due:
            self.saved, self.due = time.monotonic(), False
        self.clock = time.monotonic()

    def _state(self, row: int) -> Checkpoint:
        recorder = self.runs[row].recorder
        kept, counters = self.program.optimizer.state_of(row)
        return Checkpoint(recorder.step, self.program.weights_of(row), kept, counters, recorder.state(), recorder.records())

    def _end(self, row: int) -> None:
        """Finish a run: copy its trained weights to the member's decoder, and record its result."""
        run = self.runs[row]
        try:
            with torch.no_grad():
                run.member.decoder.load_state_dict(self.program.optimizer.final_weights(row))
            self.outcomes[run.index] = run.recorder.result(len(self.runs))
        except Exception as error:
            self.outcomes[run.index] = error

"""Overhead of Lightning, the log, the progress bar and checkpoints over the raw loop, on the baseline of scale s32.

Both train on the same tokens with the same compiled layers. A window is the time from the end of the first step to the end of
the last; a checkpoint is measured by itself and spread over the ten minutes between two.

"stack" is the same for the driver of a stack: four runs of that baseline against a loop over the steps of their program, and
"stack-tiny" eight runs whose steps take milliseconds, for which the driver costs most. Its share is also measured within each
window: the part of the driver's time outside of the program's steps.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measure import THREADS, Result, clock, interleaved, quartiles

STEPS = 10

#: Parts for the stack's driver: runs, steps, and the shape if it is not the scale's.
STACKS: dict[str, tuple[int, int, list[str]]] = {
    "stack": (4, STEPS, ["train.compile=true"]),
    "stack-tiny": (8, 40, [
        "arch.depth=2", "arch.width=16", "arch.ffn_width=24", "train.context_length=64", "train.batch_tokens=128",
        "train.log_every=10", "train.compile=false",
    ]),
}  # fmt: skip

PARTS = ("N", *STACKS)


def run(part: str, windows: int) -> Result:
    """Measure both alternately, with eight sequences per step, as at this scale."""
    if part in STACKS:
        return _stack(*STACKS[part], windows)
    import numpy as np
    import torch

    from tinylm_ablate import progress
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.data.batches import Batches
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.optimizer.optimizers import build_optimizer, optimizer_state
    from tinylm_ablate.settle import settle
    from tinylm_ablate.train import checkpoint
    from tinylm_ablate.train.compile import compiled
    from tinylm_ablate.train.fit import fit

    progress.configure("on")
    with tempfile.TemporaryDirectory() as folder:
        settled = settle(
            compose([
                "scale=s32", f"train.tokens={2048 * STEPS}", "train.compile=true",
                f"train.threads={THREADS}", f"runs_dir={folder}", "cache_dir=runs/cache",
            ])
        )  # fmt: skip
        tokens = np.random.default_rng(0).integers(0, settled.shape.vocab_size, 2048 * STEPS + 257).astype(np.uint16)
        decoder = Decoder(settled.shape)
        initialize(decoder, settled.init, 0)
        fast = settled.precision == "bf16"
        number = iter(range(1000))
        seconds: dict[str, list[float]] = {"ours": [], "raw loop": []}

        def ours() -> None:
            marks: list[float] = []
            fit(decoder, tokens, settled, Path(folder) / str(next(number)), lambda _: marks.append(clock()))
            # A row of the curve is written every log_every steps, before the last checkpoint.
            seconds["ours"].append((marks[-1] - marks[0]) / (STEPS - settled.config.train.log_every))

        def raw() -> None:
            torch.set_num_threads(THREADS)
            optimizer = build_optimizer(decoder, settled.optimizer, settled.learning_rate)
            batches = Batches(tokens, 256, 0, round=0)
            with contextlib.ExitStack() as stack:
                stack.enter_context(compiled(decoder, True))
                for step in range(STEPS):
                    if step == settled.config.train.log_every:
                        start = clock()
                    ids = torch.from_numpy(batches.inputs(np.arange(step * 8, (step + 1) * 8, dtype=np.int64)))
                    with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                        loss = decoder.loss(ids[:, :-1], ids[:, 1:])
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                seconds["raw loop"].append((clock() - start) / (STEPS - settled.config.train.log_every))

        paths: dict[str, Callable[[], object]] = {"ours": ours, "raw loop": raw}
        interleaved(paths, windows)
        saving = []
        optimizer = build_optimizer(decoder, settled.optimizer, settled.learning_rate)
        decoder.loss(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long)).backward()
        optimizer.step()
        for step in range(5):
            start = clock()
            kept, counters = optimizer_state(optimizer, decoder)
            records = {"curve.jsonl": "", "events.jsonl": ""}
            saved = checkpoint.Checkpoint(step, decoder.state_dict(), kept, counters, {}, records)
            checkpoint.save(Path(folder) / "saved", saved)
            saving.append(clock() - start)
    counted = {name: each[1:] for name, each in seconds.items()}
    ratio = quartiles([a / b for a, b in zip(counted["ours"], counted["raw loop"], strict=True)])
    between = 60 * settled.config.train.checkpoint_minutes
    return {
        "seconds_per_step": {name: quartiles(each) | {"windows": each} for name, each in counted.items()},
        "ratio": ratio,
        "checkpoint_seconds": quartiles(saving),
        "overhead_percent": 100 * (ratio["median"] - 1 + quartiles(saving)["median"] / between),
    }


def _stack(runs: int, steps: int, shape: list[str], windows: int) -> Result:
    """Measure the driver of a stack against a loop over the steps of its program."""
    import numpy as np
    import torch

    from tinylm_ablate import progress
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.settle import settle
    from tinylm_ablate.train import stack
    from tinylm_ablate.train.compile import compiled
    from tinylm_ablate.train.member import Member
    from tinylm_ablate.train.program import Program

    class Timed(Program):
        """A program that sums the seconds of its steps."""

        inside: float

        def start_block(self, *block: Any) -> None:
            begin = clock()
            super().start_block(*block)
            Timed.inside += clock() - begin

        def finish_block(self, steps: int) -> Any:
            begin = clock()
            done = super().finish_block(steps)
            Timed.inside += clock() - begin
            return done

    progress.configure("on")
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as context:
        words = [
            "scale=s32", f"train.threads={THREADS}", f"runs_dir={folder}", "cache_dir=runs/cache", *shape,
        ]  # fmt: skip
        train = compose(words).train
        settled = [
            settle(compose([*words, f"train.tokens={train.batch_tokens * steps}", f"seed={seed}"])) for seed in range(runs)
        ]
        vocabulary, length = settled[0].shape.vocab_size, settled[0].config.train.context_length
        draw = np.random.default_rng(0)
        tokens = draw.integers(0, vocabulary, train.batch_tokens * steps + length + 1).astype(np.uint16)
        decoders = [Decoder(each.shape) for each in settled]
        for seed, decoder in enumerate(decoders):
            initialize(decoder, settled[0].init, seed)
        weights = [dict(decoder.named_parameters()) for decoder in decoders]
        program = Program(settled, weights, "cpu", 1, compiles=False)
        context.enter_context(compiled(program.decoder, bool(train.compile)))
        ids = draw.integers(0, vocabulary, (1, *program.ids.shape[1:])).astype(np.int32)
        context.enter_context(mock.patch.object(stack, "Program", Timed))
        first, outside = settled[0].config.train.log_every, []
        seconds: dict[str, list[float]] = {"ours": [], "raw loop": []}

        def ours() -> None:
            marks: list[tuple[float, float]] = []
            Timed.inside, home = 0.0, Path(tempfile.mkdtemp(dir=folder))
            members = [
                Member(decoder, tokens, each, home / str(each.config.seed), lambda _: None)
                for decoder, each in zip(decoders, settled, strict=True)
            ]
            members[0].on_rows = lambda _: marks.append((clock(), Timed.inside))
            stack.train_stack(members)
            (begin, before), (end, after) = marks[0], marks[-1]
            seconds["ours"].append((end - begin) / (steps - first))
            outside.append(100 * (1 - (after - before) / (end - begin)))

        def raw() -> None:
            for step in range(steps):
                if step == first:
                    begin = clock()
                program.start_block(ids, np.full((1, runs), 1e-4), [True] * runs)
                program.finish_block(1)
            seconds["raw loop"].append((clock() - begin) / (steps - first))

        interleaved({"ours": ours, "raw loop": raw}, windows)
    counted = {name: each[1:] for name, each in seconds.items()}
    return {
        "runs": runs,
        "seconds_per_step": {name: quartiles(each) | {"windows": each} for name, each in counted.items()},
        "ratio": quartiles([a / b for a, b in zip(counted["ours"], counted["raw loop"], strict=True)]),
        "outside_percent": quartiles(outside[1:]),
        "overhead_percent": quartiles(outside[1:])["median"],
    }

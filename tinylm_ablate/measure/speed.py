"""The speed of generation, measured once for each shape, protocol and machine (Tables 2, 3 and 12).

It does not depend on the weights, so it belongs to no single run: all seeds of a shape share one measurement.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tinylm_ablate.arch.shapes import Shape, plain
from tinylm_ablate.config import DecodeConfig
from tinylm_ablate.data.once import locked
from tinylm_ablate.files import fingerprint, write_atomic
from tinylm_ablate.hardware import pick_device
from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.provenance import provenance
from tinylm_ablate.settled import Settled

#: The measured value's name among a run's metrics.
METRIC = "decode/tokens_per_second"


class DecodingSpeed:
    """New tokens per second by the paper's protocol (``evaluate.decode``), with random weights."""

    name = "decoding_speed"
    weights = False

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One for this machine, where ``evaluate.decode.measure`` requests it."""
        config = run.config
        if not config.evaluate.decode.measure:
            return []
        return [protocol(config.evaluate.decode, config.train.device, config.train.threads)]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Measure the shape, or read what another run of it measured."""
        return Result({METRIC: decode_speed_once(subject.run.shape, dict(settings), subject.run.cache)})


def protocol(config: DecodeConfig, device: str, threads: int | str) -> dict[str, Any]:
    """What is measured, and where: everything beside the shape that the number depends on.

    Args:
        config: Batch, prefix, new tokens and precision.
        device: As ``train.device``: "auto" is a GPU if there is one.
        threads: As ``train.threads``: "auto" is one a core.
    """
    import torch

    device = pick_device(device)
    machine = provenance()["machine"]
    precision = config.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "fp16"
    return {
        "batch": config.batch,
        "prefix": config.prefix,
        "new_tokens": config.new_tokens,
        "repeats": config.repeats,
        "precision": precision,
        "device": device,
        "threads": machine["cores"] if isinstance(threads, str) else threads,
        "machine": torch.cuda.get_device_name() if device == "cuda" else machine["processor"],
    }


def decode_speed_once(shape: Shape, wanted: dict[str, Any], cache_dir: Path) -> float:
    """New tokens a second over the whole batch, from ``cache_dir/decode`` if it was measured before.

    Args:
        shape: The decoder.
        wanted: The protocol.
        cache_dir: Folder that runs share. Two measurements never stand beside each other; other work may.
    """
    folder = cache_dir / "decode"
    path = folder / f"{fingerprint({'shape': plain(shape), **wanted})}.json"
    with locked(folder / "measuring", "a measurement of decode speed"):
        if (kept := _kept(path)) is None:
            kept = _measure(shape, wanted)
            write_atomic(path, json.dumps({"tokens_per_second": kept, **wanted}, indent=1, sort_keys=True))
    return kept


def _kept(path: Path) -> float | None:
    """What was measured before; None where nothing was, or where the file is damaged."""
    try:
        found = float(json.loads(path.read_text())["tokens_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if math.isfinite(found) and found > 0 else None


def _measure(shape: Shape, wanted: dict[str, Any]) -> float:
    import torch

    from tinylm_ablate.arch.decoding import decode_speed

    threads = torch.get_num_threads()
    torch.set_num_threads(wanted["threads"])
    sizes = wanted["batch"], wanted["prefix"], wanted["new_tokens"]
    try:
        # The fastest, since what else the machine does can only make it slower.
        return max(decode_speed(shape, *sizes, wanted["precision"], device=wanted["device"]) for _ in range(wanted["repeats"]))
    finally:
        torch.set_num_threads(threads)

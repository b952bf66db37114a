"""Speed of generation, measured once per shape, protocol and machine (Tables 2, 3 and 12).

It does not depend on the weights, so it belongs to no single run: all seeds of a shape share one measurement. Our decoder can
be compared with llama.cpp, which runs exported models on phones.
"""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.arch.shapes import Shape, plain
from tinylm_ablate.config import DecodeConfig
from tinylm_ablate.data.once import locked
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint, write_atomic
from tinylm_ablate.hardware import pick_device, torch_threads
from tinylm_ablate.measure.llama_speed import generation_speed
from tinylm_ablate.measure.quantized import check_gguf
from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.provenance import provenance
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from tinylm_ablate.tokenizer.vocabulary import Vocabulary

#: Name of the metric.
METRIC = "decode/tokens_per_second"


class DecodingSpeed:
    """New tokens per second by the paper's protocol (``evaluate.decode``), with random weights."""

    name = "decoding_speed"
    weights = False

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One for this machine, if ``evaluate.decode.measure`` requests it."""
        config = run.config
        if not config.evaluate.decode.measure:
            return []
        return [protocol(config.evaluate.decode, config.train.device, config.train.threads)]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Measure the shape, or read the measurement of another run with this shape."""
        return Result({METRIC: decode_speed_once(subject.run.shape, dict(settings), subject.run.cache)})


def protocol(config: DecodeConfig, device: str, threads: int | str) -> dict[str, Any]:
    """Protocol and machine: everything that affects the speed, apart from the shape.

    Args:
        config: Batch, prefix, new tokens and precision.
        device: Like ``train.device``: "auto" is a GPU if there is one.
        threads: Like ``train.threads``: "auto" is one per core.
    """
    device = pick_device(device)
    machine = provenance()["machine"]
    name = machine["processor"]
    if device == "cuda":  # without one, a plan or a status needs no torch
        import torch

        name = torch.cuda.get_device_name()
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
        "machine": name,
    }


class ExportedSpeed:
    """New tokens per second and memory of llama.cpp on this CPU, by type of weights, and of our decoder."""

    name = "exported_speed"
    weights = False

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One for our own decoder and one per kind of weights that ``evaluate.decode.llama_cpp`` names, for this machine.

        Raises:
            UserError: A package that it needs is not installed.
        """
        config = run.config
        kinds = list(dict.fromkeys(config.evaluate.decode.llama_cpp))
        if not kinds:
            return []
        check_gguf("evaluate.decode.llama_cpp")
        if importlib.util.find_spec("llama_cpp") is None:
            raise UserError(
                "evaluate.decode.llama_cpp: llama.cpp's package is not installed; pip install 'tinylm-ablate[llama-cpp]' (it "
                "may be compiled, which takes some minutes)"
            )
        wanted = protocol(config.evaluate.decode, "cpu", config.train.threads)
        del wanted["precision"], wanted["device"]
        return [{"weights": kind, **wanted} for kind in ("own", *kinds)]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Measure the shape with random weights and the run's tokenizer, or read the measurement of another run.

        Returns:
            Metrics ``decode/llama_cpp/q4_0/tokens_per_second`` and ``/memory`` (bytes, see ``generation_speed``), or the same
            below ``decode/own`` in single precision.
        """
        run, wanted = subject.run, dict(settings)
        place = "decode/own" if wanted["weights"] == "own" else f"decode/llama_cpp/{wanted['weights']}"
        found = _once(run.shape, wanted, run.cache, partial(_exported_speed, run, subject.vocabulary, wanted))
        return Result({f"{place}/{key}": value for key, value in found.items()})


def decode_speed_once(shape: Shape, wanted: dict[str, Any], cache_dir: Path) -> float:
    """New tokens per second over the whole batch, from ``cache_dir/decode`` if it was measured before.

    Args:
        shape: The decoder.
        wanted: The protocol.
        cache_dir: Shared cache folder.
    """
    return _once(shape, wanted, cache_dir, lambda: {"tokens_per_second": _measure(shape, wanted)})["tokens_per_second"]


def _once(shape: Shape, wanted: dict[str, Any], cache_dir: Path, made: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the result of ``made``, or its earlier result. Two measurements never run at the same time; other work may."""
    folder = cache_dir / "decode"
    path = folder / f"{fingerprint({'shape': plain(shape), **wanted})}.json"
    with locked(folder / "measuring", "a measurement of decode speed"):
        if (kept := _kept(path, wanted)) is None:
            kept = made()
            write_atomic(path, json.dumps({**kept, **wanted}, indent=1, sort_keys=True))
    return kept


def _kept(path: Path, wanted: dict[str, Any]) -> dict[str, float] | None:
    """Return the earlier measurement; None if there is none, or if the file is damaged."""
    try:
        found = {key: float(value) for key, value in json.loads(path.read_text()).items() if key not in wanted}
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    sound = all(math.isfinite(value) for value in found.values()) and found.get("tokens_per_second", 0) > 0
    return found if sound else None


def _exported_speed(run: Settled, vocabulary: Vocabulary, wanted: dict[str, Any]) -> dict[str, float]:
    """Tokens per second and memory of a shape, from a file with random weights."""
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.formats.gguf_export import export_gguf
    from tinylm_ablate.formats.huggingface import Model, save

    decoder = Decoder(run.shape)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in decoder.parameters():
            _ = parameter.normal_(0, 0.02) if parameter.ndim > 1 else parameter.fill_(1)
    tokenizer, context = vocabulary.folder / "tokenizer.json", wanted["prefix"] + wanted["new_tokens"]
    model = Model(decoder.state_dict(), run.shape, tokenizer, context, vocabulary.end_of_text)
    with tempfile.TemporaryDirectory(dir=run.cache, prefix=".exported.") as folder:
        if wanted["weights"] == "own":
            path = Path(folder) / "model"
            save(path, model)
        else:
            path = Path(folder) / "model.gguf"
            export_gguf(path, model, wanted["weights"])
        del decoder, model
        return generation_speed(path, wanted)


def _measure(shape: Shape, wanted: dict[str, Any]) -> float:
    from tinylm_ablate.arch.decoding import decode_speed

    sizes = wanted["batch"], wanted["prefix"], wanted["new_tokens"]
    with torch_threads(wanted["threads"]):
        # The fastest, since other programs on the machine can only slow it down.
        return max(decode_speed(shape, *sizes, wanted["precision"], device=wanted["device"]) for _ in range(wanted["repeats"]))

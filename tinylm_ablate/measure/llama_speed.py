"""Speed and memory of greedy generation with llama.cpp or our decoder, in a separate process.

``python -m tinylm_ablate.measure.llama_speed MODEL BATCH PREFIX NEW_TOKENS THREADS REPEATS KERNELS`` prints one JSON object. A
model that ends in .gguf is read by llama.cpp's Python package (the extra ``llama-cpp``), a folder by our decoder. A separate
process is needed because memory is measured per process, and because the two libraries should not share threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError


def generation_speed(model: Path, wanted: dict[str, Any]) -> dict[str, float]:
    """Measure a GGUF file or a folder in a new process.

    Args:
        model: The model.
        wanted: ``batch``, ``prefix``, ``new_tokens``, ``threads`` and ``repeats``.

    Returns:
        ``tokens_per_second`` over the whole batch in the fastest repeat, and ``memory`` in bytes: resident after generation
        minus that before reading the model.

    Raises:
        UserError: The process failed.
    """
    sizes = [str(wanted[key]) for key in ("batch", "prefix", "new_tokens", "threads", "repeats")]
    for kernels in ("fast", "plain"):
        command = [sys.executable, "-m", __name__, str(model), *sizes, kernels]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(wanted["threads"]))
        if ended.returncode != -signal.SIGILL:
            break  # a virtual machine may report instructions that it does not support, such as Intel's AMX
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{model}: generation failed with code {ended.returncode}: {last:.300}")
    found: dict[str, float] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def _environment(threads: int) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}


def _llama_cpp(
    path: Path, batch: int, prefix: int, new_tokens: int, threads: int, fast: bool
) -> Callable[[int], list[list[int]]]:
    """Return a function that generates n tokens per sequence with llama.cpp after the prefix.

    Args:
        path: The GGUF file.
        batch, prefix, new_tokens: Sequences, tokens of the prompt, maximum tokens to generate.
        threads: CPU threads.
        fast: Whether llama.cpp may store weights in its own layouts, for special instructions.

    Raises:
        UserError: llama.cpp cannot read the file, or fails.
    """
    import ctypes

    import llama_cpp as lib
    import numpy as np

    silent = lib.llama_log_callback(lambda _level, _text, _data: None)
    lib.llama_log_set(silent, ctypes.c_void_p(0))
    lib.llama_backend_init()
    options = lib.llama_model_default_params()
    options.n_gpu_layers, options.use_mmap, options.use_extra_bufts = 0, False, fast
    model = lib.llama_model_load_from_file(str(path).encode(), options)
    if not model:
        raise UserError(f"{path}: llama.cpp cannot read it")
    settings = lib.llama_context_default_params()
    settings.n_seq_max, settings.n_ctx = batch, batch * (prefix + new_tokens)
    settings.n_batch = settings.n_ubatch = max(512, batch * prefix)
    settings.n_threads = settings.n_threads_batch = threads
    context = lib.llama_init_from_model(model, settings)
    if not context:
        raise UserError(f"{path}: llama.cpp has not enough memory for {batch} sequences of {prefix + new_tokens} tokens")
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    prompt = np.random.default_rng(0).integers(size, size=(batch, prefix))
    block = lib.llama_batch_init(batch * prefix, 0, 1)

    def read(tokens: Any, start: int) -> Any:
        """Read (B, n) tokens at the positions from ``start`` on; returns the most likely next tokens, (B, 1)."""
        count = tokens.shape[1]
        block.n_tokens = tokens.size
        for place, token in enumerate(tokens.ravel().tolist()):
            block.token[place], block.pos[place] = token, start + place % count
            block.n_seq_id[place], block.seq_id[place][0] = 1, place // count
            block.logits[place] = int(place % count == count - 1)
        if code := lib.llama_decode(context, block):
            raise UserError(f"{path}: llama.cpp failed with code {code}")
        last = [lib.llama_get_logits_ith(context, row * count + count - 1) for row in range(batch)]
        return np.array([[int(np.ctypeslib.as_array(logits, (size,)).argmax())] for logits in last])

    def generate(count: int) -> list[list[int]]:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        tokens = read(prompt, 0)
        found = [tokens]
        for position in range(prefix, prefix + count - 1):
            tokens = read(tokens, position)
            found.append(tokens)
        result: list[list[int]] = np.concatenate(found, axis=1).tolist()
        return result

    return generate


def _own(folder: Path, batch: int, prefix: int, threads: int) -> Callable[[int], list[list[int]]]:
    """Return the same function for our decoder."""
    import numpy as np
    import torch

    from tinylm_ablate.arch.decoding import generate
    from tinylm_ablate.formats.huggingface import load_model

    torch.set_num_threads(threads)
    decoder = load_model(folder).requires_grad_(False).eval()
    prompt = torch.from_numpy(np.random.default_rng(0).integers(decoder.shape.vocab_size, size=(batch, prefix)))

    def made(count: int) -> list[list[int]]:
        found: list[list[int]] = generate(decoder, prompt, count)[:, prefix:].tolist()
        return found

    return made


def main(arguments: list[str]) -> None:
    """Measure, and print the result."""
    import psutil

    model, (batch, prefix, new_tokens, threads, repeats) = Path(arguments[0]), map(int, arguments[1:6])
    if model.suffix == ".gguf":
        import llama_cpp  # noqa: F401  its own memory is not the model's
    else:
        import tinylm_ablate.arch.decoding
        import tinylm_ablate.formats.huggingface  # noqa: F401
    before = psutil.Process().memory_info().rss
    made = (
        _llama_cpp(model, batch, prefix, new_tokens, threads, arguments[6] == "fast")
        if model.suffix == ".gguf"
        else _own(model, batch, prefix, threads)
    )
    made(min(8, new_tokens))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        made(new_tokens)
        times.append(time.perf_counter() - begin)
    memory = psutil.Process().memory_info().rss - before
    print(json.dumps({"tokens_per_second": batch * new_tokens / min(times), "memory": memory}))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        raise SystemExit(str(error)) from None

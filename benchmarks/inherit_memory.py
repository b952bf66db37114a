"""Memory for cutting a child from a much larger parent.

    python benchmarks/inherit_memory.py [--small]

A checkpoint of random weights is written in bf16, in four shards or more, to a temporary folder (2.1 GB; with ``--small`` 0.2
GB), and a child is cut from it in a separate process: parent opened, units scored, weights cut, decoder created. The peak of
that process is compared with its size before: the limit is 1.5 times the child's weights in fp32 plus one shard. Prints JSON;
the exit code is 1 if the limit is exceeded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

#: Parent and child as (depth, width, FFN width, heads, head size, vocabulary), and bytes of a shard.
SIZES = {
    "large": ((18, 2048, 5632, 16, 128, 32_000), (9, 1024, 2816, 8, 128, 32_000), 540 * 10**6),
    "small": ((8, 1024, 2816, 16, 64, 8_000), (4, 512, 1408, 8, 64, 8_000), 60 * 10**6),
}
STEPS = ("write", "cut")


def main() -> int:
    """Run the command; returns its exit code.

    It imports no libraries: on Linux, the peak of a process starts with that of its parent.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a parent of 0.2 GB instead of 2.1 GB")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = "small" if options.small else "large"
    if options.step:
        {"write": write, "cut": cut}[options.step](size, options.folder)
        return 0
    with tempfile.TemporaryDirectory(prefix="inherit_memory.") as folder:
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--folder", folder, *(["--small"] if options.small else [])]
            # Otherwise glibc keeps a varying part of what is freed, which is not the memory that the cut needs.
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    found["aim_mb"] = round(1.5 * found["child_mb"] + found["largest_shard_mb"], 1)
    print(json.dumps(found, indent=1))
    return int(found["grown_by_mb"] > found["aim_mb"])


def write(size: str, folder: Path) -> None:
    """Write the parent shard by shard, with a synthetic vocabulary."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models

    from tinylm_ablate.formats.model_config import huggingface_config
    from tinylm_ablate.formats.tensors import tensor_sizes

    shape, limit = _shape(SIZES[size][0]), SIZES[size][2]
    torch.manual_seed(0)
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}

    def flush() -> None:
        name = f"model-{len(set(index.values())) + 1:05}.safetensors"
        save_file(shard, folder / name)
        index.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, dimensions in tensor_sizes(shape).items():
        shard[name] = (torch.randn(dimensions) * 0.02).bfloat16()
        if sum(2 * tensor.numel() for tensor in shard.values()) > limit:
            held = shard.popitem()
            flush()
            shard.update([held])
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(huggingface_config(shape, 1024, 0)))
    entries = {f"entry{number}": number for number in range(shape.vocab_size)}
    Tokenizer(models.BPE(entries, [])).save(str(folder / "tokenizer.json"))


def cut(size: str, folder: Path) -> None:
    """Cut the child like a run, and print memory and time."""
    import safetensors.torch  # noqa: F401 - its imports are part of the initial size

    import tinylm_ablate.init.initial  # noqa: F401
    from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
    from tinylm_ablate.formats.huggingface import take_decoder
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.inherit import inherit, open_scores
    from tinylm_ablate.init.parents import open_parent

    shape = _shape(SIZES[size][1])
    vocabulary = FolderVocabulary.read(folder)
    assert vocabulary is not None
    init = compose(["init=inherit", "init.std=0.02"]).init
    before = _memory()
    with _sampled() as samples:
        parent = open_parent(str(folder), folder)
        (scores,) = open_scores([parent], init.criterion, folder / "cache")
        state, _ = inherit(parent, shape, vocabulary, init, 0, scores=scores)
        decoder = take_decoder(state, shape)
    peak = max(samples)
    shards = [path.stat().st_size for path in folder.glob("*.safetensors")]
    found = {
        "parent_mb": sum(shards),
        "shards": len(shards),
        "largest_shard_mb": max(shards),
        "child_mb": sum(4 * parameter.numel() for parameter in decoder.parameters()),
        "before_mb": before,
        "peak_mb": peak,
        "grown_by_mb": peak - before,
    }
    print(json.dumps({name: value if name == "shards" else round(value / 1e6, 1) for name, value in found.items()}))


def _shape(sizes: tuple[int, ...]):  # type: ignore[no-untyped-def]
    from tinylm_ablate.arch.shapes import Shape

    depth, width, ffn_width, heads, head_dim, vocab_size = sizes
    return Shape(depth, width, ffn_width, heads, heads, head_dim, vocab_size)


@contextlib.contextmanager
def _sampled() -> Iterator[list[int]]:
    """Collect the memory of the process every millisecond, and once at the end."""
    samples: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.001):
            samples.append(_memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
        samples.append(_memory())


def _memory() -> int:
    """Return the memory of the process in bytes, on Linux without pages of files, which the system may drop at any time."""
    status = Path("/proc/self/status")
    if not status.is_file():
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else 1024 * largest
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+)", status.read_text())[0])


if __name__ == "__main__":
    sys.exit(main())

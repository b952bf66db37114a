"""Damaged and malicious models and tokenizers: every reader must refuse them with one message, quickly and in little memory.

    python benchmarks/fuzz.py [COUNT [READER ...]]

Each reader gets COUNT mutations (10,000) of small valid files in a separate process. Any exception other than ``UserError``,
more than 5 s, or a process larger than 1 GB is a failure. The test suite uses a small number of the same mutations
(``tests/formats/test_fuzz.py``).
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Maximum seconds per file, and maximum size of the process in kilobytes.
SECONDS, KILOBYTES = 5.0, 1_000_000

#: Values to insert that no valid file has.
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 10**9, 2**31, 2**63, 2**200, -(2**63), 1e-320, 1e308, float("inf"), float("-inf"),
    float("nan"), "", "x" * 5_000, "\ud800", "\x00", [], {}, [[]], [None],
    {"type": "Sequence"}, [[[[[[[[]]]]]]]], "default", 0.5,
)  # fmt: skip
_NUMBERS = (0, 1, 2**7, 2**16, 2**31, 2**32 - 1, 2**61, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Reader:
    """A reader of users' files.

    Attributes:
        make: Writes a valid file into a folder and returns the one that is mutated.
        read: Reads the complete file in the folder; may raise ``UserError``.
        json: Whether the file is JSON, whose values are also exchanged.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    json: bool = False


def mutated(content: bytes, draw: random.Random, is_json: bool) -> bytes:
    """Return a file's content with one or several mutations."""
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        content = _mutated_json(content, draw) if is_json and draw.random() < 0.7 else _mutated_bytes(content, draw)
    return content


def _mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    # Headers are at the start.
    at = min(at, draw.randrange(256)) if draw.random() < 0.5 else at
    match draw.randrange(6):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        case 2:
            return content[:at] + draw.randbytes(draw.randrange(1, 20)) + content[at:]
        case 3:
            return content[:at] + content[at + draw.randrange(1, 100) :]
        case 4:
            return content[:at] + content[at : at + draw.randrange(1, 200)] * draw.randrange(1, 50) + content[at:]
        case _:
            size = draw.choice((4, 8))
            number = (draw.choice(_NUMBERS) & (2 ** (8 * size) - 1)).to_bytes(size, "little")
            return content[:at] + number + content[at + size :]


def _mutated_json(content: bytes, draw: random.Random) -> bytes:
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return _mutated_bytes(content, draw)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any, depth: int = 0) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            places.append((value, key))
            if depth < 6:
                walk(inner, depth + 1)

    walk(whole)
    if not places:
        return content
    # Only few values are at the top level, and most are in the vocabulary.
    container, key = draw.choice(places[:60] if draw.random() < 0.6 else places)
    match draw.randrange(4):
        case 0:
            del container[key]
        case 1 if isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        case 2:
            other, name = draw.choice(places)
            try:
                container[key] = copy.deepcopy(other[name])
            except (KeyError, IndexError):
                container[key] = None
        case _:
            container[key] = copy.deepcopy(draw.choice(STRANGE))
    if draw.random() < 0.02:
        return (b"[" * 100_000) + json.dumps(whole).encode() + b"]" * 100_000
    return json.dumps(whole).encode()


def _shape() -> Any:
    from tinylm_ablate.arch.shapes import Shape

    return Shape(2, 16, 24, 2, 1, 8, 300)


def _tokenizer() -> str:
    """A byte-level tokenizer.json of 300 entries."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the one that then thought there the cat sat on the mat"] * 3, trainer)
    return str(tokenizer.to_str())


def _folder(folder: Path) -> None:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.formats.huggingface import Model, export

    (folder / "own.json").write_text(_tokenizer())
    export(folder / "model", Model(Decoder(_shape()).state_dict(), _shape(), folder / "own.json", 64, 0))


def _in_folder(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        _folder(folder)
        return folder / "model" / name

    return make


def _gguf(folder: Path) -> Path:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.formats import gguf_tokenizer
    from tinylm_ablate.formats.gguf_export import export_gguf
    from tinylm_ablate.formats.huggingface import Model

    (folder / "tokenizer.json").write_text(_tokenizer())
    export_gguf(
        folder / "model.gguf", Model(Decoder(_shape()).state_dict(), _shape(), folder / "tokenizer.json", 64, 0), "q8_0"
    )
    # Without the complete tokenizer, the other keys are read.
    content = (folder / "model.gguf").read_bytes()
    (folder / "model.gguf").write_bytes(content.replace(gguf_tokenizer.HUGGINGFACE_TOKENIZER.encode(), b"x" * 26))
    return folder / "model.gguf"


def _ranks(folder: Path) -> Path:
    import base64

    entries = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the", b"12", b"an", b"and"]
    lines = [base64.b64encode(entry).decode() + f" {rank}" for rank, entry in enumerate(entries)]
    (folder / "small.tiktoken").write_text("\n".join(lines) + "\n")
    return folder / "small.tiktoken"


def _sentencepiece(folder: Path) -> Path:
    import io

    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "and the dog was there"] * 5), model_writer=written, minloglevel=2,
        model_type="bpe", vocab_size=300, byte_fallback=True, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "small.model").write_bytes(written.getvalue())
    return folder / "small.model"


def _open_parent(path: Path) -> object:
    """Open a model to inherit from and read every tensor."""
    from tinylm_ablate.init.parents import open_parent

    parent = open_parent(str(path if path.suffix == ".gguf" else path.parent), path.parent)
    for name in parent.state:
        parent.state[name].sum()
    return parent.description, parent.vocabulary and parent.vocabulary.size


def _import(path: Path) -> object:
    from tinylm_ablate.formats.importing import import_tokenizer

    return import_tokenizer(path).size


READERS = {
    "config.json": Reader(_in_folder("config.json"), _open_parent, json=True),
    "safetensors": Reader(_in_folder("model.safetensors"), _open_parent),
    "tokenizer.json of a model": Reader(_in_folder("tokenizer.json"), _open_parent, json=True),
    "gguf": Reader(_gguf, _open_parent),
    "tokenizer.json": Reader(_in_folder("tokenizer.json"), _import, json=True),
    "tokenizer of a gguf": Reader(_gguf, _import),
    "ranks": Reader(_ranks, _import),
    "sentencepiece": Reader(_sentencepiece, _import),
}


def attempt(reader: Reader, path: Path, content: bytes) -> tuple[float, str | None]:
    """Read one file; returns the time in seconds, and an error, or None if the file was read or refused.

    Raises:
        BaseException: Any exception of the reader other than a refusal.
    """
    from tinylm_ablate.errors import UserError

    path.write_bytes(content)
    start = time.perf_counter()
    refusal = None
    try:
        reader.read(path)
    except UserError as error:
        refusal = str(error)
    return time.perf_counter() - start, refusal


def _fuzz(name: str, count: int, results: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (8 * KILOBYTES * 1000, 8 * KILOBYTES * 1000))
    reader = READERS[name]
    failures: dict[str, int] = {}
    longest, refused, slow = 0.0, 0, b""
    with tempfile.TemporaryDirectory() as folder:
        path = reader.make(Path(folder))
        content = path.read_bytes()
        attempt(reader, path, content)
        for seed in range(count):
            damaged = mutated(content, random.Random(seed), reader.json)
            try:
                seconds, refusal = attempt(reader, path, damaged)
            except BaseException as error:  # any exception is counted
                where = traceback.extract_tb(error.__traceback__)[-1]
                words = f"seed {seed}: {type(error).__name__}: {str(error)[:100]} ({Path(where.filename).name}:{where.lineno})"
                failures.setdefault(words.split(": ", 1)[1], seed)
                continue
            refused += refusal is not None
            if seconds > longest:
                longest, slow = seconds, damaged[:80]
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((name, count, refused, longest, slow, size, failures))


def main(count: int, names: list[str]) -> int:
    """Print one line per reader; the exit code is 1 if any failed."""
    bad = False
    for name in names or READERS:
        results: Any = multiprocessing.get_context("spawn").Queue()
        child = multiprocessing.get_context("spawn").Process(target=_fuzz, args=(name, count, results))
        child.start()
        while child.is_alive() and results.empty():
            time.sleep(0.2)
        if results.empty():
            print(f"{name}: the process died with {child.exitcode}")
            bad = True
            continue
        _, done, refused, longest, slow, size, failures = results.get()
        child.join()
        print(f"{name}: {done:,} files, {refused:,} refused, longest {longest:.2f} s, largest {size / 1e6:.2f} GB", flush=True)
        for words, seed in failures.items():
            print(f"  FAILED seed {seed}: {words}")
        if longest > SECONDS:
            print(f"  TOO LONG: {slow!r}")
        bad |= bool(failures) or longest > SECONDS or size > KILOBYTES
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, sys.argv[2:]))

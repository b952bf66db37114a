"""Cost of quantized export: bits per byte of the model read from a GGUF file, compared with the original."""

from __future__ import annotations

import importlib.util
import math
import tempfile
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError
from tinylm_ablate.measure.bits import bits_per_byte, document_losses, first_bytes, named, standard_errors
from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.settled import Settled


class QuantizedBitsPerByte:
    """Bits per byte of test text under the model exported with quantized weights (``evaluate.quantized``)."""

    name = "quantized_bits_per_byte"
    weights = True

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One per type of weights.

        Raises:
            UserError: The package for quantization is not installed.
        """
        evaluate = run.config.evaluate
        if evaluate.quantized:
            check_gguf("evaluate.quantized")
        return [{"weights": kind, "max_bytes": int(evaluate.max_bytes)} for kind in dict.fromkeys(evaluate.quantized)]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Export the trained model, read the file, and score the same documents with both.

        Returns:
            Metrics ``quantized/q4_0/bits_per_byte/en``, ``quantized/q4_0/added/en`` (the difference from the model) with
            ``/standard_error``, paired by document, for each language and "all"; ``quantized/q4_0/bytes`` of the file,
            and ``/share`` of entries with this type. One row per document: language, document, bytes, tokens, nats, and nats
            of the original model.
        """
        from tinylm_ablate.formats.gguf_export import export_gguf
        from tinylm_ablate.formats.huggingface import Model, load_model

        corpus, kind, size = subject.corpus, settings["weights"], settings["max_bytes"]
        with tempfile.TemporaryDirectory(dir=subject.run.cache, prefix=".exported.") as folder:
            path = Path(folder) / "model.gguf"
            export_gguf(path, Model.read(subject.run.folder / "model"), kind)
            stored, share = path.stat().st_size, _share(path, kind)
            quantized = subject.reader.by(load_model(path).requires_grad_(False).eval().to(subject.device))
        texts = [text for language in corpus.languages for text in first_bytes(corpus.documents("test", language), size)]
        itself = document_losses(subject.reader, texts, "bits per byte")
        found = document_losses(quantized, texts, f"bits per byte, {kind}")
        added = [row | {"nats": row["nats"] - own["nats"]} for row, own in zip(found, itself, strict=True)]
        name = f"quantized/{kind}"
        metrics = named(f"{name}/bits_per_byte", bits_per_byte(found)) | named(f"{name}/added", bits_per_byte(added))
        metrics |= named(f"{name}/added", standard_errors(added), "/standard_error") | {
            f"{name}/bytes": stored,
            f"{name}/share": share,
        }
        rows = [{"weights": kind, **row, "nats_itself": own["nats"]} for row, own in zip(found, itself, strict=True)]
        return Result(metrics, rows)


def _share(path: Path, kind: str) -> float:
    """Return the share of a model's entries stored as ``kind``, which excludes norms, biases and rows that fill no block."""
    from gguf import GGMLQuantizationType

    from tinylm_ablate.formats.gguf_file import GgufFile

    tensors = GgufFile(path).tensors.values()
    own = sum(math.prod(tensor.size) for tensor in tensors if tensor.kind == GGMLQuantizationType[kind.upper()])
    return own / sum(math.prod(tensor.size) for tensor in tensors)


def check_gguf(key: str) -> None:
    """Refuse a setting that needs the package ``gguf`` if it is not installed.

    Args:
        key: The setting.

    Raises:
        UserError: It is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{key}: its package is not installed; pip install 'tinylm-ablate[gguf]'")

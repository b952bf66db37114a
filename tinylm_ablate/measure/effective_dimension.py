"""Effective dimension of each layer's features: the number of principal components that explain most of their variance.

PanGu-pi (arXiv 2312.17276, Section 3 and Figure 4) measures the diversity of features by d(0.8), the number of components that
explain 80 % of the variance. Features are the residual stream after each layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tinylm_ablate import progress
from tinylm_ablate.measure.bits import first_bytes
from tinylm_ablate.measure.scoring import Reader, Window, batches, most_tokens, padded
from tinylm_ablate.measure.subject import Result, Settings, Subject
from tinylm_ablate.settled import Settled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.data.documents import Document

#: Maximum bytes of validation text per language.
MAX_BYTES = 50_000


class EffectiveDimension:
    """d(``evaluate.effective_dimension``) of the features after each layer, on validation text."""

    name = "effective_dimension"
    weights = True

    def requests(self, run: Settled) -> list[dict[str, Any]]:
        """One, if ``evaluate.effective_dimension`` is above 0."""
        evaluate = run.config.evaluate
        if not evaluate.effective_dimension:
            return []
        return [{"share": evaluate.effective_dimension, "max_bytes": min(int(evaluate.max_bytes), MAX_BYTES)}]

    def measure(self, subject: Subject, settings: Settings) -> Result:
        """Measure the trained model.

        Returns:
            Metrics ``effective_dimension/mean`` over layers, ``/last``, ``/share_of_width`` (the mean over the width) and
            ``/tokens``; one row per layer: layer (from 0), dimension.
        """
        corpus, size = subject.corpus, settings["max_bytes"]
        texts = [text for language in corpus.languages for text in first_bytes(corpus.documents("validation", language), size)]
        covariances, tokens = layer_covariances(subject.reader, texts)
        found = [dimension(covariance, settings["share"]) for covariance in covariances]
        mean = math.fsum(found) / len(found)
        about = {"mean": mean, "last": found[-1], "share_of_width": mean / subject.decoder.shape.width, "tokens": tokens}
        rows = [{"layer": layer, "dimension": value} for layer, value in enumerate(found)]
        return Result({f"{self.name}/{key}": float(value) for key, value in about.items()}, rows)


def layer_covariances(reader: Reader[Decoder], documents: Iterable[Document]) -> tuple[list[NDArray[np.float64]], int]:
    """Compute covariances of the residual stream after each layer over all tokens of some texts.

    Memory holds sums of the matrices in double precision, not the features.

    Returns:
        One matrix per layer, (width, width), and the number of tokens.
    """
    import torch

    decoder, vocabulary = reader.model, reader.vocabulary
    encoded = vocabulary.encode_batch([document.text for document in documents])
    sequences = [[vocabulary.end_of_text, *tokens] for tokens in encoded]
    windows = [
        Window(index, start, min(reader.context_length, len(sequence) - 1 - start))
        for index, sequence in enumerate(sequences)
        for start in range(0, len(sequence) - 1, reader.context_length)
    ]
    windows.sort(key=lambda window: -window.length)
    tokens, width = sum(window.length for window in windows), decoder.shape.width
    sums = np.zeros((decoder.shape.depth, width))
    products = np.zeros((decoder.shape.depth, width, width))
    with torch.inference_mode(), progress.bar(total=tokens, description="effective dimension", unit="tok") as bar:
        for batch in batches(windows, most_tokens(reader.device, vocabulary.size)):
            x = decoder.embedding(padded(batch, sequences)[0].to(reader.device))
            lengths = torch.tensor([window.length for window in batch])
            real = (torch.arange(x.shape[1]) < lengths[:, None]).to(x.device)
            for layer, block in enumerate(decoder.blocks):
                x = decoder.through(x, [block])
                features = x[real].double().cpu().numpy()
                sums[layer] += features.sum(axis=0)
                products[layer] += features.T @ features
            bar.update(int(lengths.sum()))
    means = sums / max(1, tokens)
    return [product / max(1, tokens) - np.outer(mean, mean) for product, mean in zip(products, means, strict=True)], tokens


def dimension(covariance: NDArray[np.float64], share: float) -> int:
    """Minimum number of principal components that explain ``share`` of the variance; 0 without variance."""
    variances = np.clip(np.linalg.eigvalsh(covariance)[::-1], 0, None)
    total = float(variances.sum())
    if total <= 0:
        return 0
    return min(len(variances), int(np.searchsorted(np.cumsum(variances) / total, share)) + 1)

"""The effective dimension compared with scikit-learn's principal components of the features themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from tests.helpers import TINY, run
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.effective_dimension import EffectiveDimension, dimension, layer_covariances
from tinylm_ablate.measure.records import read_rows
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.measure.scoring import Reader
from tinylm_ablate.settle import settle


def test_the_dimension_equals_the_number_of_scikit_learns_components(model: Any, vocabulary: Any, texts: Any) -> None:
    documents = list(texts.documents("test"))
    covariances, tokens = layer_covariances(Reader(model, vocabulary, 48, "cpu"), documents)
    collected: list[list[torch.Tensor]] = [[] for _ in model.blocks]
    with torch.no_grad():
        for ids in vocabulary.encode_batch([document.text for document in documents]):
            ids = [vocabulary.end_of_text, *ids][:-1]
            for start in range(0, len(ids), 48):
                x = model.embedding(torch.tensor([ids[start : start + 48]]))
                for layer, block in enumerate(model.blocks):
                    x = model.through(x, [block])
                    collected[layer].append(x[0])
    for covariance, parts in zip(covariances, collected, strict=True):
        features = torch.cat(parts).double().numpy()
        assert len(features) == tokens
        np.testing.assert_allclose(covariance, np.cov(features.T, bias=True), atol=1e-5)
        for share in (0.5, 0.8, 0.95):
            assert dimension(covariance, share) == PCA(share, svd_solver="full").fit(features).n_components_


@given(variances=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), share=st.floats(0.05, 0.99), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_known_variances_in_any_basis(variances: list[float], share: float, seed: int) -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(variances), len(variances))))
    found = dimension(basis @ np.diag(variances) @ basis.T, share)
    held = np.cumsum(sorted(variances, reverse=True)) / sum(variances)
    assert held[found - 1] >= share - 1e-9
    assert found == 1 or held[found - 2] < share + 1e-9


def test_features_that_do_not_vary_have_no_dimension() -> None:
    assert dimension(np.zeros((4, 4)), 0.8) == 0


def test_a_run_is_measured_per_layer(small_data: list[str], tmp_path: Path) -> None:
    config = compose([*small_data, *TINY, "evaluate.effective_dimension=0.8", f"runs_dir={tmp_path}/runs"])
    metrics = run(config)["metrics"]
    settled = settle(config)
    (request,) = [request for request in requested(settled) if isinstance(request.measure, EffectiveDimension)]
    rows = read_rows(settled.folder, request.stem)
    assert [row["layer"] for row in rows] == [0, 1]
    assert metrics["effective_dimension/mean"] == np.mean([row["dimension"] for row in rows])
    assert metrics["effective_dimension/share_of_width"] == pytest.approx(metrics["effective_dimension/mean"] / 16)
    assert 0 < metrics["effective_dimension/share_of_width"] <= 1
    assert settle(compose([*small_data, *TINY])).identity == settled.identity

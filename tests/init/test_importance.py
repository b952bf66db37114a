"""Cost of skipping a layer of a parent, and the choice of layers by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.init.test_inherit import PARENT, parent
from tinylm_ablate.errors import UserError
from tinylm_ablate.init import importance as module
from tinylm_ablate.init.calibration import Calibration, loss_gradients
from tinylm_ablate.init.importance import layer_importance, make_importance, open_importance, open_layers
from tinylm_ablate.init.parents import Parent


def calibration(sequences: int = 5, length: int = 12) -> Calibration:
    tokens = np.random.default_rng(0).integers(0, PARENT.vocab_size, 400)
    return Calibration(length, sequences, "c" * 16, lambda: tokens)


def loss_in_transformers(source: Parent, without: int | None, text: Calibration) -> float:
    """Return the mean loss of transformers' model with the parent's remaining layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = source.shape
    kept = [layer for layer in range(shape.depth) if layer != without]
    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.width, intermediate_size=shape.ffn_width, num_hidden_layers=len(kept),
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
    )  # fmt: skip
    state = {name: weight for name, weight in source.state.items() if ".layers." not in name}
    for new, old in enumerate(kept):
        prefix = f"model.layers.{old}."
        state |= {
            f"model.layers.{new}.{name.removeprefix(prefix)}": source.state[name]
            for name in source.state
            if name.startswith(prefix)
        }
    model: Any = LlamaForCausalLM(config)
    model.eval().load_state_dict(state)
    (tokens,) = text.batches(0, text.sequences)
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def test_losses_equal_those_of_the_model_without_the_layer() -> None:
    source, text = parent(), calibration()
    found = layer_importance([source], text)[0]
    assert found.whole == pytest.approx(loss_in_transformers(source, None, text), rel=1e-5)
    for layer, loss in enumerate(found.skipped):
        assert loss == pytest.approx(loss_in_transformers(source, layer, text), rel=1e-5)
    assert found.costs == pytest.approx([loss - found.whole for loss in found.skipped])


def test_a_layer_without_effect_costs_nothing_and_is_dropped_first(tmp_path: Path) -> None:
    source = parent()
    idle = 3
    state = dict(source.state)
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        state[f"model.layers.{idle}.{part}.weight"] = torch.zeros_like(state[f"model.layers.{idle}.{part}.weight"])
    source = replace(source, state=state)
    assert layer_importance([source], calibration())[0].costs[idle] == pytest.approx(0, abs=1e-6)
    init: Any = SimpleNamespace(method="inherit", layers=f"0-{idle - 1},{idle + 1}-5", keep_first=0, keep_last=0)
    listed = open_layers(source, 5, init, calibration(), tmp_path)
    assert not list(tmp_path.iterdir()), "a list needs no measurement"
    ordered = sorted(layer_importance([source], calibration())[0].costs)
    init.layers = "importance"
    chosen = open_layers(source, 5, init, calibration(), tmp_path)
    if ordered[0] >= -1e-6:
        assert chosen.layers == listed.layers
    assert chosen.dropped == (int(np.argmin(layer_importance([source], calibration())[0].costs)),)
    assert chosen.record()["skipping_costs"] == list(chosen.costs or ())


def test_parents_are_measured_together_as_each_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = [
        replace(one, state={name: factor * weight for name, weight in one.state.items()})
        for factor in (1, 2, 3)
        for one in [parent()]
    ]
    alone = [layer_importance([one], calibration())[0] for one in parents]
    for found, expected in zip(layer_importance(parents, calibration()), alone, strict=True):
        assert found.whole == pytest.approx(expected.whole, rel=1e-6)
        assert found.skipped == pytest.approx(expected.skipped, rel=1e-6)
    gradients = loss_gradients(parents, calibration())
    for one, found_gradients in zip(parents, gradients, strict=True):
        (own,) = loss_gradients([one], calibration())
        assert found_gradients.keys() == own.keys()
        assert all(torch.allclose(found_gradients[name], own[name], atol=1e-6) for name in own)
    open_importance(parents[1], calibration(), tmp_path)
    asked = []
    monkeypatch.setattr(module, "layer_importance", lambda some, *rest: asked.append(some) or layer_importance(some, *rest))
    make_importance(parents, calibration(), tmp_path)
    assert [one.fingerprint for one in asked[0]] == [parents[0].fingerprint, parents[2].fingerprint]


def test_costs_are_measured_once_per_parent_and_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parent()
    first = open_importance(source, calibration(), tmp_path)
    (file,) = (tmp_path / "scores").glob("*.json")
    assert json.loads(file.read_text())["whole"] == first.whole
    open_importance(source, replace(calibration(), fingerprint="d" * 16), tmp_path)
    louder = replace(source, state={name: 1.5 * weight for name, weight in source.state.items()})
    assert open_importance(louder, calibration(), tmp_path) != first
    assert len(list((tmp_path / "scores").glob("*.json"))) == 3
    monkeypatch.setattr(module, "layer_importance", lambda *_: pytest.fail("measured again"))
    assert open_importance(source, calibration(), tmp_path) == first
    init: Any = SimpleNamespace(method="inherit", layers="importance", keep_first=2, keep_last=1)
    chosen = open_layers(source, 4, init, calibration(), tmp_path)
    assert {0, 1, 5} <= set(chosen.layers) and chosen.costs == first.costs
    assert open_layers(source, 6, init, calibration(), tmp_path / "empty").layers == tuple(range(6))
    pool: Any = SimpleNamespace(method="pool", layers="0-3", keep_first=2, keep_last=1)
    assert open_layers(source, 6, pool, calibration(), tmp_path / "empty").layers == tuple(range(6))


def test_a_run_drops_the_layers_that_cost_least(small_data: list[str], tmp_path: Path) -> None:
    from tests.helpers import TINY, run
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.settle import settle

    place = [*TINY, *small_data, f"runs_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache", "init=inherit"]
    place += ["init.parent_depth=5", "init.parent_width=16", "init.parent_ffn_width=24", "init.calibration_tokens=500"]
    place += ["init.keep_first=1", "init.keep_last=0"]
    record = run(compose([*place, "init.layers=importance"]))
    layers = record["init"]["layers"]
    costs = layers["skipping_costs"]
    assert len(costs) == 5 and layers["rule"] == "importance"
    assert layers["kept"] == sorted([0, max(range(1, 5), key=lambda layer: costs[layer])])
    (scores,) = (tmp_path / "cache" / "scores").glob("*-layers-*.json")
    saved = json.loads(scores.read_text())
    assert [loss - saved["whole"] for loss in saved["skipped"]] == costs
    stamp = scores.stat().st_mtime_ns
    other = run(compose([*place, "init.layers=importance", "seed=1"]))
    assert other["init"]["layers"] == layers and scores.stat().st_mtime_ns == stamp
    runs = [settle(compose([*place, f"init.layers={layers}"])) for layers in ("middle", "even", "importance", "'1,3'")]
    assert len({settled.identity for settled in runs}) == 4
    assert len({settled.parent.identity for settled in runs if settled.parent}) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"whole": 1}', '{"whole": 1, "skipped": [1, 2]}'])
def test_a_damaged_file_is_reported(tmp_path: Path, content: str) -> None:
    source = parent()
    open_importance(source, calibration(), tmp_path)
    (file,) = (tmp_path / "scores").glob("*.json")
    file.write_text(content)
    with pytest.raises(UserError, match="delete it"):
        open_importance(source, calibration(), tmp_path)


def test_weights_that_are_not_finite_are_reported() -> None:
    source = parent()
    broken = {name: weight * (torch.nan if "down_proj" in name else 1) for name, weight in source.state.items()}
    with pytest.raises(UserError, match="is not finite"):
        layer_importance([replace(source, state=broken)], calibration())

"""Work orders, the files that start workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import TINY
from tinylm_ablate.errors import UserError
from tinylm_ablate.execute.work_order import Order
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle


@pytest.mark.parametrize(
    ("uri", "mode"), [("null", 0o644), ("mysql://alice:wonderland@host/runs", 0o600), ("http://alice:wonderland@host", 0o644)]
)
def test_an_order_round_trips_and_only_its_owner_can_read_it(
    uri: str, mode: int, small_data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "before")
    tracked = [word for word in TINY if word != "tracking=none"]
    settled = settle(compose([*tracked, *small_data, f"runs_dir={tmp_path}", f"tracking.uri={uri}"]))
    order = Order([("cell", settled)], True, 0, False, 60.0)
    path = order.write()
    assert path.stat().st_mode & 0o777 == mode
    assert ("wonderland" in path.read_text()) == (mode == 0o600), "a worker needs it"
    assert Order.read(path).cells == [("cell", settled)]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'{"folder": 3}', b'{"folder": ".", "cells": [5]}', b"\xff"])
def test_a_damaged_order_is_reported(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no order for a worker"):
        Order.read(path)

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate.tracking.outbox import Outbox


def test_a_kept_outbox_is_read_back_whole(tmp_path):
    outbox = Outbox(tmp_path / "pending.jsonl")
    outbox.add("open", name="run", parent=None, note="", tags={})
    outbox.add("metrics", tokens=1, values={"loss": 1.0, "bad": None})
    outbox.keep()
    again = Outbox.read(outbox.file)
    assert (again.key, again.run_id, again.ended, len(again)) == (outbox.key, None, False, 2)
    assert again._operations == outbox._operations
    assert not Outbox.abandoned(outbox.file)
    again.ended = True
    again.keep()
    assert Outbox.abandoned(outbox.file)
    again.drop(2)
    again.keep()
    assert not outbox.file.exists()


def test_an_empty_outbox_leaves_no_file(tmp_path):
    Outbox(tmp_path / "pending.jsonl").keep()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]\n", "{}\n", '{"key": 1', json.dumps({"key": "a", "run_id": None})])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "pending.jsonl").write_text(text)
    with pytest.raises(ValueError, match="pending"):
        Outbox.read(tmp_path / "pending.jsonl")


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), max_size=40), st.integers(12, 30))
def test_calls_keep_the_order_and_the_limit(tmp_path_factory, sizes, limit):
    """Zero stands for an operation that is no metrics."""
    outbox = Outbox(tmp_path_factory.getbasetemp() / "pending.jsonl")
    for number, size in enumerate(sizes):
        if size:
            outbox.add("metrics", tokens=number, values={f"m{n}": 0.0 for n in range(size)})
        else:
            outbox.add("tag", tokens=number, values={})
    sent = []
    while call := outbox.next(limit):
        assert len(call) == 1 or {operation["do"] for operation in call} == {"metrics"}
        assert sum(len(operation["values"]) for operation in call) <= limit
        sent += [operation["tokens"] for operation in call]
        outbox.drop(len(call))
    assert sent == list(range(len(sizes)))

"""Shapes and costs of runs, without training them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import TINY, run
from tinylm_ablate.arch.shapes import Shape, flops_per_token, parameters
from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.data.shards import open_shards
from tinylm_ablate.errors import UserError
from tinylm_ablate.execute import timing
from tinylm_ablate.execute.cost import scoring_cost
from tinylm_ablate.execute.plan import plan, plans
from tinylm_ablate.execute.stacks import stacks
from tinylm_ablate.execute.text_plan import shard_bytes, training_tokens
from tinylm_ablate.execute.timing import Speed, speed
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.init.choice import scores_marker
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.tokenizer.vocabularies import open_vocabulary

FIELDS = {
    "depth", "width", "ffn_width", "heads", "vocab_size", "parameters", "embedding_head_share", "flops", "tokens", "steps",
    "memory_bytes", "seconds",
}  # fmt: skip

#: Overrides that describe a public model, and its number of parameters.
PUBLIC = {
    "TinyLlama-1.1B": ("22 2048 5632 64 4 32000 false", 1_100_048_384),
    "MobileLLM-125M": ("30 576 1536 64 3 32000 true", 124_635_456),
    "MobileLLM-1B": ("54 1280 3584 64 5 32000 true", 1_005_461_760),
    "Sheared-LLaMA-1.3B": ("24 2048 5504 128 16 32000 false", 1_345_423_360),
    "SmolLM2-135M": ("30 576 1536 64 3 49152 true", 134_515_008),
    "the paper's LLM1B.py": ("20 1792 4864 128 14 48000 false", 951_983_872),
}

#: Runs a command and prints its peak memory in bytes; in a new process, since a process knows only the largest of its children.
MEASURE = (
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
    "print('PEAK', peak * (1 if sys.platform == 'darwin' else 1024), file=sys.stderr); sys.exit(code)"
)


def settled(folder: Path, *overrides: str) -> Settled:
    return settle(compose([f"runs_dir={folder}", *overrides]))


def test_table_1_planned_at_the_papers_scale_as_json(tmp_path: Path) -> None:
    arguments = [
        "-m",
        "+experiments=table01_tokenizer",
        "scale=paper",
        "mode=plan",
        "plan.format=json",
        "seeds=1",
        "grid.tune=false",
    ]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-m", "tinylm_ablate", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 6
    assert all(row.keys() >= FIELDS for row in rows)
    shares = [row["embedding_head_share"] for row in rows]
    assert shares == pytest.approx([2.97, 6.01, 11.79, 18.07, 26.88, 38.19], abs=0.02)
    assert [round(row["parameters"] / 1e6, 1) for row in rows] == [964.6, 954.3, 972.6, 952.0, 960.0, 946.5]
    assert [row["depth"] for row in rows] == [24, 23, 22, 20, 18, 15]
    assert {(row["width"], row["ffn_width"], row["heads"]) for row in rows} == {(1792, 4864, 14)}
    assert all(row["seconds"] > 0 and row["memory_bytes"] > 16 * row["parameters"] for row in rows)
    assert all(row["steps"] * 983_040 == row["tokens"] for row in rows)
    peak = int(done.stderr.split("PEAK ")[1].split()[0])
    assert peak < 4 * 2**30
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_public_shapes_are_counted_exactly(name: str, tmp_path: Path) -> None:
    values, expected = PUBLIC[name]
    keys = ("arch.depth", "arch.width", "arch.ffn_width", "arch.head_dim", "arch.kv_heads", "tokenizer.vocab_size", "arch.tied")
    overrides = [f"{key}={value}" for key, value in zip(keys, values.split(), strict=True)]
    row = plan(name, settled(tmp_path, "scale=paper", *overrides))
    assert row["parameters"] == expected == sum(row["parts"].values())


def test_a_plan_agrees_with_its_run(tmp_path: Path) -> None:
    run = settled(tmp_path, *TINY)
    row = plan("tiny", run)
    assert row["identity"] == run.identity
    assert (row["tokens"], row["steps"]) == (512, 4) == (run.tokens, run.steps)
    assert row["flops"] == flops_per_token(run.shape, 32)["training"]
    assert row["seconds"] > 0
    assert not row["finished"]
    run.folder.mkdir()
    (run.folder / "metrics.json").write_text("{}")
    assert plan("tiny", run)["finished"]


def test_the_learning_rate_schedule_is_reported(tmp_path: Path) -> None:
    run = settled(tmp_path, *TINY, "train.tokens=12800", "optimizer.schedule=linear", "optimizer.final=0.25")
    row = plan("tiny", run)
    assert row["warmup_steps"] == 3  # 3 % of 100
    assert row["final_learning_rate"] == pytest.approx(0.25 * run.learning_rate, rel=0.05)
    output = plans([("tiny", run)], "table")
    assert f"learning rate: rises to {run.learning_rate:.3g} over 3 of 100 steps, then linear to 25.8 % of it" in output
    constant = settled(tmp_path, *TINY, "optimizer.schedule=constant")
    output = plans([("first", run), ("second", constant)], "table")
    assert "learning rate [first]" in output
    assert "learning rate [second]" in output and "then constant" in output


def test_schedules_that_differ_in_the_peak_share_a_line(tmp_path: Path) -> None:
    rates = (0.001, 0.004, 0.002)
    runs = [(f"rate {rate}", settled(tmp_path, *TINY, f"optimizer.scaling.base_lr={rate}")) for rate in rates]
    longer = settled(tmp_path, *TINY, "train.tokens=12800")
    output = plans([*runs, ("longer", longer)], "table")
    (shared,) = [line for line in output.splitlines() if line.startswith("learning rate [rate 0.001 and 2 more]")]
    peaks = [run.learning_rate for _, run in runs]
    assert f"rises to {min(peaks):.3g}–{max(peaks):.3g} over" in shared
    assert output.count("learning rate [") == 2
    assert all(f"{peak:.3g}" in output.split("parameters by part")[0] for peak in peaks)


def test_totals_count_equal_and_finished_runs_once(tmp_path: Path) -> None:
    first, second = settled(tmp_path, *TINY), settled(tmp_path, *TINY, "seed=1")
    output = plans([("first", first), ("its twin", first), ("second", second)], "table")
    flops = 1024 * flops_per_token(first.shape, 32)["training"]
    assert "3 cells are 2 runs: some are the same run as others" in output
    assert f"2 runs, 0 finished; to do: 2, 1,024 tokens, {flops:.3g} FLOPs" in output
    second.folder.mkdir()
    (second.folder / "metrics.json").write_text("{}")
    assert "2 runs, 1 finished; to do: 1, 512 tokens" in plans([("first", first), ("second", second)], "table")


def test_stacks_are_listed_with_their_memory_and_time(tmp_path: Path) -> None:
    """Five runs of one shape in stacks of three, one of another shape alone, and a finished one in no stack."""
    seeds = [settled(tmp_path, *TINY, "train.stack=3", f"seed={seed}") for seed in range(6)]
    deep = settled(tmp_path, *TINY, "train.stack=3", "arch.depth=3")
    seeds[0].folder.mkdir()
    (seeds[0].folder / "metrics.json").write_text("{}")
    cells = [*((f"seed {seed}", run) for seed, run in enumerate(seeds)), ("deep", deep)]
    output = plans(cells, "table")
    assert "5 runs train as 2 stacks, 1 alone:" in output
    table = output.split("1 alone:")[1].split("\n\n")[0].splitlines()
    assert [line.split()[:5] for line in table[3:]] == [["seed", "1", "and", "2", "more"], ["seed", "4", "and", "1", "more"]]
    assert [line.split()[5] for line in table[3:]] == ["3", "2"]
    rows = [json.loads(line) for line in plans(cells, "json").splitlines()]
    assert [row["stack"] for row in rows] == [1, 3, 3, 3, 2, 2, 1]
    for workers, expected in (4, [1, 3, 3, 3, 2, 2, 1]), (6, [1, 2, 2, 2, 2, 1, 1]):  # two groups: two workers each, or three
        rows = [json.loads(line) for line in plans(cells, "json", workers=workers).splitlines()]
        assert [row["stack"] for row in rows] == expected
    assert "stack" not in plans([("first", settled(tmp_path, *TINY)), ("second", settled(tmp_path, *TINY, "seed=1"))], "table")


def test_runs_are_not_stacked_with_runs_that_they_need(tmp_path: Path) -> None:
    rounds = ["rounds=two", "rounds.sampling_rate=1", "rounds.parts=1", "rounds.rule=uniform", "train.stack=8"]
    runs = [settled(tmp_path, *TINY, *rounds, f"seed={seed}") for seed in range(2)]
    before = [run.previous for run in runs if run.previous is not None]
    assert [[run.identity for run in stack] for stack in stacks([*runs, *before])] == [
        [run.identity for run in runs],
        [run.identity for run in before],
    ]


def test_a_stack_is_timed_by_its_share(tmp_path: Path) -> None:
    run = settled(tmp_path, *TINY)
    one, four = (
        speed(run.shape, 32, 2, "fp32", 1, run.config.optimizer, "cpu", runs) for runs in (1, 4)
    )  # on a CPU, runs are computed one by one
    assert 0.1 < four.training / one.training < 4


def test_a_parent_is_planned_once_and_separately(tmp_path: Path) -> None:
    pooled = ["arch.width=64", "arch.head_dim=16", "train.share=0.5", "init=pool"]
    base = [entry for entry in TINY if not entry.startswith("arch.width")]
    runs = [settled(tmp_path, *base, *pooled, f"arch.kv_heads={heads}") for heads in ("auto", "heads/2", "heads/4")]
    parents = {run.parent.identity for run in runs if run.parent is not None}
    assert len(parents) == 1
    output = plans([(f"cell {number}", run) for number, run in enumerate(runs)], "table")
    assert "and 1 run that is trained once" in output and output.count(parents.pop()) == 1
    assert "4 runs, 0 finished; to do: 4, 1,280 tokens" in output  # 3 x 256 and 512
    mha = settled(tmp_path, *base, "arch.width=64", "arch.head_dim=16")
    output = plans([("mha", mha), ("gqa", runs[1])], "table")
    assert "trained once" not in output and "2 runs, 0 finished; to do: 2, 768 tokens" in output


def test_earlier_rounds_are_counted_once(tmp_path: Path) -> None:
    """A run of three rounds, and one of two with another last round: four trainings, since both share the first round."""
    rounds = ["rounds=two", "rounds.sampling_rate=0.5", "rounds.parts=1"]
    three = settled(tmp_path, *TINY, *rounds, "rounds.count=3", "rounds.rule=uniform")
    two = settled(tmp_path, *TINY, *rounds, "rounds.rule=top")
    assert three.previous is not None and three.previous.previous is not None and two.previous is not None
    assert two.previous.identity == three.previous.previous.identity
    output = plans([("three", three), ("two", two)], "table")
    assert "and 2 runs that are trained once" in output
    assert f"4 runs, 0 finished; to do: 4, {512 + 3 * 256:,} tokens" in output
    row = plan("three", three)
    assert (row["tokens"], row["own_tokens"]) == (1024, 256)


def test_the_disk_space_of_a_grid_is_reported(tmp_path: Path) -> None:
    run = settled(tmp_path, *TINY)
    row = plan("tiny", run)
    assert row["model_bytes"] == 4 * row["parameters"]
    assert row["checkpoint_bytes"] == 3 * 3 * row["model_bytes"]
    assert plan("none", settled(tmp_path, *TINY, "train.keep_model=false"))["model_bytes"] == 0
    output = plans([("tiny", run)], "table")
    assert "disk: 56.1 kB of models, 505.2 kB of checkpoints while the largest trains, 0 bytes of token shards, " in output
    assert "shards of a text that has not been read" in output


def test_the_estimated_size_of_shards_is_close(small_corpus: Corpus, small_data: list[str], tmp_path: Path) -> None:
    cache = small_corpus.folder.parents[1]
    # A separate vocabulary: the cache is shared with other tests, and existing shards need no more space.
    run = settled(tmp_path, *TINY, *small_data, f"cache_dir={cache}", "tokenizer.vocab_size=311")
    guessed = shard_bytes(run)
    vocabulary = open_vocabulary(run.config.tokenizer, run.shape.vocab_size, 0, small_corpus, cache)
    shards = open_shards(small_corpus, vocabulary, cache)
    assert guessed == pytest.approx(2 * sum(shards.summary["tokens"].values()), rel=0.25)
    assert shard_bytes(run) == 0


def test_the_parts_of_a_grid_are_listed_if_they_differ(tmp_path: Path) -> None:
    small, large = settled(tmp_path, *TINY), settled(tmp_path, *TINY, "arch.depth=3")
    assert "parameters by part: embedding 4,800, head 4,800," in plans([("a", small), ("b", small)], "table")
    output = plans([("small", small), ("large", large)], "table").split("parameters by part:")[1]
    assert [line.split()[0] for line in output.splitlines()[1:5]] == ["cell", "------", "small", "large"]


def test_shapes_too_large_to_measure_are_estimated_by_their_flops() -> None:
    large = Shape(depth=20, width=1792, ffn_width=4864, heads=14, kv_heads=14, head_dim=128, vocab_size=48000)
    deeper = Shape(depth=40, width=1792, ffn_width=4864, heads=14, kv_heads=14, head_dim=128, vocab_size=48000)
    optimizer = compose([]).optimizer
    first, second = (speed(shape, 2048, 30, "fp32", 1, optimizer) for shape in (large, deeper))
    ratio = flops_per_token(deeper, 2048)["training"] / flops_per_token(large, 2048)["training"]
    assert second.training / first.training == pytest.approx(ratio) == second.forward / first.forward
    assert second.optimizer / first.optimizer == pytest.approx(parameters(deeper)["total"] / parameters(large)["total"])


def test_the_users_text_is_read_and_checked_and_its_passes_are_marked(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = [f"Document number {number} has a few words in it, more than fifty characters." for number in range(60)]
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*rows, rows[0], "short"]))
    (folder / "notes.md").write_text("# notes")
    shares = ["data.validation_share=0.2", "data.test_share=0.2"]
    run = settled(tmp_path, *TINY, "data=files", f"data.path={folder}", *shares, "train.tokens=51200")
    unread = plans([("mine", run)], "table", read_text=False)
    assert f"text: {folder}, not built yet, about" in unread and "not read: 1 .md (7 bytes)" in unread
    output = plans([("mine", run)], "table", read_text=True)
    assert "62 documents read, 60 kept (1 too short, 1 duplicates)" in output and "not read: 1 .md (7 bytes)" in output
    tokens = training_tokens(run)
    assert tokens is not None
    assert f"passes over its training tokens: {51200 / tokens:.2g}, estimated before it is tokenized\n" in output
    assert "1 of 1 runs pass over it more than 4 times" in output and "(!)" in output
    assert plan("mine", run)["passes"] == 51200 / tokens


def test_passes_are_counted_as_in_training_once_the_text_is_tokenized(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"Document number {number} has a few words in it, more than fifty characters." for number in range(99)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    shares = ["data.validation_share=0.2", "data.test_share=0.2"]
    config = compose(
        [*TINY, "data=files", f"data.path={tmp_path}/t.jsonl", *shares, f"runs_dir={tmp_path}", "train.tokens=5120"]
    )
    passes = run(config)["passes"]
    assert f"note: 5,120 tokens are {passes:.2g} passes over the training text" in capsys.readouterr().err
    assert plan("small", settle(config))["passes"] == passes
    assert f"  passes over its training tokens: {passes:.2g}\n" in plans([("small", settle(config))], "table")


def test_the_most_repeated_group_of_the_weights_is_planned_and_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"Document number {number} has a few words in it, more than fifty characters.", "a") for number in range(99)]
    rows += [(f"Another one, the {number}th, which is in the second of the two languages.", "b") for number in range(30)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text, "lang": name}) + "\n" for text, name in rows))
    own = [*TINY, "data=files", f"data.path={tmp_path}/t.jsonl", "data.language_column=lang", f"runs_dir={tmp_path}"]
    own += ["data.validation_share=0.2", "data.test_share=0.2", "train.tokens=10240"]
    config = compose([*own, "data.weights={a: 0.1, b: 0.9}"])
    guess = plans([("small", settle(config))], "table", read_text=True)
    assert re.search(r"  passes over its training tokens: a 0\.\d+, b \d\.?\d?, estimated before it is tokenized\n", guess)
    passes = run(config)["passes"]
    said = re.search(r"note: 10,240 tokens are (a \S+, b \S+) passes .*worth less", capsys.readouterr().err)
    assert said is not None and said[1].endswith(f"b {passes:.2g}") and passes > 4
    assert plan("small", settle(config))["passes"] == passes
    after = plans([("small", settle(config))], "table")
    assert f"  passes over its training tokens: {said[1]}\n" in after and "1 of 1 runs pass over it more than 4 times" in after
    with pytest.raises(UserError, match=r"data\.weights=.*no weight is set for b"):
        plans([("small", settle(compose([*own, "data.weights={a: 1}"])))], "table")


def test_choosing_neurons_on_text_is_planned_once(tmp_path: Path) -> None:
    inherits = ["init=inherit", "init.parent_depth=3", "init.parent_width=32", "init.parent_ffn_width=48", "init.keep_first=1"]
    inherits += ["init.keep_last=1", "init.calibration_tokens=640"]
    taylor = [settled(tmp_path, *TINY, *inherits, "init.criterion=taylor", f"seed={seed}") for seed in range(2)]
    learned = settled(tmp_path, *TINY, *inherits, "init.criterion=learned", "init.masks.steps=10", "init.masks.batch_tokens=1")
    blind = settled(tmp_path, *TINY, *inherits, "init.criterion=l2")
    output = plans([("a", taylor[0]), ("b", taylor[1]), ("c", learned), ("d", blind)], "table")
    assert output.count("choice from the parent") == 2
    assert (
        "[a]: taylor on 640 tokens" in output and f"[c]: learned on {10 * learned.config.train.context_length} tokens" in output
    )
    first, second = scoring_cost(taylor[0]), scoring_cost(learned)
    assert taylor[0].parent is not None and first is not None and second is not None and scoring_cost(blind) is None
    weights = 4 * parameters(taylor[0].parent.shape)["total"]
    assert 2 * weights < first.memory < second.memory and second.memory - first.memory == 5 * weights
    marker = scores_marker(learned)
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert scoring_cost(learned) is None


def test_shapes_between_two_measured_ones_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shapes are measured, others are estimated; a later process measures none of them again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    optimizer = compose([]).optimizer

    def times(*widths: int) -> list[Speed]:
        monkeypatch.setattr(timing, "_known", {})
        monkeypatch.setattr(timing, "_measured", [])
        small = Shape(depth=6, width=16, ffn_width=32, heads=2, kv_heads=2, head_dim=8, vocab_size=300)
        shapes = [replace(small, width=width, ffn_width=2 * width) for width in widths or (16, 96, 48)]
        return [speed(shape, 64, 4, "fp32", 1, optimizer) for shape in shapes]

    small, large, between = times()
    assert small.training < between.training < large.training and small.forward < between.forward < large.forward
    kept = list((tmp_path / "tinylm_ablate" / "speed").rglob("*.json"))
    assert len(kept) == 2
    monkeypatch.setattr(timing, "_MOST_MEASURED", 0)
    assert times() == [small, large, between]
    kept[0].write_text("{")  # damaged: treated as unmeasured, and estimated from the other
    assert all(found.training > 0 for found in times())
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    times(72, 96)
    times(84)  # not as close to one of them as is needed without the other
    assert len(list((tmp_path / "other").rglob("*.json"))) == 2
    times(110)
    assert len(list((tmp_path / "other").rglob("*.json"))) == 3


def test_a_status_needs_no_torch(tmp_path: Path) -> None:
    """Importing it takes longer than all the rest, also where the speed of decoding is measured."""
    words = ["-m", "arch.depth=2,3", "evaluate.decode.measure=true", f"runs_dir={tmp_path}", "mode=status"]
    code = (
        f"import sys, runpy; sys.argv = ['tinylm_ablate', *{words}]; runpy.run_module('tinylm_ablate', run_name='__main__');"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "arch.depth=2" in done.stdout

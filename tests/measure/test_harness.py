"""EleutherAI's harness on our models, offline, with our own tasks in its YAML format."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from tests.measure.conftest import SmallVocabulary, Texts
from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.formats.huggingface import Model, export, load_model, load_tokenizer
from tinylm_ablate.frames.run_folders import read_runs
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.benchmarks import averages, benchmark, benchmark_folder, column_of, score_table, settings_of
from tinylm_ablate.measure.harness import LISTS, open_task, task_names
from tinylm_ablate.measure.harness_model import HarnessModel
from tinylm_ablate.measure.layer_skip import skipped_benchmark
from tinylm_ablate.measure.records import read_record, read_rows, stem
from tinylm_ablate.report.printed import printed_tables

CONTEXT = 48

CHOICES = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """\
task: whole_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}, {{metric: word_perplexity}}]
"""
WRITING = """\
task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text[:30]}}}}"
doc_to_target: "{{{{text}}}}"
generation_kwargs: {generation}
metric_list: [{{metric: exact_match}}]
"""


def rows(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tasks(texts: Texts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with a usual, an empty and an overlong context; and texts shorter and longer than the model's context."""
    folder = tmp_path_factory.mktemp("tasks")
    test = list(texts.documents("test"))
    questions = [
        {"question": text.text[:20], "choices": [" alpha", " beta gamma", text.text[20:30]], "answer": 2} for text in test[8:16]
    ]
    questions += [
        {"question": "", "choices": ["alpha", "beta"], "answer": 0},
        {"question": test[-1].text, "choices": [" A", " B", " 不"], "answer": 1},
        {"question": "Ends in spaces  ", "choices": ["a", "b c"], "answer": 1},
    ]
    letters = [{"question": text.text[:40], "choices": [" A", " B", " C"], "answer": 0} for text in test[20:24]]
    data = rows(folder / "questions.jsonl", questions)
    (folder / "questions.yaml").write_text(CHOICES.format(name="questions", data=data))
    (folder / "letters.yaml").write_text(CHOICES.format(name="letters", data=rows(folder / "letters.jsonl", letters)))
    whole = rows(folder / "texts.jsonl", [{"text": text.text} for text in [test[0], test[1], test[30], test[31]]])
    (folder / "whole.yaml").write_text(ROLLING.format(data=whole))
    generation = '{until: ["e", "。"], max_gen_toks: 12, do_sample: false}'
    (folder / "writing.yaml").write_text(WRITING.format(data=whole, generation=generation))
    group = "group: both\ntask: [questions, letters]\naggregate_metric_list: [{metric: acc}]\n"
    (folder / "both.yaml").write_text(group)
    return folder


@pytest.fixture(scope="module")
def exported(model: Decoder, vocabulary: SmallVocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = folder / "source.json"
    vocabulary.tokenizer.save(str(tokenizer))
    export(folder / "exported", Model(model.state_dict(), model.shape, tokenizer, CONTEXT, vocabulary.end_of_text))
    return folder / "exported"


def config(*overrides: str) -> Any:
    return compose(["mode=evaluate", "tracking=none", "train.threads=1", *overrides])


def asked(settings: Any, kinds: tuple[str, ...]) -> list[Any]:
    """Return the requests of tasks, of some kinds."""
    evaluate = settings.evaluate
    found = []
    for name in task_names(evaluate):
        for task in open_task(name, evaluate.task_folder, evaluate.shots).loaded["tasks"].values():
            task.build_all_requests(limit=None, rank=0, world_size=1)
            found += [request for request in task.instances if request.request_type in kinds]
    assert found
    return found


@pytest.fixture(scope="module")
def theirs(exported: Path) -> Any:
    """The harness's own model of the same folder."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(exported, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu")


def test_log_likelihoods_equal_the_harness_own_model(exported: Path, tasks: Path, theirs: Any) -> None:
    ours = HarnessModel(exported, "cpu")
    requests = asked(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[both]"), ("loglikelihood",))
    requests += asked(
        config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[letters]", "evaluate.shots=2"), ("loglikelihood",)
    )
    expected = theirs.loglikelihood(requests)
    found = ours.loglikelihood(requests)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    torch.testing.assert_close(torch.tensor([s for s, _ in found]), torch.tensor([s for s, _ in expected]), atol=1e-4, rtol=0)
    assert any(request.args[0] == "" for request in requests)
    assert 0 < ours.cut["questions"] < ours.requests["questions"]


def test_rolling_log_likelihoods_equal_the_harness_own_model(exported: Path, tasks: Path, theirs: Any) -> None:
    ours = HarnessModel(exported, "cpu")
    requests = asked(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[whole_texts]"), ("loglikelihood_rolling",))
    lengths = [len(ours.tok_encode(request.args[0])) for request in requests]
    assert min(lengths) < CONTEXT < 2 * CONTEXT < max(lengths)
    found, expected = ours.loglikelihood_rolling(requests), theirs.loglikelihood_rolling(requests)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=1e-6)


def test_continuations_equal_the_harness_own_model(exported: Path, tasks: Path, theirs: Any) -> None:
    requests = asked(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[writing]"), ("generate_until",))
    found = HarnessModel(exported, "cpu").generate_until(requests)
    assert found == theirs.generate_until(requests)
    assert len(set(found)) > 1
    assert not any("e" in text for text in found)


def test_long_generations_leave_half_of_the_context_to_the_prompt(exported: Path, tasks: Path) -> None:
    request = asked(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[writing]"), ("generate_until",))[-1]
    model = HarnessModel(exported, "cpu")
    long = "alpha beta " * 50
    settings = {"until": [], "max_gen_toks": 1000}
    request.arguments = (long, settings)
    assert model._generation("writing", settings)["max_gen_toks"] == CONTEXT // 2
    assert model.generate_until([request])[0]
    assert model.cut == {"writing": 1}
    request.arguments = (long, {"until": [], "num_beams": 4})
    with pytest.raises(UserError, match=r"task writing: generation_kwargs\.num_beams=4: allowed: until, max_gen_toks"):
        model.generate_until([request])


def test_a_worker_of_a_grid_can_use_the_harness(exported: Path, tasks: Path, tmp_path: Path) -> None:
    """Its bars are written to a file instead of drawn."""
    progress.report_to(tmp_path / "worker.live")
    try:
        model = HarnessModel(exported, "cpu")
        for name, kind in ("both", "loglikelihood"), ("writing", "generate_until"):
            requests = asked(config(f"evaluate.task_folder={tasks}", f"evaluate.tasks=[{name}]"), (kind,))
            assert len(getattr(model, kind)(requests)) == len(requests)
    finally:
        progress.report_to(None)


def test_an_empty_continuation_is_certain(exported: Path) -> None:
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, (context, ""), 0, ("none", 0, 1)) for context in ("", "alpha")]
    assert HarnessModel(exported, "cpu").loglikelihood(requests) == [(0.0, True)] * 2


def test_scores_are_kept_task_by_task_and_printed(
    exported: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[both,whole_texts]").evaluate
    benchmark_folder(exported, tmp_path, wanted, "cpu")
    assert "requests were longer than the model's context of 48 tokens" in capsys.readouterr().err
    table = score_table([("", tmp_path)], wanted)
    lines = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table.splitlines()}
    assert {("both", "acc"), ("questions", "acc"), ("letters", "acc"), ("whole_texts", "bits_per_byte")} <= lines
    assert not {("questions", "requests"), ("questions", "cut_requests"), ("questions", "shots")} & lines

    both, whole = settings_of(wanted)
    record = read_record(tmp_path, stem("benchmarks", both))
    assert record is not None
    metrics = record["metrics"]
    answered = [row for row in read_rows(tmp_path, stem("benchmarks", both)) if row["task"] == "questions"]
    assert len(answered) == metrics["benchmarks/questions/questions"] == 11
    assert metrics["benchmarks/questions/acc"] == pytest.approx(sum(row["acc"] for row in answered) / 11)
    assert "benchmarks/questions/acc/standard_error" in metrics
    assert metrics["benchmarks/questions/cut_requests"] == 3
    assert metrics["benchmarks/both/questions"] == 15
    assert record["settings"]["task"] == "both" and record["settings"]["lm_eval"]
    assert {path.name for path in (tmp_path / "measures").glob("*.json")} == {
        f"{stem('benchmarks', settings)}.json" for settings in (both, whole)
    }


def test_benchmarks_with_layers_skipped(exported: Path, tasks: Path, tmp_path: Path) -> None:
    """Each position is scored like a separately saved model without those layers."""
    wanted = config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[both]").evaluate
    (settings,) = settings_of(wanted)
    depth = load_model(exported).shape.depth
    places = [{"skipped": 0, "first": 0}, {"skipped": 1, "first": 0}, {"skipped": 1, "first": depth - 1}]
    found = skipped_benchmark(exported, settings, str(tasks), "cpu", places)
    assert load_model(exported).shape.depth == depth
    for place, scores in zip(places, found, strict=True):
        whole = load_model(exported)
        kept = [block for index, block in enumerate(whole.blocks) if not 0 <= index - place["first"] < place["skipped"]]
        shorter = Decoder(dataclasses.replace(whole.shape, depth=len(kept)))
        for module in ("embedding", "norm", *([] if whole.head is None else ["head"])):
            getattr(shorter, module).load_state_dict(getattr(whole, module).state_dict())
        for new, block in zip(shorter.blocks, kept, strict=True):
            new.load_state_dict(block.state_dict())
        folder = tmp_path / f"{place['skipped']}-{place['first']}"
        export(
            folder,
            Model(shorter.state_dict(), shorter.shape, exported / "tokenizer.json", CONTEXT, load_tokenizer(exported)[1]),
        )
        expected = benchmark(folder, settings, str(tasks), "cpu").metrics
        assert scores and scores == {name: expected[name] for name in scores}
        assert {"benchmarks/both/acc", "benchmarks/letters/acc"} <= scores.keys()


def test_another_number_of_questions_is_another_record(exported: Path, tasks: Path, tmp_path: Path) -> None:
    trial = config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[letters]", "evaluate.limit=2", "evaluate.shots=1").evaluate
    for name in ("first", "second"):
        benchmark_folder(exported, tmp_path / name, trial, "cpu")
    table = score_table([(name, tmp_path / name) for name in ("first", "second")], trial)
    assert table.count("| letters ") == 4
    assert "a trial, not a result" in table
    (settings,) = settings_of(trial)
    record = read_record(tmp_path / "first", stem("benchmarks", settings))
    assert record is not None
    assert (record["settings"]["limit"], record["settings"]["shots"]) == (2, 1)
    assert record["metrics"]["benchmarks/letters/questions"] == 2
    whole = config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[letters]").evaluate
    assert "letters" not in score_table([("", tmp_path / "first")], whole)
    # Finished measurements are not repeated, except for changed tasks.
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "first").rglob("*.*")}
    benchmark_folder(exported, tmp_path / "first", trial, "cpu")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "first").rglob("*.*")} == stamps
    other = tmp_path / "tasks"
    other.mkdir()
    (other / "letters.yaml").write_text((tasks / "letters.yaml").read_text() + "# changed\n")
    changed = config(f"evaluate.task_folder={other}", "evaluate.limit=2", "evaluate.shots=1").evaluate
    assert settings_of(changed)[0]["task_folder"] != settings["task_folder"]


def test_a_finished_run_is_scored_into_its_own_folder(exported: Path, tasks: Path, tmp_path: Path, capsys: Any) -> None:
    from tinylm_ablate.modes import perform

    run = tmp_path / "run"
    shutil.copytree(exported, run / "model")
    (run / "metrics.json").write_text("{}")
    settings = [f"evaluate.task_folder={tasks}", "evaluate.tasks=[letters]", "evaluate.limit=2"]
    perform(config(*settings, f"model={run}"))
    assert "| letters " in capsys.readouterr().out
    assert len(list((run / "measures").glob("benchmarks.*.json"))) == 1


def test_tasks_are_not_part_of_a_runs_identity(small_data: list[str]) -> None:
    from tinylm_ablate.settle import settle

    settings = ["evaluate.tasks=[paper]", "evaluate.task_folder=x", "evaluate.shots=3", "evaluate.limit=2"]
    assert settle(compose([*small_data, *settings])).identity == settle(compose(small_data)).identity


def test_all_tasks_of_a_folder_are_the_default(tasks: Path) -> None:
    assert task_names(config(f"evaluate.task_folder={tasks}").evaluate) == ["letters", "questions", "whole_texts", "writing"]


def test_the_lists_contain_the_papers_benchmarks(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c3.yaml").write_text((tasks / "letters.yaml").read_text().replace("task: letters", "task: c3"))
    wanted = config(f"evaluate.task_folder={tmp_path}", "evaluate.tasks=[table8,ablations]").evaluate
    table8 = ["ceval-valid", "cmmlu", "mmlu", "agieval", "boolq", "ax_b", "piqa", "eprstmt", "xsum", "c3"]
    assert task_names(wanted) == [*table8, "arc_easy", "hellaswag"]
    assert task_names(config("evaluate.tasks=[paper]").evaluate) == [*table8, "arc_easy", "hellaswag"]
    assert capsys.readouterr().err == ""
    # A user's task takes precedence over the shipped one of that name.
    assert open_task("c3", str(tmp_path), None).loaded["tasks"]["c3"].config.dataset_path == "json"


EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"


def test_shipped_tasks_use_the_data_in_the_folder(exported: Path, tmp_path: Path) -> None:
    evaluate = config(f"evaluate.task_folder={EXAMPLES}").evaluate
    assert task_names(evaluate) == ["ax_b", "c3", "eprstmt", "xsum"]
    benchmark_folder(exported, tmp_path, evaluate, "cpu")
    found: dict[str, float] = {}
    for settings in settings_of(evaluate):
        record = read_record(tmp_path, stem("benchmarks", settings))
        assert record is not None and record["settings"]["shipped"]
        found |= record["metrics"]
    assert [found[f"benchmarks/{name}/questions"] for name in ("ax_b", "c3", "eprstmt", "xsum")] == [4, 3, 4, 2]
    assert all(0 <= found[f"benchmarks/{place}"] <= 1 for place in ("ax_b/acc", "c3/acc_norm", "eprstmt/acc", "xsum/rouge1"))


def test_shipped_tasks_have_the_right_prompts_and_answers() -> None:
    """Prompts and right answers for both formats of the data: the hub's and the data sets' own."""

    def asked(task: Any, doc: dict[str, Any]) -> tuple[str, list[str], int]:
        return task.doc_to_text(doc), task.doc_to_choice(doc), int(task.doc_to_target(doc))

    ours = {name: open_task(name, str(EXAMPLES), None).loaded["tasks"][name] for name in ("ax_b", "eprstmt", "c3")}
    sentences = {"sentence1": "All cats sleep.", "sentence2": "Some cats sleep."}
    for label in (0, "entailment"):
        assert asked(ours["ax_b"], sentences | {"label": label}) == (
            "All cats sleep.\nQuestion: Some cats sleep. True or False?\nAnswer:", ["True", "False"], 0
        )  # fmt: skip
    assert (
        asked(ours["ax_b"], sentences | {"label": 1})[2] == asked(ours["ax_b"], sentences | {"label": "not_entailment"})[2] == 1
    )
    own = {"sentence": "很好。", "label": "Positive"}
    hub = {"input": "……如果是消极的，则生成答案“负面”。很好。", "output": "正面"}
    assert asked(ours["eprstmt"], own) == asked(ours["eprstmt"], hub) == ("评论：很好。\n情感：", ["正面", "负面"], 0)
    assert asked(ours["eprstmt"], own | {"label": "Negative"})[2] == asked(ours["eprstmt"], hub | {"output": "负面"})[2] == 1
    doc = {"context": ["甲：雨停了。", "乙：走吧。"], "question": "雨怎么了？", "choice": ["停了", "大了"], "answer": "大了"}
    assert asked(ours["c3"], doc) == ("甲：雨停了。\n乙：走吧。\n问题：雨怎么了？\n答案：", ["停了", "大了"], 1)


def test_summaries_are_scored_by_shared_words() -> None:
    from tinylm_ablate.measure.rouge import process_results

    doc = {"summary": "the old bridge is closed"}
    assert process_results(doc, [" the old bridge is closed "]) == {"rouge1": 1.0}
    assert process_results(doc, ["nothing"]) == {"rouge1": 0.0}
    # Three of four words found, three of five covered: 2 * 3 / (4 + 5).
    assert process_results(doc, ["the old stone bridge"])["rouge1"] == pytest.approx(6 / 9)


def test_the_papers_averages() -> None:
    scores = {column_of(benchmark): 0.01 * n for n, benchmark in enumerate(LISTS["table8"])}
    assert averages(scores) == {"benchmarks/average/table8": pytest.approx(4.5)}
    scores |= {"benchmarks/arc_easy/acc_norm": 0.3, "benchmarks/hellaswag/acc_norm": 0.4}
    assert averages(scores)["benchmarks/average/ablations"] == pytest.approx((30 + 40 + 9) / 3)
    assert averages(scores | {"benchmarks/mmlu/acc": math.nan}).keys() == {"benchmarks/average/ablations"}
    # The printed rows average in the same way.
    for row in printed_tables()["table08_benchmarks"].to_dict("records"):
        values = {column_of(benchmark): float(row[benchmark.column]) / 100 for benchmark in LISTS["table8"]}
        assert averages(values)["benchmarks/average/table8"] == pytest.approx(float(row["average"]), abs=0.011)


def test_other_models_are_stored_by_their_content(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder and its copy are one model; its GGUF file is another one."""
    pytest.importorskip("gguf")
    from tinylm_ablate.formats.gguf_export import export_gguf
    from tinylm_ablate.modes import perform

    runs, copy, file = tmp_path / "runs", tmp_path / "copy", tmp_path / "small.gguf"
    shutil.copytree(exported, copy)
    export_gguf(file, Model.read(exported), "f32")
    shared = [f"runs_dir={runs}", f"evaluate.task_folder={EXAMPLES}", "evaluate.tasks=[c3]"]
    for model in (exported, copy, file):
        perform(config(*shared, f"model={model}"))
    tables = capsys.readouterr().out
    assert tables.count("| c3 ") == 6 and len(set(re.findall(r"\| c3 .*acc .*", tables))) == 1
    homes = list((runs / "models").iterdir())
    assert len(homes) == 2 and all(len(list((home / "measures").glob("*.json"))) == 1 for home in homes)
    assert {json.loads((home / "model.json").read_text())["name"] for home in homes} == {str(exported), str(file)}
    models = read_runs(runs).rows["models"]
    assert sorted(models["name"]) == sorted([str(exported), str(file)]) and models["benchmarks/c3/acc_norm"].notna().all()


def test_a_name_of_the_hub_is_found_in_its_cache_or_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an earlier download; there is no network."""
    from tinylm_ablate.modes import _model_folder

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--Owner--Model-1B"
    shutil.copytree(exported, cached / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    found = _model_folder(config("model=Owner/Model-1B", f"runs_dir={tmp_path}"))
    assert (found / "config.json").read_bytes() == (exported / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"model=Owner/Other: not a folder here, and not available on the hub \("):
        _model_folder(config("model=Owner/Other", f"runs_dir={tmp_path}"))
    with pytest.raises(UserError, match=r"model=nowhere: neither a run in"):
        _model_folder(config("model=nowhere", f"runs_dir={tmp_path}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"evaluate\.tasks=\[\]: allowed: tasks of the harness .* as in evaluate\.tasks=\[piqa,arc_easy\]"),
        (["evaluate.task_folder=nowhere"], r"evaluate\.task_folder=nowhere: no such folder"),
        (
            ["evaluate.task_folder={empty}"],
            r"has no tasks; allowed: \.yaml .* 'task: NAME', and the data of ax_b, c3",
        ),
        (
            ["evaluate.task_folder={empty}", "evaluate.limit=0", "evaluate.tasks=[x]"],
            r"evaluate\.limit=0: allowed: a whole number at",
        ),
    ],
)
def test_mistakes_are_reported(tmp_path: Path, overrides: list[str], message: str) -> None:
    from tinylm_ablate.modes import perform

    with pytest.raises(ConfigError, match=message):
        settings = config(*(override.format(empty=tmp_path) for override in overrides), f"model={tmp_path}")
        perform(settings)


def test_an_unknown_task_is_reported_with_similar_names(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager

    def without_defaults(include_path: Any = None, **_: Any) -> Any:
        """Skip the harness's own tasks, whose descriptions take many seconds to read."""
        return whole(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", without_defaults)
    with pytest.raises(ConfigError, match=r"evaluate\.tasks=question: no such task; did you mean questions\?; allowed:"):
        task_names(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[question]").evaluate)


def test_a_task_without_its_data_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lost.yaml").write_text(CHOICES.format(name="lost", data="nowhere.jsonl"))
    with pytest.raises(
        UserError, match=r"evaluate\.tasks=lost: cannot be loaded .*nowhere\.jsonl.*; see .*lost\.yaml; data_files"
    ):
        open_task("lost", str(tmp_path), None)


def test_a_task_that_breaks_is_reported(exported: Path, tasks: Path, tmp_path: Path) -> None:
    broken = (tasks / "letters.yaml").read_text().replace("{{choices}}", "{{choises}}")
    (tmp_path / "letters.yaml").write_text(broken)
    with pytest.raises(UserError, match=r"evaluate\.tasks.*letters.*choises"):
        benchmark_folder(exported, tmp_path / "home", config(f"evaluate.task_folder={tmp_path}").evaluate, "cpu")


def test_a_missing_harness_is_reported_with_its_installation(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinylm_ablate.modes import perform

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"evaluate\.tasks: .* is not installed; pip install 'tinylm-ablate\[lm-eval\]'"):
        perform(config("evaluate.tasks=[piqa]", f"model={exported}"))

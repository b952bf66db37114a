"""EleutherAI's harness on our models, offline, on tasks of our own in its YAML format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

from tests.measure.conftest import SmallVocabulary, Texts
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.formats.huggingface import export
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.benchmarks import benchmark_folder, score_table, settings_of
from tinylm_ablate.measure.harness import open_task, task_names
from tinylm_ablate.measure.harness_model import HarnessModel
from tinylm_ablate.measure.records import read_record, read_rows, stem

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
    export(folder / "exported", model.state_dict(), model.shape, tokenizer, CONTEXT, vocabulary.end_of_text)
    return folder / "exported"


def config(*overrides: str) -> Any:
    return compose(["mode=evaluate", "tracking=none", "train.threads=1", *overrides])


def asked(settings: Any, kinds: tuple[str, ...]) -> list[Any]:
    """The requests of tasks, of some kinds."""
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
    """The harness's own model on the same folder."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(exported, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu")


def test_log_likelihoods_are_those_of_the_harness_own_model(exported: Path, tasks: Path, theirs: Any) -> None:
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
    assert 0 < ours.cut["questions"] < ours.asked["questions"]


def test_rolling_log_likelihoods_are_those_of_the_harness_own_model(exported: Path, tasks: Path, theirs: Any) -> None:
    ours = HarnessModel(exported, "cpu")
    requests = asked(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[whole_texts]"), ("loglikelihood_rolling",))
    lengths = [len(ours.tok_encode(request.args[0])) for request in requests]
    assert min(lengths) < CONTEXT < 2 * CONTEXT < max(lengths)
    found, expected = ours.loglikelihood_rolling(requests), theirs.loglikelihood_rolling(requests)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-4, rtol=1e-6)


def test_continuations_are_those_of_the_harness_own_model(exported: Path, tasks: Path, theirs: Any) -> None:
    requests = asked(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[writing]"), ("generate_until",))
    found = HarnessModel(exported, "cpu").generate_until(requests)
    assert found == theirs.generate_until(requests)
    assert len(set(found)) > 1
    assert not any("e" in text for text in found)


def test_more_tokens_than_the_context_leave_half_of_it_to_the_prompt(exported: Path, tasks: Path) -> None:
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


def test_nothing_to_say_is_certain(exported: Path) -> None:
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
    # What was measured is not measured again, and changed tasks are.
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


def test_tasks_are_no_part_of_a_runs_identity(small_data: list[str]) -> None:
    from tinylm_ablate.settle import settle

    settings = ["evaluate.tasks=[paper]", "evaluate.task_folder=x", "evaluate.shots=3", "evaluate.limit=2"]
    assert settle(compose([*small_data, *settings])).identity == settle(compose(small_data)).identity


def test_all_tasks_of_a_folder_are_the_default(tasks: Path) -> None:
    assert task_names(config(f"evaluate.task_folder={tasks}").evaluate) == ["letters", "questions", "whole_texts", "writing"]


def test_a_list_takes_ones_own_task_for_what_the_harness_lacks(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c3.yaml").write_text((tasks / "letters.yaml").read_text().replace("task: letters", "task: c3"))
    wanted = config(f"evaluate.task_folder={tmp_path}", "evaluate.tasks=[paper,ablations]").evaluate
    names = task_names(wanted)
    assert names[:5] == ["ceval-valid", "cmmlu", "mmlu", "agieval", "boolq"]
    assert {"piqa", "arc_easy", "hellaswag", "c3"} <= set(names)
    reported = capsys.readouterr().err
    assert "AX-b (not in the harness; a task ax_b in evaluate.task_folder is taken)" in reported
    assert "EPRSTMT" in reported
    assert "C3" not in reported
    assert ("XSum (pip install unitxt)" in reported) != ("xsum" in names)
    # A grid of many cells asks many times, and reports once.
    assert task_names(wanted) == names and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"evaluate\.tasks=\[\]: allowed: tasks of the harness .* as in evaluate\.tasks=\[piqa,arc_easy\]"),
        (["evaluate.task_folder=nowhere"], r"evaluate\.task_folder=nowhere: there is no such folder"),
        (["evaluate.task_folder={empty}"], r"holds no task; allowed: \.yaml files with a line 'task: NAME'"),
        (
            ["evaluate.task_folder={empty}", "evaluate.limit=0", "evaluate.tasks=[x]"],
            r"evaluate\.limit=0: allowed: a whole number at",
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, overrides: list[str], message: str) -> None:
    from tinylm_ablate.modes import perform

    with pytest.raises(ConfigError, match=message):
        settings = config(*(override.format(empty=tmp_path) for override in overrides), f"model={tmp_path}")
        perform(settings)


def test_an_unknown_task_is_told_with_its_neighbours(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager

    def without_defaults(include_path: Any = None, **_: Any) -> Any:
        """Reading all of the harness's descriptions takes it many seconds."""
        return whole(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", without_defaults)
    with pytest.raises(
        ConfigError, match=r"evaluate\.tasks=question: there is no such task; did you mean questions\?; allowed:"
    ):
        task_names(config(f"evaluate.task_folder={tasks}", "evaluate.tasks=[question]").evaluate)


def test_a_task_without_its_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "lost.yaml").write_text(CHOICES.format(name="lost", data="nowhere.jsonl"))
    with pytest.raises(
        UserError, match=r"evaluate\.tasks=lost: cannot be loaded .*nowhere\.jsonl.*; see .*lost\.yaml; data_files"
    ):
        open_task("lost", str(tmp_path), None)


def test_a_task_that_breaks_is_told(exported: Path, tasks: Path, tmp_path: Path) -> None:
    broken = (tasks / "letters.yaml").read_text().replace("{{choices}}", "{{choises}}")
    (tmp_path / "letters.yaml").write_text(broken)
    with pytest.raises(UserError, match=r"evaluate\.tasks.*letters.*choises"):
        benchmark_folder(exported, tmp_path / "home", config(f"evaluate.task_folder={tmp_path}").evaluate, "cpu")


def test_without_the_harness_it_is_told_how_to_install_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinylm_ablate.modes import perform

    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"evaluate\.tasks: .* is not installed; pip install 'tinylm-ablate\[lm-eval\]'"):
        perform(config("evaluate.tasks=[piqa]", f"model={exported}"))

"""Mistakes on the command line: each has its own line, and one command reports all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import TINY, run_command
from tinylm_ablate.arguments import VERBS
from tinylm_ablate.config import GROUPS, Config
from tinylm_ablate.config_values import walk
from tinylm_ablate.grid.yaml_files import mistakes_in_files
from tinylm_ablate.paths import conf_dir, experiments_dir

PACKAGE = "# @package _global_\n"

#: Files in experiments/, and the mistake in each.
EXPERIMENTS: dict[str, tuple[str | bytes, str]] = {
    "typo.yaml": (PACKAGE + "arch:\n  dpeth: 2\n", ":3: arch.dpeth: no such key; did you mean arch.depth?"),
    "kind.yaml": (PACKAGE + "arch:\n  depth: many\n", ":3: arch.depth=many: allowed: a whole number at least 1"),
    "bounds.yaml": (PACKAGE + "arch: {depth: -1}\n", ":2: arch.depth=-1: allowed: a whole number at least 1"),
    "choice.yaml": (PACKAGE + "train: {precision: fp8}\n", ":2: train.precision=fp8: allowed: auto, fp32, bf16"),
    "number.yaml": (PACKAGE + "train: {tokens: 2M}\n", ":2: train.tokens=2M: allowed: a whole number"),
    "package.yaml": ("arch:\n  depth: 2\n", ":1: the line '# @package _global_' is missing at its top"),
    "mark.yaml": ("\ufeff" + PACKAGE + "seed: 1\n", ":1: begins with a byte-order mark"),
    "empty.yaml": ("", ": is empty"),
    "ending.yml": (PACKAGE, ": Hydra reads only .yaml; rename it to ending.yaml"),
    "tab.yaml": (PACKAGE + "arch:\n\tdepth: 2\n", ":3: indented with a tab"),
    "twice.yaml": (PACKAGE + "arch:\n  depth: 2\n  depth: 3\n", ":4: arch.depth is given twice, first in line 3"),
    "latin.yaml": ("experiment: {title: Größe}".encode("latin-1"), ":1: is not UTF-8; iconv -f latin1 -t utf-8 latin.yaml"),
    "list.yaml": (PACKAGE + "- a\n", ":2: allowed: keys with values"),
    "open.yaml": (PACKAGE + "arch: {depth: 2\n", ":3: not YAML"),
    "default.yaml": (PACKAGE + "defaults:\n  - override /arch: lama\n", ":3: arch=lama: no such choice; did you mean llama?"),
    "group.yaml": (PACKAGE + "defaults:\n  - override /arhc: llama\n", ":3: arhc: no such group; allowed: scale"),
    "value.yaml": (PACKAGE + "arch: pangu_pi\n", ":2: arch: allowed: its keys; a choice is named under defaults"),
    "axis.yaml": (
        PACKAGE + "hydra:\n  sweeper:\n    params:\n      arch.dpeth: 2,3\n",
        ":5: arch.dpeth: no such key; did you mean arch.depth?",
    ),
    "sweeper.yaml": (PACKAGE + "hydra:\n  sweeper:\n    parms: {}\n", ":4: hydra.sweeper.parms: no such key"),
    "values.yaml": (
        PACKAGE + "hydra:\n  sweeper:\n    params:\n      arch.depth: 2,two\n",
        ":5: arch.depth=two: allowed: a whole number at least 1",
    ),
    "items.yaml": (
        PACKAGE + "hydra: {sweeper: {params: {arch.depth: [2, -1]}}}\n",
        ":2: arch.depth=-1: allowed: a whole number at least 1",
    ),
    "globs.yaml": (
        PACKAGE + "hydra:\n  sweeper:\n    params:\n      data.path: '*.txt,@b'\n      arch.depth: -1\n",
        ":6: arch.depth=-1: allowed: a whole number at least 1",
    ),
    "choices.yaml": (
        PACKAGE + "hydra:\n  sweeper:\n    params:\n      init: gpt2,inhert\n",
        ":5: init=inhert: no such choice; did you mean inherit?",
    ),
    "arms.yaml": (
        PACKAGE + "grid:\n  arms:\n    a: arch.depth=2\n",
        ":3: grid.arms={'a': 'arch.depth=2'}: allowed: names with lists of settings",
    ),
}


def test_mistakes_in_the_files_of_a_user_are_reported_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "conf" / "optimizer").mkdir(parents=True)
    for name, (content, _) in EXPERIMENTS.items():
        (tmp_path / "experiments" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "conf/optimizer/mine.yaml").write_text("defaults: [adamw, _self_]\nweigth_decay: 0\n")
    (tmp_path / "conf/optimizer/bare.yaml").write_text("weight_decay: 0\n")
    names = ",".join(Path(name).stem for name in EXPERIMENTS)
    done = run_command("-m", f"+experiments={names}", "optimizer=mine,bare", "arch.dpeth=2", folder=tmp_path)
    assert done.code == 2, done.text
    for name, (_, message) in EXPERIMENTS.items():
        assert f"experiments/{name}{message}" in done.err
    assert "conf/optimizer/mine.yaml:2: optimizer.weigth_decay: no such key; did you mean optimizer.weight_d" in done.err
    assert "conf/optimizer/bare.yaml:1: does not extend a choice, as in defaults: [adamw, _self_]" in done.err
    assert "- arch.dpeth: no such key; did you mean arch.depth?" in done.err
    assert f"{len(EXPERIMENTS) + 3} mistakes in the configuration; nothing was run" in done.err


def test_the_shipped_files_have_no_mistakes() -> None:
    shipped = [f"{group}={path.stem}" for group in GROUPS for path in (conf_dir() / group).glob("*.yaml")]
    assert mistakes_in_files([*shipped, *(f"+experiments={path.stem}" for path in experiments_dir().glob("*.yaml"))]) == []


#: Commands and their messages: first those that do not compose, then those that make no grid.
COMMANDS: list[tuple[list[str], list[str]]] = [
    (
        [
            "-m", "arch.dept=20,40", "init=gpt2,inhert", "arch.depth=20,fourty", "arch.tied=perhaps", "tracking=mlfow",
            "hydra/launcher=slurm", "+train.tokenz=1", "train.tokens=[1", "arch.width==2", "seed=fn(1)",
            "data.wieghts={en: 1}",
        ],
        [
            "arch.dept: no such key; did you mean arch.depth?",
            "init=inhert: no such choice; did you mean inherit? allowed: constant, depthwise",
            "arch.depth=fourty: allowed: a whole number at least 1 and at most 10,000",
            "arch.tied=perhaps: allowed: true, false, auto",
            "tracking=mlfow: no such choice; did you mean mlflow? allowed: csv",
            "hydra/launcher=slurm: no such choice; did you mean submitit_slurm? allowed: basic",
            "train.tokenz: no such key; did you mean train.tokens?",
            "train.tokens=[1: a bracket is not closed, or not opened",
            "seed=fn(1): allowed: a,b or choice(a,b), range(low,high,step)",
            "arch.width==2: allowed: auto, a whole number at least 2, the paper's size divided by the scale, as 'N/s'",
            "data.wieghts: no such key; did you mean data.weights?",
        ],
    ),
    (["-m", "+optimizer.weight_deacy=0,0.5"], ["optimizer.weight_deacy: no such key; did you mean"]),
    (["++optimizer.weight_deacy=0.5"], ["optimizer.weight_deacy: no such key; did you mean optimizer.weight_decay?"]),
    (
        ["-m", 'grid.arms={a: ["arch.dept=9"], b: ["init=constnat", "train.tokens=2X"]}'],
        ["arch.dept: no such key", "init=constnat: no such choice; did you mean constant?", "=2X: allowed"],
    ),
    (
        ["-m", "grid.arms={a: [arch.dept=9], b: ['arch.depth = 4'], c: [init=inhert]}"],
        ["grid.arms: b: arch.depth = 4: not understood", "arch.dept: no such key", "init=inhert: no such choice; did you mean"],
    ),
    (["-m", "grid.arms={a: arch.depth=4}"], ["allowed: names with lists of settings, as in {shallow: ['arch.depth=9']"]),
    (["arch.depth=2", "plan"], ["plan: not understood; settings are written as key=value; the verb is the first word: tinyl"]),
    (["help"], ["did you mean --help?"]),
    (
        ["-m", "arch.depth=range(40,9)", "mode=plan,run", "grid.workers=1,2", "seed=0,1", "seeds=2",
         "grid.arms={a: ['tracking=none']}", "grid.zip=[[arch.width]]", "grid.exclude=['arch.dpth=20']"],
        [
            "arch.depth=range(40,9): has no values",
            "mode=plan,run: applies to the whole grid; allowed: one value",
            "grid.workers=1,2: applies to the whole grid; allowed: one value",
            "seeds=2: allowed without seed=, which sets the same axis",
            "grid.arms: a: tracking=none: applies to the whole grid",
            "grid.zip=[[arch.width]]: arch.width has only one value",
            "grid.exclude=[arch.dpth=20]: allowed: 'axis=value axis=value'",
        ],
    ),
    (
        ["-m", "hydra/sweeper=optuna", "arch.dept=choice(2,4)", "arch.depth=choice(2,x)", "search.trials=0", "runs_dir=a,b"],
        ["arch.dept: no such key", "arch.depth=x: allowed: a whole", "runs_dir=a,b: applies to the whole search"],
    ),
    (["-m", "arch.depth=2,4", "--cfg", "job"], ["--cfg: shows the settings of one run; allowed without -m"]),
    (["arch.depth=2,4"], ["arch.depth=2,4: several values make a grid: add -m"]),
    (["data=files", "data.path=/x/文本 (1), 2.jsonl"], ["data.path=/x/文本 (1), 2.jsonl: no such file or folder"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "messages"), COMMANDS, ids=lambda value: value[-1] if isinstance(value, list) else "")
def test_one_command_reports_every_mistake(words: list[str], messages: list[str], tmp_path: Path) -> None:
    done = run_command(*words, folder=tmp_path)
    assert done.code == 2, done.text
    assert [message for message in messages if message not in done.err] == [], done.err
    for parser in ("no viable alternative", "token recognition", "extraneous input", "mismatched", "could not be converted"):
        assert parser not in done.err
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_created_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/nonexistent/disk")
    done = run_command("plan", "runs_dir=link", "cache_dir=file/cache", folder=tmp_path)
    assert done.code == 2 and "runs_dir=link: link is a link to /nonexistent/disk, which does not exist" in done.err
    assert "cache_dir=file/cache: file is a file; allowed: a folder" in done.err
    done = run_command("report", "--runs-dir", "none", folder=tmp_path)
    assert done.code == 2 and "none: no such folder of runs; nothing was written" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_arms_and_axes_take_numbers_and_names_as_the_command_line_does(tmp_path: Path) -> None:
    arms = "grid.arms={few: ['train.tokens=1k', 'lr=1e-3'], more: ['train.tokens=2k']}"
    done = run_command("-m", *TINY, arms, "data.test_share=2%", "mode=status", folder=tmp_path)
    assert done.code == 0 and "arm=few" in done.out and "2 waiting" in done.out, done.text


def test_experiments_can_be_an_axis(tmp_path: Path) -> None:
    done = run_command("-m", "+experiments=demo,table02_depth_width", "seeds=1", "mode=status", folder=tmp_path)
    assert done.code == 0, done.text
    assert "demo: optimizer.scaling.base_lr=0.008 seed=0" in done.out
    assert "table02_depth_width: arch.depth=40 seed=0" in done.out
    # A list on the command line replaces that of an experiment; two lists would be an axis.
    paper = ("-m", "+experiments=paper", "grid.experiments=[demo]", "seeds=1", "mode=status")
    done = run_command(*paper, folder=tmp_path)
    assert done.code == 0 and "demo: optimizer.scaling.base_lr=0.008 seed=0" in done.out and "table02" not in done.out, (
        done.text
    )
    done = run_command(*paper, "grid.experiments=[demo],[table02_depth_width]", folder=tmp_path)
    assert done.code == 2 and "applies to the whole grid; allowed: one value" in done.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_plan_for_a_gpu_is_made_where_one_is(tmp_path: Path) -> None:
    done = run_command(*TINY, "mode=plan", "train.device=cuda", folder=tmp_path)
    assert done.code == 2 and "train.device=cuda: this machine has no such device; allowed: auto, cpu, or" in done.text
    assert "Traceback" not in done.text
    assert run_command(*TINY, "mode=status", "train.device=cuda", folder=tmp_path).code == 0


def test_the_version_is_printed(tmp_path: Path) -> None:
    done = run_command("--version", folder=tmp_path)
    assert done.code == 0 and done.out.startswith("tinylm-ablate ")


def complete(line: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Return the completions at the end of a line."""
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    done = run_command("-sc", "query=bash", folder=folder)
    assert done.code == 0 and not done.err, done.text
    return done.out.split()


def test_the_shell_completes_verbs_keys_and_choices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert complete("tinylm-ablate pl", monkeypatch, tmp_path)[0] == "plan"
    assert "seed=" in complete("tinylm-ablate", monkeypatch, tmp_path)
    assert complete("tinylm-ablate plan -m init=g", monkeypatch, tmp_path) == ["init=gpt2"]
    assert complete("python -m tinylm_ablate arch.dep", monkeypatch, tmp_path) == ["arch.depth="]
    (tmp_path / "my_folder").mkdir()
    offered = complete("tinylm-ablate plan ", monkeypatch, tmp_path)
    known = {key.split(".")[0] for key, *_ in walk(Config())} | {"+experiments", "hydra"}
    assert {word.split(".")[0].rstrip("=") for word in offered} <= known
    assert "+experiments=demo" in complete("tinylm-ablate plan +experiments=de", monkeypatch, tmp_path)
    done = run_command("-sc", folder=tmp_path)
    assert done.code == 2 and "-sc: allowed: -sc install=bash" in done.err and "Traceback" not in done.err


def test_the_completion_script_works_for_both_ways_of_starting(tmp_path: Path) -> None:
    bash = f"""
        tinylm-ablate() {{ {sys.executable} -m tinylm_ablate "$@"; }}
        eval "$(tinylm-ablate -sc install=bash)"
        for COMP_LINE in "tinylm-ablate init=g" "{sys.executable} -m tinylm_ablate tracking=m" "python -m http.server"; do
            COMP_POINT=${{#COMP_LINE}} COMPREPLY=(); _tinylm_ablate; echo "${{COMPREPLY[*]}}"
        done
    """
    done = subprocess.run(["bash", "-c", bash], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "init=gpt2\ntracking=mlflow\n\n" and not done.stderr


def test_names_that_no_file_system_accepts_are_refused_early(tmp_path: Path) -> None:
    done = run_command(f"runs_dir=x/{'é' * 130}", "arch.depth=0", folder=tmp_path)
    assert done.code == 2 and "runs_dir=x/" in done.err and "at most 255 bytes" in done.err and "arch.depth=0" in done.err
    assert list(tmp_path.iterdir()) == []


def test_unprintable_text_and_a_closed_pipe_end_no_command(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tinylm_ablate"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    path = ["data=files", "data.path=/x/文本"]
    shown = subprocess.run([*words, *path], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 2 and "data.path=/x/??: no such file" in shown.stderr
    left = f"{sys.executable} -m tinylm_ablate --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", left], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n" and not done.stderr
    refused = subprocess.run([sys.executable, "-O", *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and refused.stderr == (
        "python -O disables checks that tinylm-ablate needs; start it without -O\n"
    )


def test_every_verb_has_help(tmp_path: Path) -> None:
    for verb in VERBS:
        done = run_command(verb, "--help", folder=tmp_path)
        assert done.code == 0 and f"tinylm-ablate {verb}" in done.out, done.text
        for key in {"plan": ["plan.format"], "export": ["model", "folder", "export.format"], "generate": ["prompt"]}.get(
            verb, ()
        ):
            assert f"  {key} " in done.out

"""Generation and export from finished runs and from folders of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import TINY, run, run_command
from tinylm_ablate.config import Config
from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.formats.huggingface import load_model
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.modes import perform
from tinylm_ablate.tasks.run import Record


class Workplace:
    """A folder with two finished runs, one with Llama's blocks and one with PanGu-pi's."""

    def __init__(self, folder: Path, data: list[str]) -> None:
        self.runs = folder / "runs"
        self.settings = [*TINY, *data, f"runs_dir={self.runs}"]
        self.llama = self.train()
        self.pangu = self.train("arch=pangu_pi", "arch.shortcut_ratio=4")

    def train(self, *overrides: str) -> Record:
        return run(compose([*self.settings, *overrides]))

    def model(self, record: Record) -> Path:
        return self.runs / str(record["identity"]) / "model"

    def config(self, *overrides: str) -> Config:
        return compose([*self.settings, *overrides])

    def perform(self, *overrides: str) -> None:
        perform(self.config(*overrides))


@pytest.fixture(scope="module")
def work(small_data: list[str], small_cache: str, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("modes"), [*small_data, small_cache])


def assert_transformers_agree(folder: Path, ours: Path) -> None:
    """Check that ``AutoModelForCausalLM`` and ``AutoTokenizer`` of ``folder`` equal our model ``ours``."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text = "Once upon a time, 从前有一个国王。\n"
    ids = tokenizer(text)["input_ids"]
    assert ids == Tokenizer.from_file(str(ours / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    tokens = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, load_model(ours).eval()(tokens), rtol=1e-5, atol=1e-5)


def test_the_model_of_a_run_is_a_hugging_face_folder(work: Workplace) -> None:
    assert_transformers_agree(work.model(work.llama), work.model(work.llama))


def test_an_exported_folder_is_a_hugging_face_folder(
    work: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exported"
    work.perform("mode=export", f"model={work.llama['identity']}", f"folder={folder}")
    assert str(folder) in capsys.readouterr().out
    assert_transformers_agree(folder, work.model(work.llama))
    with pytest.raises(UserError, match="exists already"):
        work.perform("mode=export", f"model={work.llama['identity']}", f"folder={folder}")
    with pytest.raises(ConfigError, match=r"export\.weights=q4_0: allowed with export.format=gguf"):
        work.perform("mode=export", f"model={work.llama['identity']}", f"folder={tmp_path / 'other'}", "export.weights=q4_0")


def test_an_exported_gguf_file_is_the_same_model(work: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    export = ["mode=export", f"model={work.llama['identity']}", "export.format=gguf"]
    with pytest.raises(ConfigError, match=r"folder=.*exported: allowed with export.format=gguf: .* ends in .gguf"):
        work.perform(*export, f"folder={tmp_path / 'exported'}")
    path = tmp_path / "exported.gguf"
    work.perform(*export, f"folder={path}", "export.weights=f32")
    assert "note: llama.cpp does not support the pre-tokenization" in capsys.readouterr().err
    ours, back = load_model(work.model(work.llama)), load_model(path)
    assert back.shape == ours.shape
    assert all(torch.equal(weight, back.state_dict()[name]) for name, weight in ours.state_dict().items())
    generate = ["mode=generate", "prompt=the", "generate.new_tokens=5", "generate.temperature=0"]
    work.perform(*generate, f"model={work.llama['identity']}")
    expected = capsys.readouterr().out
    work.perform(*generate, f"model={path}")
    assert capsys.readouterr().out == expected


def test_the_described_run_is_the_default(work: Workplace, tmp_path: Path) -> None:
    work.perform("mode=export", f"folder={tmp_path / 'exported'}")
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2


def test_pangu_blocks_are_not_exported(work: Workplace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither series activations nor augmented shortcuts.*arch\.activations=1"):
        work.perform("mode=export", f"model={work.pangu['identity']}", f"folder={tmp_path / 'exported'}")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("which", ["llama", "pangu"])
def test_text_is_generated_from_a_run(work: Workplace, which: str, capsys: pytest.CaptureFixture[str]) -> None:
    identity = getattr(work, which)["identity"]
    output = []
    for seed in (0, 0, 1):
        arguments = ["mode=generate", f"model={identity}", f"seed={seed}", "generate.new_tokens=20", "prompt='The king of'"]
        work.perform(*arguments)
        output.append(capsys.readouterr().out)
    assert all(text.startswith("The king of") for text in output)
    assert output[0] == output[1] != output[2]


def test_a_run_is_named_by_identity_folder_or_model(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    model = work.model(work.llama)
    output = set()
    for name in (work.llama["identity"], model.parent, model):
        work.perform("mode=generate", f"model={name}", "prompt=Word", "generate.temperature=0", "generate.new_tokens=5")
        output.add(capsys.readouterr().out)
    assert len(output) == 1


def test_text_is_generated_from_a_folder_of_transformers(
    work: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = work.llama["shape"]["vocab_size"]
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=None,
            bos_token_id=None,
            pad_token_id=None,
        )
    ).eval()
    folder = tmp_path / "foreign"
    model.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(work.model(work.llama), local_files_only=True)
    tokenizer.save_pretrained(folder)
    work.perform("mode=generate", f"model={folder}", "prompt='A word'", "generate.temperature=0", "generate.new_tokens=12")
    output = capsys.readouterr().out.rstrip("\n")
    ids = torch.tensor([tokenizer("A word")["input_ids"]])
    expected = model.generate(ids, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(ids))
    assert output == "A word" + tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True).rstrip("\n")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mode=generate", "model=nonsense", "prompt=x"], "model=nonsense: neither a run in .* nor a folder"),
        (["mode=export", "model=nonsense", "folder=x"], "model=nonsense: neither a run in .* nor a folder"),
        (["mode=generate", "prompt=x", "seed=7"], "model=null: the run of this config has no model yet"),
        (["mode=generate"], "prompt=: allowed: text to continue"),
        (["mode=export"], "folder=null: mode=export needs folder=WHERE"),
        (
            ["mode=generate", "prompt=x", "model={empty}"],
            "config.json: cannot be read .* choose a folder with a model",
        ),
        (["mode=export", "folder=x", "model={empty}"], "config.json: cannot be read .* choose a folder with a model"),
    ],
)
def test_a_wrong_name_is_reported(work: Workplace, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        work.perform(*(override.format(empty=tmp_path) for override in overrides))


def test_a_model_without_tokenizer_is_reported(work: Workplace, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((work.model(work.llama) / name).read_bytes())
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read"):
        work.perform("mode=generate", f"model={tmp_path}", "prompt=x")


def test_bad_settings_of_generation_are_mistakes(work: Workplace) -> None:
    with pytest.raises(ConfigError, match=r"generate\.temperature=-1"):
        work.perform("mode=generate", f"model={work.llama['identity']}", "prompt=x", "generate.temperature=-1")


def test_generation_is_refused_in_a_grid(tmp_path: Path) -> None:
    done = run_command("-m", "mode=generate", "prompt=x", "seed=0,1", folder=tmp_path)
    assert done.code == 2
    assert "mode=generate: applies to one model; allowed without -m" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_grid_of_seeds_computes_coverage_once(small_data: list[str], small_corpus: Corpus, tmp_path: Path) -> None:
    """``make paper`` calls every experiment with seeds and a budget."""
    sizes = ["tokenizer.train_bytes=20000", "tokenizer.source_vocab_size=400", "tokenizer.vocab_size=300"]
    cache = f"cache_dir={small_corpus.folder.parents[1]}"
    done = run_command("-m", "+experiments=figure02_coverage", "seeds=2", *small_data, *sizes, cache, folder=tmp_path)
    assert done.code == 0, done.err
    assert done.out.count("BPE trained on this text") == 6
    assert (tmp_path / "results" / "figure02_coverage.md").exists()
    assert not (tmp_path / "runs").exists()

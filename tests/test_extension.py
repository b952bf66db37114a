"""User-defined parts: the file in docs/extending.md is written, imported and run."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import TINY, run_command
from tinylm_ablate.config import Config
from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.extension import _part, normal, part
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

DOCS = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
OWN = [
    "data=files", "data.source=own", "data.own={_target_: mine.Sums, count: 300}", "optimizer.name=own",
    "optimizer.own={_target_: mine.SignDescent}", "optimizer.scaling.multiplier=0.1", "optimizer.schedule=own",
    "optimizer.own_schedule={_target_: mine.Root}", "init.rule=own", "init.own={_target_: mine.Steep}",
    "arch.own_attention={_target_: mine.Windowed}", "arch.own_ffn={_target_: mine.Squared}",
    "evaluate.own=[{_target_: mine.Norms}]",
]  # fmt: skip
SHARES = ["data.validation_share=0.2", "data.test_share=0.2", "evaluate.cloze_questions=0", "tokenizer.vocab_size=260"]


def write_mine(folder: Path) -> None:
    """Write the file of the tutorial."""
    (code,) = re.findall(r"`mine\.py`.*?```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (folder / "mine.py").write_text(code)


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder for all tests that only read it, since each new one is composed from scratch."""
    folder = tmp_path_factory.mktemp("place")
    write_mine(folder)
    return folder


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Forget what was imported from the working folder."""
    path = list(sys.path)
    yield monkeypatch
    sys.path[:] = path
    sys.modules.pop("mine", None)
    _part.cache_clear()


@pytest.fixture
def place(shared_place: Path, clean: pytest.MonkeyPatch) -> Path:
    """A user's working folder with the file of the tutorial; nothing may be written there."""
    clean.chdir(shared_place)
    return shared_place


@pytest.fixture
def own_place(tmp_path: Path, clean: pytest.MonkeyPatch) -> Path:
    """The same for one test that writes there."""
    write_mine(tmp_path)
    clean.chdir(tmp_path)
    return tmp_path


def config(place: Path, *more: str) -> Config:
    return compose([*TINY, *SHARES, f"runs_dir={place}/runs", *OWN, *more])


@pytest.mark.timeout(300)
def test_the_tutorial_runs(own_place: Path) -> None:
    found = r"```console\n\$ (python -m tinylm_ablate data=files data\.source=own.*?)```"
    console = re.search(found, DOCS.read_text(), re.DOTALL)
    assert console is not None
    words = shlex.split(console[1].replace("\\\n", " "))[3:]
    assert [word.replace("2000", "300") for word in words] == OWN
    ended = run_command(*TINY, *SHARES, *words, "data.own.count=300", "runs_dir=runs", folder=own_place)
    assert ended.code == 0, ended.text
    settled = settle(config(own_place))
    record = json.loads((own_place / "runs" / settled.identity / "metrics.json").read_text())
    assert "mine.Sums" in json.dumps(record["data"])
    (measured,) = (own_place / "runs" / settled.identity / "measures").glob("norms.*.json")
    content = json.loads(measured.read_text())
    assert content["settings"] == {"_target_": "mine.Norms", "order": 2}
    rows = [json.loads(line) for line in (own_place / "runs" / settled.identity / "curve.jsonl").read_text().splitlines()]
    assert rows and all(torch.tensor(row["loss"]).isfinite() for row in rows)
    swept = run_command(
        "-m", *TINY, *SHARES, *OWN, "optimizer.own.momentum=0.5,0.9", "runs_dir=runs", "mode=plan", folder=own_place
    )
    assert swept.code == 0 and "0.5" in swept.out, swept.text
    blocks = "arch.own_ffn=null,{_target_: mine.Squared, rate: 2}"
    rest = [word for word in OWN if not word.startswith("arch.own_ffn=")]
    swept = run_command("-m", *TINY, *SHARES, *rest, blocks, "runs_dir=runs", "mode=status", folder=own_place)
    assert swept.code == 0 and "arch.own_ffn={_target_:mine.Squared,rate:2}" in swept.out, swept.text


@pytest.mark.timeout(300)
def test_the_update_is_computed_by_the_class(place: Path) -> None:
    """Weights with the tutorial's optimizer equal an independent loop over PyTorch's gradients."""
    from tinylm_ablate.optimizer.optimizers import build_optimizer, optimizer_state, restore_optimizer

    settings = config(place).optimizer
    model = torch.nn.Linear(3, 2)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    averages = [torch.zeros_like(value) for value in expected]
    optimizer = build_optimizer(model, settings, 0.01)
    for step in range(5):
        model.zero_grad()
        model(torch.arange(3.0) - step).square().sum().backward()
        for value, average, parameter in zip(expected, averages, model.parameters(), strict=True):
            assert parameter.grad is not None
            average.mul_(0.9).add_(0.1 * parameter.grad)
            decay = settings.weight_decay if value.ndim == 2 else 0.0
            value.copy_(value * (1 - 0.01 * decay) - 0.01 * average.sign())
        optimizer.step()
        kept, counters = optimizer_state(optimizer, model)  # as a checkpoint does
        optimizer = build_optimizer(model, settings, 0.01)
        restore_optimizer(optimizer, model, kept, counters)
    for value, parameter in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), value)


def test_every_setting_belongs_to_the_identity(place: Path) -> None:
    one = settle(config(place)).identity
    assert settle(config(place, "optimizer.own={_target_: mine.SignDescent, momentum: 0.9}")).identity == one
    others = (
        "optimizer.own.momentum=0.8", "optimizer.own_schedule={_target_: mine.Root, power: 1}",
        "init.own={_target_: mine.Steep, fall: 0.1}", "data.own.count=301", "arch.own_attention.window=8",
        "arch.own_ffn.rate=2", "arch.own_ffn=null",
    )  # fmt: skip
    assert len({one, *(settle(config(place, other)).identity for other in others)}) == 8
    assert settle(config(place, "arch.own_ffn={_target_: mine.Squared, rate: 3}")).identity == one
    assert settle(config(place, "evaluate.own=[]")).identity == one  # a measure does not change weights


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("optimizer.own={_target_: mine.Absent}", "optimizer.own: _target_=mine.Absent: cannot be imported"),
        ("optimizer.own={_target_: Absent}", "optimizer.own: _target_=Absent: allowed: the dotted name of a class"),
        ("optimizer.own={_target_: mine.Root}", "optimizer.own: _target_=mine.Root: lacks keeps, update"),
        ("optimizer.own={_target_: os.getcwd}", "optimizer.own: _target_=os.getcwd: allowed: a dataclass"),
        ("optimizer.own.momentum=much", "optimizer.own.momentum=much: allowed: a number"),
        ("+optimizer.own.decay=1", "optimizer.own.decay=1: no such setting; allowed: momentum"),
        ("optimizer.name=lion", "allowed with optimizer.name=own; otherwise unused"),
        ("evaluate.own=[{_target_: mine.Root}]", "evaluate.own: _target_=mine.Root: lacks name, weights, measure"),
        ("data.own={_target_: mine.Root}", "data.own: _target_=mine.Root: lacks documents"),
        ("arch.own_ffn={_target_: mine.Windowed}", "arch.own_ffn: _target_=mine.Windowed: lacks feed"),
        ("arch.own_attention.window=wide", "arch.own_attention.window=wide: allowed: a whole number"),
        ("arch.own_ffn.rate=0", "arch.own_ffn: _target_=mine.Squared: matrices: up=(0, 16): allowed: a name"),
        ("init=inherit", "arch.own_attention: allowed with init.method=random"),
        ("arch.activations=2", "arch.activations=2: allowed without arch.own_ffn"),
    ],
)
def test_mistakes_are_reported_before_anything_is_spent(wrong: str, message: str, place: Path) -> None:
    with pytest.raises(ConfigError) as error:
        settle(config(place, wrong.removeprefix("+")))
    assert message in str(error.value)


def test_a_source_may_describe_what_it_has_read(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom tinylm_ablate.data.documents import Document\n"
        "@dataclass\nclass Late:\n    read = ()\n"
        "    def documents(self):\n"
        "        yield from (Document(text=f'text {n} ' * 9, language='en') for n in range(200))\n"
        "        self.read = [{'name': 'late'}]\n"
        "    def description(self):\n        return self.read\n"
    )
    clean.chdir(tmp_path)
    data = compose(["data=files", "data.source=own", "data.own={_target_: mine.Late}", *SHARES]).data
    for _ in range(2):  # built, and from the cache
        _part.cache_clear()
        assert open_corpus(data, tmp_path / "cache").summary["sources"] == [{"name": "late"}]


def test_a_field_with_constraints_reports_them(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom typing import Annotated\nfrom annotated_types import MinLen\n"
        "@dataclass\nclass Named:\n    name: Annotated[str, MinLen(2)] = 'ab'\n"
    )
    clean.chdir(tmp_path)
    for wrong, message in (("a", "at least 2 characters"), (["ab"], "allowed: text")):
        with pytest.raises(ConfigError, match=message):
            part({"_target_": "mine.Named", "name": wrong}, "data.own")


def test_mistakes_in_all_parts_are_reported_together(own_place: Path) -> None:
    done = run_command(
        *TINY, "mode=plan", "optimizer.name=own", "optimizer.own={_target_: mine.SignDescent, momentm: 1}", "init.rule=own",
        "init.own={_target_: absent.Steep}", "arch.own_ffn={_target_: mine.Squared, rate: fast}", folder=own_place,
    )  # fmt: skip
    assert done.code == 2 and "3 mistakes in the configuration" in done.err, done.text
    for mistake in ("momentm=1: no such setting; allowed: momentum", "absent.Steep: cannot be im", "fast: allowed: a number"):
        assert mistake in done.err


def test_a_choice_without_its_class_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        settle(compose([*TINY, f"runs_dir={tmp_path}", "optimizer.name=own", "optimizer.schedule=own", "init.rule=own"]))
    for key, choice in (("optimizer.own", "name"), ("optimizer.own_schedule", "schedule"), ("init.own", "rule")):
        assert f"{key}={{}}: {key.split('.')[0]}.{choice}=own needs your own class" in str(error.value)


@pytest.mark.usefixtures("place")
def test_a_part_is_created_once_and_described_completely() -> None:
    described = {"_target_": "mine.Root", "power": "0.25"}
    assert part(described, "key") is part(dict(described), "key")
    assert normal(described, "key") == {"_target_": "mine.Root", "power": 0.25}


def test_a_block_is_counted_as_it_is_built(place: Path) -> None:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.arch.shapes import flops_per_token, parameters

    shape = settle(config(place)).shape
    decoder = Decoder(shape)
    assert parameters(shape)["total"] == sum(parameter.numel() for parameter in decoder.parameters())
    inner, width = shape.heads * shape.head_dim, shape.width
    assert parameters(shape)["attention"] == shape.depth * 4 * inner * width
    assert parameters(shape)["ffn"] == shape.depth * 2 * 48 * width  # 3 times the width of 16
    assert flops_per_token(shape, 32)["scores"] == shape.depth * 4 * inner * 16
    assert flops_per_token(shape, 32)["ffn"] == 2 * parameters(shape)["ffn"]


def test_a_block_computes_its_classs_function(place: Path) -> None:
    """Attention over a window with the whole text equals the decoder's own, also in generation and continuations."""
    from tinylm_ablate.arch import continuations
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.arch.decoding import generate
    from tinylm_ablate.init.random import initialize

    whole = config(place, "arch.own_ffn=null", "arch.own_attention.window=64")
    plain = config(place, "arch.own_ffn=null", "arch.own_attention=null")
    ours, theirs = (Decoder(settle(one).shape) for one in (whole, plain))
    assert ours.shape.is_own and not theirs.shape.is_own
    for decoder in (ours, theirs):
        initialize(decoder, settle(plain).init, seed=3)
    tokens = torch.randint(200, (2, 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-6)
    assert torch.equal(generate(ours, tokens, 6), generate(theirs, tokens, 6))
    layout = continuations.Layout(torch.tensor([3, 5]), 6, 2, 3)
    streams = [continuations.through(one, one.embedding(tokens), one.blocks, layout) for one in (ours, theirs)]
    torch.testing.assert_close(streams[0][:, 6:], streams[1][:, 6:], rtol=1e-4, atol=1e-6)


def test_a_model_with_a_block_is_read_back_and_imports_nothing(place: Path, tmp_path: Path) -> None:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.formats.huggingface import Model, export, load_model, save
    from tinylm_ablate.init.random import initialize

    settled = settle(config(place))
    decoder = Decoder(settled.shape)
    initialize(decoder, settled.init, 0)
    model = Model(decoder.state_dict(), settled.shape, None, 32, None)
    save(tmp_path / "model", model)
    back = load_model(tmp_path / "model")
    assert back.shape == settled.shape
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in decoder.state_dict().items())
    with pytest.raises(
        UserError, match=r"arch\.own_attention, arch\.own_ffn: other programs do not support user-defined blocks"
    ):
        export(tmp_path / "exported", model)
    sys.modules.pop("mine")
    with pytest.raises(UserError, match=r"own_attention is .* allowed: a class whose module is imported"):
        load_model(tmp_path / "model")
    assert "mine" not in sys.modules
    _part.cache_clear()  # as in a new process
    Settled.from_json(settled.to_json())  # as a worker reads its order
    assert load_model(tmp_path / "model").shape == settled.shape


def test_a_block_that_looks_ahead_is_refused(own_place: Path) -> None:
    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.arch.own import check_causal
    from tinylm_ablate.init.random import initialize

    code = (own_place / "mine.py").read_text()
    (own_place / "ahead.py").write_text(code.replace("(distance >= 0) & (distance < self.window)", "distance < self.window"))
    settled = settle(config(own_place, "arch.own_attention={_target_: ahead.Windowed}"))
    sys.modules.pop("ahead")
    decoder = Decoder(settled.shape)
    initialize(decoder, settled.init, 0)
    with pytest.raises(ConfigError, match=r"arch\.own_attention and arch\.own_ffn: a position depends on later ones"):
        check_causal(decoder, settled.shape)

"""Secrets of known kinds are removed, and ordinary text is kept."""

from __future__ import annotations

import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tinylm_ablate import secrets
from tinylm_ablate.secrets import cut, names_secret

#: Realistic passwords. Unquoted, one like 12/3 turns an address into a host, a port and a path.
PASSWORDS = st.text(
    st.characters(codec="ascii", categories=("L", "N", "P", "S"), exclude_characters="\"'@"), min_size=4
).filter(lambda text: not re.match(r"\d+[/?#]", text))
NAMES = st.sampled_from(["password", "hub_token", "api_key", "HF_TOKEN", "db.password", "client-secret", "accessKey", "token"])


def leaves(value):
    if isinstance(value, dict):
        return [leaf for entry in value.values() for leaf in leaves(entry)]
    if isinstance(value, list):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value]


@settings(deadline=None)
@given(
    PASSWORDS,
    st.sampled_from(["http", "https", "postgresql+psycopg", "s3", "mysql"]),
    st.sampled_from(["", ":5000", "/a/b?c=d"]),
)
def test_the_userinfo_of_any_address_is_cut(password, scheme, rest):
    address = f"{scheme}://alice:{password}@tracking.example.org{rest}"
    for text in (address, f"tracking.uri={address}", f'error: cannot reach "{address}" now'):
        shown = cut(text)
        assert f"{password}@" not in shown and "alice" not in shown
        assert "tracking.example.org" in shown and cut(shown) == shown


@settings(deadline=None)
@given(
    st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=8, max_size=30).map(lambda text: f"zq{text}"), NAMES
)
def test_the_value_of_a_key_that_names_a_secret_is_cut(value, name):
    tree = {"a": [{name: value, "b": 1}], "line": f"{name}={value} b=2", "json": json.dumps({name: value})}
    words = ["tinylm-ablate", f"data.{name}={value}", f"--{name}", value, "arch.depth=20"]
    for given_ in (tree, words):
        shown = cut(given_)
        assert value not in json.dumps(shown)
        assert cut(shown) == shown
    assert cut(words)[-1] == "arch.depth=20" and cut(tree)["a"][0]["b"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "tokens=500000", "train.tokens_per_parameter=20", "flops_per_token: 6", "bytes_per_token=3.4", "eos_token='<|end|>'",
        "tokenizer.vocab_size=1500", "http://127.0.0.1:5000/#/experiments/1", "sqlite:////work/runs/mlflow.db",
        "me@example.org", "git+https://example.org/x/y@v1.2", "a: b", "keys=[1,2]", "https://example.org/@user", "key=value",
        "data.path=/a@b/c.jsonl",
        "password=", "password=null", "tracking.uri=http://${oc.env:NAME}@host", "step 12:30 loss 5.1",
    ],
)  # fmt: skip
def test_ordinary_text_is_unchanged(text):
    if "${" in text:
        assert "${oc.env:NAME}" not in cut(text) or cut(text) == text
    else:
        assert cut(text) == text


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False), lambda inner: st.lists(inner)))
def test_other_values_are_unchanged(value):
    assert cut(value) == value


@pytest.mark.parametrize(
    "token", ["hf_" + "a1" * 17, "ghp_" + "b2" * 18, "sk-" + "c3" * 20, "AKIA" + "ABCD1234EFGH5678", "Bearer " + "d4" * 12]
)
def test_tokens_of_known_shapes_are_cut_anywhere(token):
    assert token.split()[-1] not in cut(f"the server said: {token} is not valid")


def test_secret_variables_of_the_environment_are_cut(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "queen-of-hearts")
    monkeypatch.setenv("SOME_PATH", "rabbit-hole-down")
    assert cut("wrong password queen-of-hearts in rabbit-hole-down") == "wrong password *** in rabbit-hole-down"


def test_an_ordinary_environment_is_not_cut():
    """Folders, languages and the like are in many messages."""
    ordinary = {name: value for name, value in os.environ.items() if name in {"PWD", "OLDPWD", "HOME", "PATH", "LANG", "USER"}}
    for value in (*ordinary.values(), os.getcwd()):
        assert cut(f"see {value}/runs") == f"see {value}/runs"


def test_values_of_oc_env_are_shown_as_their_names(monkeypatch):
    monkeypatch.setattr(secrets, "_resolved", {})
    monkeypatch.setenv("TEAM_BUCKET", "cheshire-cat-7")
    monkeypatch.setenv("TEAM_DEVICE", "cpu")
    secrets.watch_environment()
    config = OmegaConf.create(
        {"path": "s3://${oc.env:TEAM_BUCKET}/x", "device": "${oc.env:TEAM_DEVICE}", "rest": "${oc.env:NONE,yes}"}
    )
    resolved = OmegaConf.to_container(config, resolve=True)
    assert resolved == {"path": "s3://cheshire-cat-7/x", "device": "cpu", "rest": "yes"}
    assert cut(resolved) == {"path": "s3://${oc.env:TEAM_BUCKET}/x", "device": "cpu", "rest": "yes"}


def test_credentials_move_from_an_address_to_the_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "before")
    assert secrets.credentials_to_environment("https://al%40ice:p%2Fw@host:5000/x") == "https://host:5000/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("al@ice", "p/w")
    for name in ("PGUSER", "PGPASSWORD"):
        monkeypatch.setenv(name, "before")
    address = "postgresql+psycopg://alice:p%2Fw@host/runs"
    assert secrets.credentials_to_environment(address) == "postgresql+psycopg://host/runs"
    assert (os.environ["PGUSER"], os.environ["PGPASSWORD"]) == ("alice", "p/w")
    for other in ("sqlite:////a@b/c.db", "mysql://a:b@host/x", "postgresql://host/runs"):
        assert secrets.credentials_to_environment(other) == other
    for address in ("sqlite:////a/b.db", "http://host:5000", "databricks"):
        assert secrets.credentials_to_environment(address) == address


def test_names():
    assert all(
        map(names_secret, ("HF_TOKEN", "wandb.api_key", "apiKey", "--password", "aws_secret_access_key", "use_auth_token"))
    )
    assert not any(
        map(names_secret, ("tokens", "pad_token", "flops_per_token", "keys", "tokenizer", "author", "monkey", "key"))
    )

# ruff: noqa: E501
"""Secrets in command lines: each way to give one, and words that only look like it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modtrace.trace.redaction import BLANK, blanked
from modtrace.trace.run_json import run_facts

CANARY = "Zq9xK2canary"
"""No word, no number and no shape: only its place tells that it is secret."""

NAMES = (
    "password", "passwd", "pwd", "pass", "passphrase", "secret", "token", "api-key", "api_key", "apikey", "apiKey",
    "cookie", "cookies", "jwt", "dsn", "bearer", "auth", "authorization", "credential", "db-pass", "dbpass", "db_password",
    "PGPASSWORD", "HF_TOKEN", "hfToken", "hub-token", "access-token", "accessToken", "accesstoken", "client-secret",
    "aws-secret-access-key", "aws_access_key_id", "private-key", "openai-key", "wandb-key", "ssh-key", "auth-token",
    "sentry.dsn", "trainer.logger.api_key", "key", "mysql-pwd", "refresh_token", "token-secret", "oauth-token", "bot_token",
    "X-Api-Key", "proxy-pass", "user-passphrase", "session-cookie", "use-auth-token", "WANDB_API_KEY", "encryption-key",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_value_under_a_secret_name(name):
    forms = [
        [f"--{name}={CANARY}"], [f"--{name}", CANARY], [f"-{name}", CANARY], [f"{name}={CANARY}"], [f"+{name}={CANARY}"],
        [f"++{name}={CANARY}"], [f"--{name}", f"-{CANARY}"], [f"--{name}=--{CANARY}"], [f"--set={name}={CANARY}"],
        ["--set", f"{name}={CANARY}"], ["--header", f"{name}: {CANARY}"], ["--config", json.dumps({name: CANARY})],
        ["--config", json.dumps({"a": [{"b": {name: [CANARY, {"c": CANARY}]}}]})], [f"--config={json.dumps({name: CANARY})}"],
        ["--config", repr({name: CANARY})], ["--config", f"{{{name}: {CANARY}, lr: 1}}"], [f"https://h/p?x=1&{name}={CANARY}&y=2"],
        ["--conn", f"Server=h;{name}={CANARY};Port=1"], [f"--{name}", "Bearer", CANARY], [f"{name}:", CANARY],
        ["--env", f'{name}="{CANARY} {CANARY}"'], ["--config", f'{{"{name}": "{CANARY}'], [f"--{name}", f"{CANARY}\n{CANARY}"],
    ]  # fmt: skip
    for words in forms:
        shown = blanked(["--lr", "0.1", *words, "--epochs", "3"])
        assert CANARY not in " ".join(shown), words
        assert BLANK in " ".join(shown)
        assert shown[:2] == ["--lr", "0.1"]
        assert shown[-2:] == ["--epochs", "3"]


@pytest.mark.parametrize(
    "words",
    [
        ["postgres://u:SECRET@h/"], ["postgres://u:SE/SECRET@h:5432/d"], ["--db=postgresql+psycopg2://SECRET:x@h/d"],
        ["https://SECRET@github.com/a/b.git"], ["redis://:SECRET@h:6379/0"], ["--proxy", "http://u:SECRET@p:80"],
        ["mongodb+srv://u:a@SECRET@h/"], ["--u", "bob:SECRET@host.example"], ["--db", "see https://a:SECRET@h/x and b"],
        ["-H", "Authorization: Bearer SECRET"], ["-H", "authorization:Basic SECRET"], ["-H", "Authorization: token SECRET SECRET"],
        ["-H", "Cookie: a=SECRET; b=SECRET"], ["-H", "PRIVATE-TOKEN: SECRET"], ["--auth", "Bearer", "SECRET"],
        ["--auth", "Basic", "SECRET"], ["--auth=Bearer SECRET"], ["Bearer", "SECRET"], ["--x", "bearer SECRET"],
        ["--header", "Authorization:", "Bearer", "SECRET"], ["--api-keys", "SECRET", "SECRET", "SECRET"],
        ["--password", "--SECRET"], ["--password", "-SECRET"], ["--token", "-SECRET"], ["--password", "--token", "SECRET"],
        ["--config", '{"headers": {"Authorization": "Bearer SECRET"}}'], ["--config", '[{"url": "pg://u:SECRET@h"}]'],
        ["--key", "-----BEGIN RSA PRIVATE KEY-----\nSECRET"], ["--x", "-----BEGIN PRIVATE KEY-----SECRET"],
        ["--config", '"api_key": "SECRET"'], ["--config", "{'a': ('b', {'pwd': 'SECRET'})}"], ["--config", r'{\"api_key\": \"SECRET\"}'],
    ],
)  # fmt: skip
def test_by_place(words):
    words = [word.replace("SECRET", CANARY) for word in words]
    assert CANARY not in " ".join(blanked(words))


@pytest.mark.parametrize("scheme", ["postgres", "redis", "https", "postgresql+psycopg2"])
def test_the_place_of_a_url_stays(scheme):
    """What is blanked is the user and the password: scheme, host and path say what was used."""
    (shown,) = blanked([f"{scheme}://u:{CANARY}@h/db"])
    assert shown == f"{scheme}://{BLANK}@h/db"


@pytest.mark.parametrize(
    "secret",
    [
        "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345", "hf_abcdefghijklmnopqrstuvwxyzabcdefgh", "hf_abc123", "sk-abcdefghijklmnopqrstuvwx",
        "sk-proj-Ab1_cd-EfGh", "sk-ant-api03-abcdefgh", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "gho_abcdefgh12", "ghs_abcdefgh12",
        "github_pat_11ABCDEFG0_abcdef", "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "xoxb-1234-5678-abcd", "xoxp-1234-abcd",
        "glpat-abcdefghij0123456789", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-DEF_123", "AIzaSyA-1234567890abcdefghijklmnopqrstu",
        "sk_live_abcdefgh", "npm_abcdefghijklmnopqrstuvwxyz0123456789", "pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAw", "ya29.a0AfH6SMBx",
    ],
)  # fmt: skip
def test_by_shape(secret):
    for words in (
        ["--x", secret],
        [f"--x={secret}"],
        [secret],
        [f"a,{secret},b"],
        ["--c", json.dumps({"x": secret})],
        [f"/p/{secret}/q"],
    ):
        shown = " ".join(blanked(words))
        assert secret not in shown, words
        assert BLANK in shown


ORDINARY = [
    "--num-passes 3", "--bypass", "--bypass x", "--tokenizer gpt2", "--max-tokens 5", "--max_new_tokens=128", "--num_tokens 7",
    "--tokenizer-path a/b", "--tokenizer_name=gpt2", "--pad-token-id 0", "--eos_token </s>", "--pad-token <pad>", "--author me",
    "--monkey 1", "--keyboard de", "--key-dim 64", "--num-keys 4", "--compass north", "--passes 2", "--two-pass yes",
    "--forward-pass 1", "--pass-through x", "--sort-key loss", "--image-key jpg", "--key_padding_mask 1", "--token-dropout 0.1",
    "--num-special-tokens 2", "--cls-token 1", "--encoder-passes=2", "--lr 1e-3", "-b 32", "model=resnet18", "data.path=/a/b",
    "--url https://example.com/a?b=c", "--url http://127.0.0.1:8080/x", "--dist-url tcp://10.0.0.1:2345", "--time 10:30",
    "s3://bucket/key/a.pt", "--name hf_model", "--name hf_transformers", "--lib sk-learn", "--name eyJ", "--git a1b2c3d4e5f6a7b8",
    "--sha da39a3ee5e6b4b0d3255bfef95601890afd80709", "--auth-type basic", "--notes basic_training", "--config {'lr':0.1,'layers':[1,2]}",
    '--config {"lr":0.1,"name":"x","sizes":{"max_tokens":5}}', "--opt a:b:c", "C:\\data\\x.txt",
    "--tokens-per-batch 4096", "--keystone x", "--passage x", "--cooking x", "--authentic x", "--tokenwise 1", "--section x", "--notes basic training",
    "train.py", "a@b.example", "user@host:/path", "--image repo/name:tag@sha256:abc", "-", "--", "", "=", "--=", "😀", "--warmup-tokens 100",
]  # fmt: skip


@pytest.mark.parametrize("line", ORDINARY)
def test_ordinary_arguments_are_shown(line):
    words = line.split(" ")
    assert blanked(words) == words
    assert blanked(["--before", *words]) == ["--before", *words]


PIECES = st.one_of(
    st.sampled_from([f"--{name}" for name in NAMES]),
    st.sampled_from([f"--{name}={CANARY}" for name in NAMES]),
    st.sampled_from([f"{name}:" for name in NAMES]),
    st.sampled_from(["--lr", "0.1", "Bearer", "=", ":", "-", "--", "x", "a:b@c", "postgres://u:p@h/", "***", '{"pwd": "x"}']),
    st.text(max_size=12),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=6))
def test_any_words(words):
    shown = blanked(words)
    assert len(shown) == len(words)
    assert blanked(shown) == shown, "what was blanked stays as it is"
    assert CANARY not in " ".join(shown)
    "".join(shown).encode()


def test_nothing_of_it_is_in_run_json():
    facts = run_facts(
        script="train.py", argv=["--config", json.dumps({"db": {"pwd": CANARY}}), "--pass", f"-{CANARY}"]
    )
    assert CANARY not in json.dumps(facts)

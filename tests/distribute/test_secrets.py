"""Patterns of secrets: each kind is found, look-alikes pass, and no secret is in what is said.

Every token here is put together when the test runs, so that this file holds none.
"""

from __future__ import annotations

import json
import os
import random
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute import secrets
from distribute.secrets import Finding, find_secrets, name_kind, to_read

RNG = random.Random(7)


def run_of(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    """Random characters that have a capital, a small letter and a digit where the alphabet does."""
    sure = "".join(
        RNG.choice([c for c in letters if c in kind] or letters)
        for kind in (string.ascii_uppercase, string.ascii_lowercase, string.digits)
    )
    return sure + "".join(RNG.choice(letters) for _ in range(length - 3))


HEX, UPPER = "0123456789abcdef", string.ascii_uppercase + "234567"
BEGIN = "-----" + "BEGIN "

TOKENS = {
    "AKIA" + run_of(16, UPPER): "AWS access key",
    "ASIA" + run_of(16, UPPER): "AWS access key",
    "aws_secret_" + "access_key = " + run_of(40): "AWS secret key",
    '"SecretAccess' + 'Key": "' + run_of(40) + '"': "AWS secret key",
    "gh" + "p_" + run_of(36): "GitHub token",
    "gh" + "s_" + run_of(36): "GitHub token",
    "github_" + "pat_" + run_of(82): "GitHub token",
    "glp" + "at-" + run_of(20): "GitLab token",
    "h" + "f_" + run_of(34): "Hugging Face token",
    "xo" + "xb-" + run_of(24): "Slack token",
    "https://hooks.slack" + ".com/services/T" + run_of(8) + "/B" + run_of(8) + "/" + run_of(24): "Slack token",
    "s" + "k-" + run_of(48): "OpenAI or Anthropic key",
    "s" + "k-proj-" + run_of(64): "OpenAI or Anthropic key",
    "s" + "k-ant-api03-" + run_of(90): "OpenAI or Anthropic key",
    "s" + "k_live_" + run_of(24): "Stripe key",
    "AI" + "za" + run_of(35): "Google API key",
    "py" + "pi-AgEIc" + run_of(60): "PyPI token",
    "np" + "m_" + run_of(36): "npm token",
    "//registry.example/:_auth" + "Token=" + run_of(36): "npm token",
    "WANDB_API_KEY=" + run_of(40, HEX): "Weights & Biases key",
    "wandb.login(key='" + run_of(40, HEX) + "')": "Weights & Biases key",
    "machine api.wandb.ai\n  login user\n  password " + run_of(40, HEX): "Weights & Biases key",
    BEGIN + "PRIVATE KEY-----": "private key",
    BEGIN + "RSA PRIVATE KEY-----": "private key",
    BEGIN + "OPENSSH PRIVATE KEY-----": "private key",
    BEGIN + "PGP PRIVATE KEY BLOCK-----": "private key",
    "PuTTY-User-" + "Key-File-3: ssh-ed25519": "private key",
    "https://alice:" + run_of(9) + "@example.org/x": "password in a URL",
    "redis://:" + run_of(9) + "@10.0.0.1:6379": "password in a URL",
    "Authorization: Bearer " + run_of(40): "bearer token",
    "headers={'Authorization': 'Bearer " + run_of(40) + "'}": "bearer token",
    'pass' + 'word = "' + run_of(12) + '"': "password",
    '{"db_pass' + 'wd": "' + run_of(12) + '"}': "password",
    'api_' + 'key = "' + run_of(32) + '"': "secret in an assignment",
    'MY_TOK' + 'EN: str = x\ntok' + 'en = "' + run_of(32) + '"': "secret in an assignment",
}  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), TOKENS.items(), ids=range(len(TOKENS)))
@pytest.mark.parametrize("path", ["a.py", "a.json", "notes.md", "x.ipynb"])
def test_every_kind_is_found_on_its_line(text: str, kind: str, path: str) -> None:
    found = find_secrets(f"# one\n\n{text}\n".encode(), path)
    assert kind in {finding.kind for finding in found}
    assert {finding.line for finding in found} <= set(range(3, 4 + text.count("\n")))


@pytest.mark.parametrize(("text", "kind"), TOKENS.items(), ids=range(len(TOKENS)))
def test_every_kind_is_found_inside_a_notebook(text: str, kind: str) -> None:
    cell = {"cell_type": "code", "source": [f"{line}\n" for line in text.split("\n")], "outputs": []}
    notebook = json.dumps({"cells": [cell], "nbformat": 4}, indent=1).encode()
    if "\n" in text and "wandb" in text:
        return  # a netrc has no place in one string of a cell
    assert kind in {finding.kind for finding in find_secrets(notebook, "train.ipynb")}


@pytest.mark.parametrize("path", [".env", "settings.ini", "conf.yaml", "start.sh", "credentials"])
def test_values_without_quotes_are_found_where_files_have_them(path: str) -> None:
    line = "export SERVICE_TOK" + "EN=" + run_of(24)
    assert [f.kind for f in find_secrets(f"A=1\n{line}\n".encode(), path)] == ["secret in an assignment"]
    assert find_secrets(f"A=1\n{line}\n".encode(), "prose.md") == []


HARMLESS = [
    '{"caption": "the secret token of the password", "token": "running"}',
    '{"pad_token": "<|endoftext|>", "unk_token": "[UNK]", "bos_token": "<extra_id_0>"}',
    '{"url": "https://images.example/a:b@2x.jpg", "at": "user@example.org"}',
    '{"url": "https://images.example:8080/1.jpg"}',
    'password = "changeme-example-1"',
    'password = os.environ["PASSWORD_1"]',
    "token = get_token(user1)",
    "TOKEN=${TOKEN_FROM_CI_1}",
    "https://user:password@example.org",
    "https://user:${PASSWORD}@example.org",
    "https://user:***@example.org",
    '<div class="sk-toggleable__content-arrow sk-container-id-1 sk-estimator-doc-link-1">',
    "task-" + "a1B2" * 8 + " disk-" + "a1B2" * 8,
    "AK" + "IAIOSFODNN7EXAMPLE",
    "AKIA" + "A" * 16,
    "-----BEGIN PUBLIC KEY-----\n-----BEGIN CERTIFICATE-----",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 a@b",
    "sha256: " + "0123456789abcdef" * 4,
    '{"cid": "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"}',
    "hf_hub_download(repo_id, filename=file_1)",
    'api_key = "your-api-key-goes-here-1"',
    "xoxo-hugs",
]


@pytest.mark.parametrize("text", HARMLESS, ids=range(len(HARMLESS)))
@pytest.mark.parametrize("path", ["a.json", "a.txt", ".env"])
def test_look_alikes_pass(text: str, path: str) -> None:
    assert find_secrets(text.encode(), path) == []


def test_binary_files_and_other_encodings() -> None:
    token = ("gh" + "p_" + run_of(36)).encode()
    assert find_secrets(b"\x89PNG\0" + token, "a") == []
    for encoding in ("utf-16", "utf-8-sig"):
        text = f"x = 1\ny = '{token.decode()}'\n".encode(encoding)
        assert find_secrets(text, "a.txt") == [Finding("GitHub token", 2)]


def test_one_finding_a_kind_sorted_by_line() -> None:
    lines = ["x", "gh" + "p_" + run_of(36), "AKIA" + run_of(16, UPPER), "gh" + "p_" + run_of(36)]
    found = find_secrets("\n".join(lines).encode(), "a.txt")
    assert found == [Finding("GitHub token", 2), Finding("AWS access key", 3)]


NAMES = {
    ".git": "git repository",
    "sub/.git": "git repository",
    ".env": "environment with secrets",
    ".env.production": "environment with secrets",
    "keys/id_rsa": "SSH private key",
    "id_ed25519": "SSH private key",
    ".netrc": "passwords of hosts (netrc)",
    ".npmrc": "npm settings, which hold tokens",
    ".pypirc": "PyPI settings, which hold tokens",
    ".aws/credentials": "AWS credentials",
    "home/.aws/credentials": "AWS credentials",
    ".cache/huggingface/token": "Hugging Face token",
    "store.P12": "key store",
    "safe.kdbx": "password safe",
    ".DS_Store": "hidden",
    "a/.hidden": "hidden",
}


@pytest.mark.parametrize(("path", "kind"), NAMES.items())
def test_names_that_give_secrets_away(path: str, kind: str) -> None:
    assert name_kind(path) == kind


@pytest.mark.parametrize(
    "path",
    ["id_rsa.pub", "a.pem", "credentials", "environment.env.txt", "token", "gitignore", "x/aws/credentials"],
)
def test_names_that_give_nothing_away(path: str) -> None:
    assert name_kind(path) is None


def test_what_is_read() -> None:
    assert to_read("a.json", 1 << 20) and not to_read("a.json", (1 << 20) + 1)
    assert to_read("big.ipynb", 10 << 20) and not to_read("a.jpg", 10) and not to_read("a.json", 0)
    assert to_read("Dockerfile", 100) and not to_read("no-suffix", 1 << 20)
    assert to_read(".bashrc", 100) and to_read("A.PEM", 100)


def test_reading_never_waits_nor_follows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert secrets.read_secrets(str(tmp_path / "fifo"), "fifo") == []
    with pytest.raises(OSError):
        secrets.read_secrets(str(tmp_path / "link"), "link")


@given(st.binary(max_size=400))
def test_any_bytes_are_looked_through(data: bytes) -> None:
    for path in ("a.py", ".env"):
        for finding in find_secrets(data, path):
            assert 1 <= finding.line <= data.count(b"\n") + 1


@given(
    st.text(string.ascii_letters + string.digits, min_size=36, max_size=36), st.text("ab \n=\"'", max_size=60)
)
def test_a_token_is_found_in_any_surroundings(token: str, around: str) -> None:
    text = f"{around} gh" + f"p_{token} {around}"
    found = find_secrets(text.encode(), "a.txt")
    if len(set(token)) > 6:
        assert Finding("GitHub token", around.count("\n") + 1) in found
    assert token not in repr(found)


# each would take hours where a pattern backtracks without bound
SLOW = [
    b"password" * 100_000,
    b"://" + b"a" * 1_000_000,
    b"://a:" * 200_000,
    b"wandb " * 150_000,
    b"sk-" * 300_000,
    b"sk-a-" * 200_000,
    b"secret_access_key" + b" " * 1_000_000,
    b"TOKEN_" * 150_000 + b"=",
    b"-----BEGIN " + b"A " * 400_000,
    b"github_pat_" * 90_000,
    b"token=" * 150_000,
]


@pytest.mark.parametrize("data", SLOW, ids=range(len(SLOW)))
def test_no_text_makes_a_pattern_explode(data: bytes) -> None:
    start = time.process_time()
    find_secrets(data[: 1 << 20], ".env")
    assert time.process_time() - start < 20  # far above what it takes (below 1 s), far below a blow-up


def test_entropy() -> None:
    assert secrets.entropy(b"") == 0.0 and secrets.entropy(b"aaaa") == 0.0
    assert secrets.entropy(b"abcd") == 2.0

"""Secrets in a tree that is to become public: names that hold them, and patterns of tokens in small text files.

A finding says the kind, the path and the line, never the secret. Patterns follow what the issuers publish; a generic
assignment (`password = "…"`) counts only when its value looks random, so that tokenizer files and captions pass. Every
pattern is bounded, and runs only on files that hold its marker: 10^5 captions cost little more than their reading.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

SMALL_BYTES = 1 << 20  # text files up to here are looked through
BARE_BYTES = 64 << 10  # files without a suffix: configurations and keys are short
NOTEBOOK_BYTES = 32 << 20  # pictures make notebooks large

TEXT = frozenset(
    (".json", ".jsonl", ".yaml", ".yml", ".toml", ".xml", ".ini", ".cfg", ".conf", ".config", ".properties", ".env",
     ".tf", ".tfvars", ".txt", ".md", ".rst", ".log", ".html", ".py", ".r", ".jl", ".js", ".ts", ".sql",
     ".sh", ".bash", ".zsh", ".ps1", ".bat", ".pem", ".key", ".crt", ".asc", ".ppk")
)  # fmt: skip
# in these a value may stand without quotes
_ASSIGNING = frozenset(
    (
        ".yaml",
        ".yml",
        ".ini",
        ".cfg",
        ".conf",
        ".config",
        ".properties",
        ".env",
        ".tfvars",
        ".txt",
        ".sh",
        ".bash",
        ".zsh",
    )
)

# by the whole name, lower case
_NAMES = {
    **dict.fromkeys(("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk"), "SSH private key"),
    **dict.fromkeys((".netrc", "_netrc"), "passwords of hosts (netrc)"),
    ".npmrc": "npm settings, which hold tokens",
    ".pypirc": "PyPI settings, which hold tokens",
    ".git-credentials": "passwords of git hosts",
    ".htpasswd": "passwords of a web server",
    ".pgpass": "passwords of a database",
    ".dockercfg": "tokens of image registries",
    ".boto": "cloud credentials",
    ".s3cfg": "cloud credentials",
    ".vault-token": "Vault token",
}  # fmt: skip
_SUFFIXES = {
    **dict.fromkeys((".p12", ".pfx", ".jks", ".keystore", ".ppk"), "key store"),
    ".kdbx": "password safe",
}
_PLACES = {  # by the end of the path
    ".aws/credentials": "AWS credentials",
    ".docker/config.json": "tokens of image registries",
    ".kube/config": "Kubernetes credentials",
    "huggingface/token": "Hugging Face token",
    "huggingface/stored_tokens": "Hugging Face tokens",
    "gcloud/credentials.db": "Google Cloud credentials",
    "gcloud/application_default_credentials.json": "Google Cloud credentials",
}
_HIDDEN = {
    ".git": "git repository",
    ".hg": "Mercurial repository",
    ".svn": "Subversion folder",
    ".ssh": "SSH keys",
}


@dataclass(frozen=True)
class Finding:
    """A secret in a file, without the secret. `line` counts from 1."""

    kind: str
    line: int


@dataclass(frozen=True)
class _Pattern:
    kind: str
    markers: tuple[bytes, ...]  # lower case; one of them is in every text that matches
    regex: re.Pattern[bytes]
    genuine: Callable[[bytes], bool] = lambda value: True  # asked about the last group


def name_kind(path: str) -> str | None:
    """What the name of a file or folder gives away, or None. `path` is relative, with slashes."""
    parts = path.lower().split("/")
    name = parts[-1]
    if name in _NAMES:
        return _NAMES[name]
    if name == ".env" or name.startswith(".env."):
        return "environment with secrets"
    for end, kind in _PLACES.items():
        if path.lower() == end or path.lower().endswith("/" + end):
            return kind
    if (suffix := PurePosixPath(name).suffix) in _SUFFIXES:
        return _SUFFIXES[suffix]
    if name in _HIDDEN:
        return _HIDDEN[name]
    return "hidden" if name.startswith(".") else None


def to_read(path: str, size_bytes: int) -> bool:
    """Whether the bytes of a file are worth looking through: small text, or a notebook."""
    name = path.rpartition("/")[2]
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".ipynb":
        return 0 < size_bytes <= NOTEBOOK_BYTES
    if suffix in TEXT or name.startswith("."):
        return 0 < size_bytes <= SMALL_BYTES
    return not suffix and 0 < size_bytes <= BARE_BYTES


def read_secrets(file: str, path: str) -> list[Finding]:
    """Findings in one file, at most one a kind. Raises OSError; never waits on what is no regular file."""
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return []
        blocks, left = [], NOTEBOOK_BYTES
        while left and (block := os.read(fd, min(left, max(status.st_size, 1) + 1))):
            blocks.append(block)
            left -= len(block)
    finally:
        os.close(fd)
    return find_secrets(b"".join(blocks), path)


def find_secrets(data: bytes, path: str = "") -> list[Finding]:
    """Findings in these bytes, the first of each kind, by line. Binary data (a NUL in it) has none."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    if b"\0" in data[:8192]:
        return []
    lower = data.lower()
    found = []
    suffix = PurePosixPath(path).suffix.lower()
    name = path.rpartition("/")[2].lower()
    bare = suffix in _ASSIGNING or name.startswith(".") or not suffix
    for pattern in (*_PATTERNS, _BARE) if bare else _PATTERNS:
        if not any(marker in lower for marker in pattern.markers):
            continue
        for match in pattern.regex.finditer(data):
            if pattern.genuine(match.group(match.lastindex or 0)):
                found.append(Finding(pattern.kind, data.count(b"\n", 0, match.start()) + 1))
                break
    exact = {finding.line for finding in found if finding.kind not in _GENERIC}
    found = [finding for finding in found if finding.kind not in _GENERIC or finding.line not in exact]
    return sorted(set(found), key=lambda finding: (finding.line, finding.kind))


def entropy(value: bytes) -> float:
    """Bits per byte, by the frequencies inside `value` itself."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values()) if value else 0.0


_PLACEHOLDER = re.compile(
    rb"(?i)example|your[_-]?|change[_-]?me|placeholder|dummy|redacted|xxxx|\*\*\*|\.\.\.|^password$|^secret$|^token$"
    rb"|^[<\[{$%(]|^(?:os\.|env\.|process\.)|^(.)\1*$"
)


def _random(least: float) -> Callable[[bytes], bool]:
    def check(value: bytes) -> bool:
        mixed = re.search(rb"[0-9]", value) and re.search(rb"[A-Za-z]", value)
        return bool(mixed) and not _PLACEHOLDER.search(value) and entropy(value) >= least

    return check


def _no_example(value: bytes) -> bool:
    return b"EXAMPLE" not in value and len(set(value)) > 6


def _sk_key(value: bytes) -> bool:
    # `sk-` also begins class names in notebooks (scikit-learn's diagrams): a key has capitals and digits
    return bool(re.search(rb"[0-9]", value) and re.search(rb"[A-Z]", value)) and not _PLACEHOLDER.search(
        value
    )


def _login(value: bytes) -> bool:
    return not _PLACEHOLDER.search(value) and value.lower() not in (b"pass", b"pw", b"pwd", b"passwd")


def _compile(text: str) -> re.Pattern[bytes]:
    return re.compile(text.encode())


_EDGE = "(?<![A-Za-z0-9_])"
_PATTERNS = (
    _Pattern("private key", (b"private key", b"putty-user-key-file", b"age-secret-key-"),
             _compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d"
                      r"|AGE-SECRET-KEY-1[0-9A-Z]{40}")),
    _Pattern("AWS access key", (b"akia", b"asia"),
             _compile(r"(?<![A-Za-z0-9])((?:AKIA|ASIA)[A-Z0-9]{16})(?![A-Za-z0-9])"), _no_example),
    _Pattern("AWS secret key", (b"secret_access_key", b"secretaccesskey"),
             _compile(r"(?i)secret_?access_?key[\"'\\]{0,3}\s{0,8}[=:]\s{0,8}[\"'\\]{0,3}([A-Za-z0-9/+]{40})"),
             _no_example),
    _Pattern("GitHub token", (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_"),
             _compile(_EDGE + r"((?:gh[pousr]_[A-Za-z0-9]{36,255})|github_pat_[A-Za-z0-9_]{22,255})"), _no_example),
    _Pattern("GitLab token", (b"glpat-",), _compile(_EDGE + r"(glpat-[A-Za-z0-9_-]{20,64})"), _no_example),
    _Pattern("Hugging Face token", (b"hf_", b"api_org_"),
             _compile(_EDGE + r"((?:hf|api_org)_[A-Za-z0-9]{30,64})(?![A-Za-z0-9_])"), _no_example),
    _Pattern("Slack token", (b"xox", b"hooks.slack.com/services/"),
             _compile(_EDGE + r"(xox[abeoprs]-[A-Za-z0-9-]{10,255}|hooks\.slack\.com/services/T[A-Za-z0-9_/]{20,99})"),
             _no_example),
    _Pattern("OpenAI or Anthropic key", (b"sk-",),
             _compile(r"(?<![A-Za-z0-9_-])sk-((?:[a-z0-9]{1,12}-){0,3}[A-Za-z0-9_-]{20,255})"), _sk_key),
    _Pattern("Stripe key", (b"_live_",), _compile(_EDGE + r"([sr]k_live_[A-Za-z0-9]{16,255})"), _no_example),
    _Pattern("Google API key", (b"aiza",), _compile(_EDGE + r"(AIza[A-Za-z0-9_-]{35})(?![A-Za-z0-9_-])"), _no_example),
    _Pattern("PyPI token", (b"pypi-ageic",), _compile(_EDGE + r"pypi-AgEIc[A-Za-z0-9_-]{40,255}")),
    _Pattern("npm token", (b"npm_", b"_authtoken"),
             _compile(r"(?:(?<![A-Za-z0-9_])npm_|_authToken\s{0,4}=\s{0,4}(?!\$))([A-Za-z0-9-]{30,255})"), _no_example),
    _Pattern("Weights & Biases key", (b"wandb",),
             _compile(r"(?i)wandb[^\n]{0,60}?(?<![0-9a-f])([0-9a-f]{40})(?![0-9a-f])"
                      r"|api\.wandb\.ai\s{1,8}login\s{1,8}\S{1,64}\s{1,8}password\s{1,8}(\S{20,255})"
                      r"|(wandb_v1_[A-Za-z0-9_]{20,255})"), _no_example),
    _Pattern("password in a URL", (b"://",),
             _compile(r"://[^\s/:@\"'<>\\?#]{0,256}:([^\s/@\"'<>\\?#]{1,256})@[A-Za-z0-9\[]"), _login),
    _Pattern("bearer token", (b"bearer",),
             _compile(r"(?i)authorization[\"'\\]{0,3}\s{0,4}[:=,]\s{0,4}[\"'\\]{0,3}bearer\s([A-Za-z0-9._~+/=-]{20,4096})"),
             _random(3.0)),
    _Pattern("password", (b"passw", b"pwd", b"passphrase"),
             _compile(r"(?i)(?:passw(?:or)?d|pwd|passphrase)[\"'\\]{0,3}\s{0,8}(?:[:=]|:=|=>)\s{0,8}"
                      r"\\?[\"']([^\"'\s\\]{8,128})\\?[\"']"), _random(2.75)),
    _Pattern("secret in an assignment", (b"secret", b"token", b"apikey", b"api_key", b"api-key", b"access_key"),
             _compile(r"(?i)(?:secret|token|api[_-]?key|access_key)(?:_?key)?[\"'\\]{0,3}\s{0,8}(?:[:=]|:=|=>)\s{0,8}"
                      r"\\?[\"']([A-Za-z0-9+/_=~.-]{16,255})\\?[\"']"), _random(3.5)),
)  # fmt: skip
_GENERIC = ("password", "secret in an assignment")  # said only where nothing says it better
_BARE = _Pattern(
    "secret in an assignment",
    (b"passw", b"secret", b"token", b"apikey", b"api_key", b"access_key"),
    _compile(
        r"(?im)^[ \t]{0,16}(?:export )?[A-Z0-9_.-]{0,64}(?:PASSW(?:OR)?D|SECRET|TOKEN|API_?KEY|ACCESS_KEY)[A-Z0-9_]{0,32}"
        r"[ \t]{0,4}[=:][ \t]{0,4}([A-Za-z0-9+/_=~!@%^&*-]{12,255})[ \t\r]{0,4}$"
    ),
    _random(3.25),
)

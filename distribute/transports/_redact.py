"""Secrets taken out of text before anybody sees it.

Every message, label and record of a transport passes here: addresses may carry a password or a signed query.
"""

from __future__ import annotations

import re

MASK = "***"

_USERINFO = re.compile(r"(?<=://)[^/?#\s@'\"]+@")
_NAMES = (
    r"[\w.-]*(?:token|passkey|pass|password|passwd|secret|signature|credential|auth|api[_-]?key|"
    r"access[_-]?key|session|jwt|sig|key)[\w.-]*"
)
_QUERY = re.compile(rf"(?i)([?&;#]{_NAMES}=)[^&\s#;'\"]*")
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|girder-token|x-api-key|set-cookie|cookie)(\s*[:=]\s*)(?:(?:bearer|basic)\s+)?[^\s,'\"]+"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}")
# a tracker's announce address often holds the user's passkey as a part of its path
_ANNOUNCE = re.compile(r"(?i)(/)[0-9a-z]{20,}(/announce)")


def redact(text: str) -> str:
    """`text` without the user names, passwords, tokens and keys of the addresses and headers inside it."""
    text = _USERINFO.sub(f"{MASK}@", text)
    text = _QUERY.sub(rf"\g<1>{MASK}", text)
    text = _HEADER.sub(rf"\g<1>\g<2>{MASK}", text)
    text = _BEARER.sub(rf"\g<1> {MASK}", text)
    return _ANNOUNCE.sub(rf"\g<1>{MASK}\g<2>", text)

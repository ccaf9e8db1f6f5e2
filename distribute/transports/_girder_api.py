"""Girder's REST interface, as much of it as a release needs: sign in, folders, items, files.

    GIRDER_API_KEY                  the key (never an argument); or GIRDER_USERNAME with GIRDER_PASSWORD
      └─ POST api_key/token ──> a token of some days, sent as the header Girder-Token, renewed once when it is refused

Nothing that a server answers is believed: ids must look like ids, sizes be sizes, listings end. What it says in an error is
shown without the key and the token, should it repeat them. Measured with Girder 5.0.21.
"""

from __future__ import annotations

import base64
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from distribute.transports._base import Context, NotThere, Refused, SourceError, WrongBytes
from distribute.transports._girder_records import (
    OUR_METADATA,
    File,
    Folder,
    Item,
    checked_id,
    parse_file,
    parse_folder,
    parse_item,
)
from distribute.transports._web import Response, Web, redact

KEY_VARIABLE = "GIRDER_API_KEY"
URL_VARIABLE = "GIRDER_API_URL"  # who may be sent the key when something is only read
LOGIN_VARIABLES = ("GIRDER_USERNAME", "GIRDER_PASSWORD")
PAGE = 1000  # documents of one listing request, about 600 bytes each
MOST_ENTRIES = 2_000_000  # of one folder
ANSWER_BYTES = 64 << 20
_TOKEN = re.compile(r"[!-~]{8,4096}")
_FULL = re.compile(r"(?i)quota|free space|storage limit")
_ABSENT = re.compile(r"(?i)not found|invalid \w+ id|no such")
_EXPLAINED = frozenset({200, 201, 400, 401, 403, 404, 405, 409, 413, 422, 507})  # their bodies say why

Body = bytes | Callable[[], Iterator[bytes]]  # a function gives the body once more after a renewed sign-in


class GirderError(SourceError):
    """It answered with an error. `status` is the HTTP status, `said` its own words."""

    status = 0
    said = ""


class Full(GirderError):
    """No room there: a quota, or its disk."""


@dataclass(frozen=True)
class Credentials:
    """What signs in. Not shown by repr."""

    key: str | None = field(default=None, repr=False)
    login: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> Credentials | None:
        """The user's key, or name and password, when the environment has them."""
        if key := os.environ.get(KEY_VARIABLE, "").strip():
            return cls(key=key)
        login, password = (os.environ.get(name, "") for name in LOGIN_VARIABLES)
        return cls(login=login, password=password) if login and password else None

    @property
    def variable(self) -> str:
        """Where it came from, for messages."""
        return KEY_VARIABLE if self.key else LOGIN_VARIABLES[1]

    @property
    def secrets(self) -> tuple[str, ...]:
        return tuple(text for text in (self.key, self.password) if text)


class Girder:
    """One server, used by several threads at once. Raises SourceErrors.

    `patience` is added to Limits.attempts: two more outlast a server that is started again, some 10 s.
    """

    def __init__(
        self,
        base: str,
        context: Context,
        credentials: Credentials | None,
        *,
        connections: int = 8,
        patience: int = 0,
    ) -> None:
        self.base = base.rstrip("/")
        self._attempts = context.limits.attempts + patience
        self._credentials = credentials
        self._web = Web(context, connections=connections)
        self._token: str | None = None
        self._lock = threading.Lock()
        self._secrets = set(credentials.secrets if credentials else ())

    def close(self) -> None:
        """Give back all connections."""
        self._web.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: Body | None = None,
        size_bytes: int | None = None,
        attempts: int | None = None,
    ) -> Any:
        """The JSON answer to one request, signed in, once more after a new sign-in when the token is refused (401).

        `content` with its `size_bytes` is sent as it is. Raises Full, NotThere, Refused, GirderError or what Web raises.
        """
        extra: dict[str, str] = {}
        if content is not None:
            extra = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}

        def ask(headers: dict[str, str]) -> Response:
            return self._web.request(
                method,
                f"{self.base}/{path}",
                params=params,
                json=json,
                headers=headers | extra,
                content=content() if callable(content) else content,
                ok=_EXPLAINED,
                limit_bytes=ANSWER_BYTES,
                attempts=self._attempts if attempts is None else attempts,
            )

        answer = self._signed(ask)
        if answer.status not in (200, 201):
            self._explain(f"{method} {path}", answer)
        return answer.json()

    def download(self, item_id: str, offset: int, length: int, size_bytes: int) -> Iterator[bytes]:
        """Bytes of an item's only file. Without ETag or digest: a part proves nothing."""
        url = f"{self.base}/item/{item_id}/download"
        token = self._sign_in(None)
        for again in (True, False):
            blocks = self._web.stream(
                url, offset=offset, length=length, size=size_bytes, headers=_header(token)
            )
            try:
                yield from blocks
                return
            except Refused as error:  # comes before the first byte
                if not again or token is None:
                    raise self._cleaned(error) from None
                token = self._sign_in(token)
            except SourceError as error:
                raise self._cleaned(error) from None

    def _signed(self, ask: Callable[[dict[str, str]], Response]) -> Response:
        try:
            token = self._sign_in(None)
            answer = ask(_header(token))
            if answer.status == 401 and token is not None:
                answer = ask(_header(self._sign_in(token)))
            return answer
        except SourceError as error:
            raise self._cleaned(error) from None

    def _sign_in(self, refused: str | None) -> str | None:
        """The token of this session; a new one when the one at hand is the one that was `refused`."""
        with self._lock:
            given = self._credentials
            if given is None or (self._token is not None and self._token != refused):
                return self._token
            if given.key:
                answer = self._web.request(
                    "POST",
                    f"{self.base}/api_key/token",
                    data={"key": given.key},  # in the body: an address ends up in the logs of the way
                    ok=_EXPLAINED,
                    limit_bytes=ANSWER_BYTES,
                )
            else:
                pair = base64.b64encode(f"{given.login}:{given.password}".encode()).decode()
                answer = self._web.request(
                    "GET",
                    f"{self.base}/user/authentication",
                    headers={"Authorization": f"Basic {pair}"},
                    ok=_EXPLAINED,
                    limit_bytes=ANSWER_BYTES,
                )
            if answer.status in (400, 401, 403):
                raise Refused(
                    f"{self.base}: refused what {given.variable} holds ({self._said(answer)})",
                    hint=f"make an API key in Girder (My account, API keys), and put it in {KEY_VARIABLE}",
                )
            if answer.status not in (200, 201):
                self._explain("sign in", answer)
            document = answer.json()
            token = document.get("authToken") if isinstance(document, dict) else None
            text = token.get("token") if isinstance(token, dict) else None
            if not isinstance(text, str) or not _TOKEN.fullmatch(text):
                raise WrongBytes(
                    f"{self.base}: no Girder (its answer to a sign-in holds no token)",
                    hint="check the address",
                )
            self._secrets.add(text)
            self._token = text
            return text

    def _explain(self, what: str, answer: Response) -> NoReturn:
        said, status = self._said(answer), answer.status
        text = f"{self.base}: {what}: {status} {said}".rstrip()
        error: SourceError
        if status == 401 or (status == 403 and self._credentials is None):
            where = (
                f"; to read with it, also {URL_VARIABLE}={self.base}" if os.environ.get(KEY_VARIABLE) else ""
            )
            error = Refused(text, hint=f"sign in: put an API key of that Girder in {KEY_VARIABLE}{where}")
        elif status == 403:
            error = Refused(text, hint=f"the owner of {KEY_VARIABLE} needs the right to write there")
        elif status in (413, 507) or _FULL.search(said):
            error = Full(
                text, hint="ask for more room there; what was sent stays: run the same line again then"
            )
        elif status == 404 or (status == 400 and _ABSENT.search(said)):
            error = NotThere(text)
        else:
            error = GirderError(text, hint="run the same line again: what was sent stays")
        if isinstance(error, GirderError):
            error.status, error.said = status, said
        raise error

    def _said(self, answer: Response) -> str:
        try:
            document = answer.json()
        except SourceError:
            return ""
        message = document.get("message") if isinstance(document, dict) else None
        if not isinstance(message, str):
            return ""
        return self._clean("".join(c if c.isprintable() else " " for c in message[:300]))

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return redact(text)

    def _cleaned(self, error: SourceError) -> SourceError:
        """The error itself, or one without the secrets that the other side put into its answer."""
        text = self._clean(error.message)
        if text == error.message:
            return error
        return type(error)(text, hint=error.hint)

    # what is there

    def version(self) -> str:
        """`5.0.21`; raises WrongBytes when this is no Girder."""
        document = self.call("GET", "system/version")
        found = document.get("release") if isinstance(document, dict) else None
        if not isinstance(found, str):
            raise WrongBytes(f"{self.base}: no Girder answers there", hint="the address ends in /api/v1")
        return found[:40]

    def has_digests(self) -> bool:
        """Whether files come with their SHA-512 (plug-in hashsum_download)."""
        try:
            return isinstance(self.call("GET", f"file/hashsum/sha512/{'0' * 128}"), list)
        except (GirderError, NotThere):
            return False

    def top(self, kind: str, name: str) -> Folder | None:
        """A collection by name, a user by login, or a folder by id."""
        try:
            if kind == "folder":
                return parse_folder(self.call("GET", f"folder/{checked_id(name)}"), "folder")
            path = name.replace("\\", "\\\\").replace("/", "\\-")  # Girder's own escapes
            return parse_folder(self.call("GET", "resource/lookup", params={"path": f"/{kind}/{path}"}), kind)
        except NotThere:
            return None

    def folders(self, parent: Folder, name: str | None = None) -> list[Folder]:
        """Folders directly in `parent`."""
        params = {"parentType": parent.kind, "parentId": parent.id} | ({"name": name} if name else {})
        return [parse_folder(d, "folder") for d in self._pages("folder", params)]

    def items(self, folder: Folder, name: str | None = None) -> list[Item]:
        """Items directly in `folder`."""
        params = {"folderId": folder.id} | ({"name": name} if name else {})
        return [parse_item(document) for document in self._pages("item", params)]

    def files(self, item_id: str) -> list[File]:
        """The files in an item, mostly one."""
        return [parse_file(document) for document in self._pages(f"item/{item_id}/files", {})]

    def _pages(self, path: str, params: Mapping[str, Any]) -> Iterator[Any]:
        seen = 0
        while True:
            page = self.call("GET", path, params={**params, "limit": PAGE, "offset": seen, "sort": "_id"})
            if not isinstance(page, list) or len(page) > PAGE:
                raise WrongBytes(f"{self.base}: {path}: no listing")
            yield from page
            seen += len(page)
            if len(page) < PAGE:
                return
            if seen >= MOST_ENTRIES:
                raise WrongBytes(f"{self.base}: {path}: more than {MOST_ENTRIES:,} entries")

    # what is made

    def make_collection(self, name: str) -> Folder:
        """A new collection, private as Girder makes them."""
        return parse_folder(self.call("POST", "collection", params={"name": name}), "collection")

    def make_folder(self, parent: Folder, name: str) -> Folder:
        """The folder `name` in `parent`, made unless it is there."""
        params = {"parentType": parent.kind, "parentId": parent.id, "name": name, "reuseExisting": "true"}
        return parse_folder(self.call("POST", "folder", params=params), "folder")

    def set_item_digests(self, item_id: str, digests: Mapping[str, str] | None) -> Item:
        """Write our metadata of an item; None takes it away."""
        document = None if digests is None else dict(digests)
        return parse_item(self.call("PUT", f"item/{item_id}/metadata", json={OUR_METADATA: document}))

    def set_folder_facts(self, folder: Folder, facts: Mapping[str, Any]) -> None:
        """Write our metadata of a folder."""
        self.call("PUT", f"folder/{folder.id}/metadata", json={OUR_METADATA: dict(facts)})


def _header(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Girder-Token": token}

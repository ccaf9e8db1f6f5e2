"""What a study is asked to compare, and the small words for it: 100mbit, 64MB, none/0."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headwater.errors import MissingInput, UsageError, nearest

PAYLOADS = ("few-large", "many-small", "one-archive", "update", "annotation")
DATASET = "dataset"  # the payload that --dataset names
METHODS = ("http", "bittorrent", "ipfs", "girder")
CACHES = ("warm", "cold")
LINK_KINDS = ("proxy", "netem")
MOST_SEEDERS = 16
LEAST_BYTES = 100_000
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*(bit|kbit|mbit|gbit)", re.IGNORECASE)
_BITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, order=True)
class LinkSpec:
    """Rate in bits per second of each seeder's line, each way (None: as fast as it goes), and round trip in seconds."""

    rate_bits_per_second: float | None
    rtt_seconds: float

    @property
    def text(self) -> str:
        """For people and file names: `100mbit-50ms`."""
        return f"{rate_text(self.rate_bits_per_second)}-{self.rtt_seconds * 1000:g}ms"

    @property
    def words(self) -> str:
        """For a heading."""
        rate = self.rate_bits_per_second
        said = "no rate set" if rate is None else f"{rate_text(rate).replace('bit', ' bit/s', 1)} a seeder"
        for letter, name in (("k", "kbit/s"), ("m", "Mbit/s"), ("g", "Gbit/s")):
            said = said.replace(f"{letter} bit/s", f" {name}")
        return f"{said}, round trip {self.rtt_seconds * 1000:g} ms"


@dataclass(frozen=True)
class StudyOptions:
    """Everything that decides which trials are run. Sizes in bytes, times in seconds."""

    payloads: tuple[str, ...] = ("few-large", "many-small")
    methods: tuple[str, ...] = ("http", "bittorrent", "ipfs")
    seeders: tuple[int, ...] = (1, 2, 4)
    links: tuple[LinkSpec, ...] = (LinkSpec(None, 0.0), LinkSpec(100e6, 0.05))
    trials: int = 5
    size_bytes: int = 64_000_000
    cap_seconds: float = 300.0
    seed: int = 0
    caches: tuple[str, ...] = ("warm",)
    girder: str | None = None
    dataset: Path | None = None
    link_kind: Literal["proxy", "netem"] = "proxy"

    def check(self) -> None:
        """Raises UsageError on what cannot be, MissingInput for a dataset that is not there."""
        known = PAYLOADS + ((DATASET,) if self.dataset else ())
        for what, values, allowed in (
            ("--payload", self.payloads, known),
            ("--methods", self.methods, METHODS),
            ("--cache", self.caches, CACHES),
        ):
            if not values:
                raise UsageError(f"{what}: name at least one of {', '.join(allowed)}")
            if len(set(values)) < len(values):
                raise UsageError(f"{what}: one is named twice")
            for value in values:
                if value not in allowed:
                    raise UsageError(f"{what} {value!r}: {nearest(value, allowed)}")
        if not self.seeders or any(not 1 <= n <= MOST_SEEDERS for n in self.seeders):
            raise UsageError(f"--seeders: numbers from 1 to {MOST_SEEDERS}, on this one machine")
        if not self.links:
            raise UsageError("name at least one link", hint="--rate none,100mbit --rtt 0,50")
        if len(set(self.seeders)) < len(self.seeders) or len(set(self.links)) < len(self.links):
            raise UsageError("a number of seeders or a link is named twice")
        if not 1 <= self.trials <= 1000:
            raise UsageError(f"--trials {self.trials}: from 1 to 1000")
        if not LEAST_BYTES <= self.size_bytes <= 10**12:
            raise UsageError(f"--size {self.size_bytes:,}: from {LEAST_BYTES:,} bytes to a terabyte")
        if not (math.isfinite(self.cap_seconds) and 1 <= self.cap_seconds <= 86_400):
            raise UsageError(f"--cap {self.cap_seconds:g}: from 1 second to a day")
        self._check_girder()
        if self.dataset is not None and not self.dataset.is_dir():
            raise MissingInput(f"{self.dataset}: no such folder to study with")

    def _check_girder(self) -> None:
        if ("girder" in self.methods) != (self.girder is not None):
            raise UsageError(
                "the method girder and --girder LOCATION go together",
                hint="--methods http,girder --girder girder+http://HOST/api/v1#collection/NAME",
            )
        if self.girder is not None and not self.girder.lower().startswith("girder+http://"):
            raise UsageError(
                "--girder: only girder+http:// can be studied",
                hint="the link stands between client and server, and no certificate names the link",
            )

    def config(self) -> dict[str, Any]:
        """For the record: what decides the trials."""
        return {
            "payloads": list(self.payloads),
            "methods": list(self.methods),
            "seeders": list(self.seeders),
            "links": [
                {"rate_bits_per_second": link.rate_bits_per_second, "rtt_seconds": link.rtt_seconds}
                for link in self.links
            ],
            "trials": self.trials,
            "size_bytes": self.size_bytes,
            "cap_seconds": self.cap_seconds,
            "caches": list(self.caches),
            "girder": self.girder,
            "link_kind": self.link_kind,
        }


def rate_text(rate: float | None) -> str:
    """100e6 -> 100mbit."""
    if rate is None:
        return "none"
    for unit in ("gbit", "mbit", "kbit"):
        if rate >= _BITS[unit]:
            return f"{rate / _BITS[unit]:g}{unit}"
    return f"{rate:g}bit"


def parse_rate(text: str) -> float | None:
    """Bits per second of `100mbit`, `10kbit`, `1gbit`; None for `none`. Raises UsageError."""
    if text.strip().lower() in ("none", "0"):
        return None
    found = _RATE.fullmatch(text.strip())
    rate = float(found[1]) * _BITS[found[2].lower()] if found else 0.0
    if not 8_000 <= rate <= 1e12:
        raise UsageError(f"--rate {text!r}: write 100mbit, 10kbit, 1gbit, or none", hint="at least 8kbit")
    return rate


def parse_rtt(text: str) -> float:
    """Seconds of a round trip given in milliseconds (`50`, `50ms`). Raises UsageError."""
    try:
        seconds = float(text.strip().lower().removesuffix("ms")) / 1000
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 60:
        raise UsageError(f"--rtt {text!r}: milliseconds, from 0 to 60000")
    return seconds


def parse_links(rates: str, rtts: str, pairs: str | None) -> tuple[LinkSpec, ...]:
    """All rates with all round trips, or just the pairs `none/0,100mbit/50`. Raises UsageError."""
    if pairs:
        found = []
        for pair in _listed(pairs):
            rate, slash, rtt = pair.partition("/")
            if not slash:
                raise UsageError(f"--pairs {pair!r}: write RATE/MILLISECONDS, such as 100mbit/50")
            found.append(LinkSpec(parse_rate(rate), parse_rtt(rtt)))
        return tuple(found)
    every = [parse_rtt(rtt) for rtt in _listed(rtts)]
    return tuple(LinkSpec(parse_rate(rate), rtt) for rate in _listed(rates) for rtt in every)


def parse_size(text: str) -> int:
    """Bytes of `64000000`, `64MB`, `64MiB`. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"--size {text!r}: write a number of bytes, 64MB or 64MiB")
    unit = found[2].lower().removesuffix("b")
    base = 1024 if unit.endswith("i") else 1000
    return int(float(found[1]) * base ** _POWERS[unit.removesuffix("i")])


def parse_numbers(text: str) -> tuple[int, ...]:
    """1,2,4. Raises UsageError."""
    try:
        return tuple(int(part) for part in _listed(text))
    except ValueError:
        raise UsageError(f"--seeders {text!r}: whole numbers with commas") from None


def parse_names(text: str) -> tuple[str, ...]:
    """Names with commas."""
    return tuple(_listed(text))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

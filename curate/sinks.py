"""Sinks: where a block of pictures goes, and in which form: loose files, a webdataset tar, a Parquet file, or nothing at all.

A block is a run of consecutive pictures that one worker draws. Its file appears under its name whole or not at all; loose files
appear one by one, each whole, and the block is done when `close` has returned (by then they are on the disk). What is written
depends on the pictures and their order alone: not on time, host, path or user (the Parquet file also names the version of Arrow).

    folder    image/CCCCC/CCCCC_IIII.png, mask/CCCCC/CCCCC_IIII.png   (or the paths that `add` is given)
    tar       KEY.png, KEY.cls; where there are annotations also KEY.mask.png (grey: 0 background, else 1 + label) and KEY.json
    parquet   key, label, category, instance, image {bytes, path}; where there are annotations also mask and objects
    recipe    nothing: the pictures can be made again, and their digest stands in the recipe
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from curate._coco_file import picture_line, things_of
from curate._png import Encoder
from headwater.errors import UsageError, nearest
from headwater.files import atomic_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from curate.generators import Picture

SINKS = ("folder", "tar", "parquet", "recipe")
STORED = frozenset({"folder", "tar", "parquet"})  # those that want the PNG


@dataclass(frozen=True)
class Layout:
    """How blocks of one set of pictures are stored."""

    sink: str  # one of SINKS
    annotated: bool = False  # masks and things come with every picture


@dataclass(frozen=True)
class BlockFacts:
    """What a finished block wrote. `files` are relative to the folder, sorted; the objects file is not among them."""

    files: tuple[str, ...]
    pictures: int
    bytes: int


def picture_key(category: int, instance: int) -> str:
    """CCCCC_IIII: the stem of a picture's names, at least five and four digits."""
    return f"{category:05d}_{instance:04d}"


def block_file(layout: Layout, name: str) -> str | None:
    """The one file of block `name`, relative to the folder; None for sinks without one."""
    return f"{name}.{layout.sink}" if layout.sink in ("tar", "parquet") else None


class BlockWriter:
    """Writes one block. Use as a context manager: left by an exception, nothing of a block file stays."""

    def __init__(self, folder: Path, name: str, layout: Layout, objects: Path | None) -> None:
        self.folder, self.name, self.layout = folder, name, layout
        self.pictures = 0
        self._stack = ExitStack()
        self._objects: IO[bytes] | None = None
        self._objects_path = objects if layout.annotated else None
        self._mask_encoder: Encoder | None = None

    def __enter__(self) -> Self:
        try:
            if self._objects_path is not None:
                self._objects = self._stack.enter_context(atomic_file(self._objects_path))
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(
        self,
        key: str,
        label: int,
        category: int,
        instance: int,
        picture: Picture,
        png: bytes,
        path: str | None = None,
    ) -> None:
        """Append one picture. `png` is its file (b"" will do for `recipe`); `path` replaces the folder sink's image/CCCCC/KEY.png."""
        things: list[dict[str, Any]] = []
        mask = b""
        if self.layout.annotated and self.layout.sink != "recipe":
            things = things_of(picture)
            mask = self._mask(picture.labels)
        elif self._objects is not None:
            things = things_of(picture)
        if self._objects is not None:
            height, width = picture.pixels.shape[:2]
            file_name = self._file_name(key, path)
            self._objects.write(picture_line(file_name, height, width, label, category, instance, things))
        self._add(key, label, category, instance, png, mask, things, path)
        self.pictures += 1

    def close(self) -> BlockFacts:
        """Commit the block and say what it wrote."""
        files, size = self._finish()
        self._stack.close()
        return BlockFacts(tuple(sorted(files)), self.pictures, size if size >= 0 else self._size(files))

    def _mask(self, labels: npt.NDArray[np.uint8] | None) -> bytes:
        if labels is None:
            raise ValueError("an annotated picture came without its label map")
        if self._mask_encoder is None or self._mask_encoder.shape != labels.shape:
            self._mask_encoder = Encoder(*labels.shape)
        return self._mask_encoder.encode(labels)

    def _size(self, files: list[str]) -> int:
        return sum((self.folder / file).stat().st_size for file in files)

    # what the sinks fill in

    def _file_name(self, key: str, path: str | None) -> str:
        return f"{key}.png"

    def _open(self) -> None:
        return None

    def _add(
        self,
        key: str,
        label: int,
        category: int,
        instance: int,
        png: bytes,
        mask: bytes,
        things: list[dict[str, Any]],
        path: str | None,
    ) -> None:
        return None

    def _finish(self) -> tuple[list[str], int]:
        return [], 0


def open_block(folder: Path, name: str, layout: Layout, *, objects: Path | None = None) -> BlockWriter:
    """A writer for block `name` in `folder`, to be used with `with`. `objects` is where its JSON lines go (curate._coco_file).

    Raises UsageError for a sink that does not exist.
    """
    if layout.sink == "folder":
        from curate._sink_folder import FolderWriter

        return FolderWriter(folder, name, layout, objects)
    if layout.sink == "tar":
        from curate._sink_tar import TarWriter

        return TarWriter(folder, name, layout, objects)
    if layout.sink == "parquet":
        from curate._sink_parquet import ParquetWriter

        return ParquetWriter(folder, name, layout, objects)
    if layout.sink == "recipe":
        return BlockWriter(folder, name, layout, objects)
    raise UsageError(f"there is no sink {layout.sink}", hint=nearest(layout.sink, SINKS) or ", ".join(SINKS))


def read_grey(data: bytes) -> npt.NDArray[np.uint8]:
    """Pixels of a grey PNG, (H, W) uint8: OpenCV's reader where it is installed, else Pillow's. Raises ValueError for what is no picture."""
    import numpy as np

    cv2 = _opencv()
    if cv2 is not None:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if decoded is None:
            raise ValueError("not a picture that can be decoded")
        return decoded  # type: ignore[no-any-return]
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image.convert("L"))
    except (OSError, SyntaxError) as error:
        raise ValueError("not a picture that can be decoded") from error


_CV2: list[Any] = []


def _opencv() -> Any:
    if not _CV2:
        try:
            import cv2
        except ImportError:
            _CV2.append(None)
        else:
            _CV2.append(cv2)
    return _CV2[0]


__all__ = [
    "SINKS",
    "STORED",
    "BlockFacts",
    "BlockWriter",
    "Layout",
    "block_file",
    "open_block",
    "picture_key",
    "read_grey",
]

"""What is done with folders of photos, as Steps: taken in, copied without private facts, opened again; no photo is ever changed.

A scrubbed output is a store with the photos under `images/`. What was taken out goes, encrypted, to a folder of its own with a Step of its
own, which is made first: there is never a scrubbed copy whose originals' facts were to be kept and are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.polygons._digest import image_path
from curate.polygons._store_files import HEADER_NAME
from curate.polygons.intake import PHOTOS, photo_table, take_in
from curate.polygons.labelme_files import walk
from curate.polygons.provenance import Provenance
from curate.polygons.recording import (
    MOST_LISTED,
    VERSION,
    Made,
    apart,
    bad_lines,
    input_of,
    photos_input,
    sayable,
    sayable_text,
    store_step,
    told,
    with_bad,
    write_table,
)
from curate.polygons.scrub import Report, scrub_annotations, scrub_folder
from curate.polygons.sealing import Key, unseal
from curate.polygons.store import Annotations, write_store
from headwater.errors import (
    BadInputs,
    HeadwaterError,
    IntegrityError,
    MissingInput,
    SignatureFailure,
    UsageError,
)
from headwater.files import FOLDER_MODE, atomic_file, named_io
from headwater.manifest import Counts, InputRef
from headwater.options import Settings
from headwater.steps import RECORD_NAME, Plan, Work, check_output, run_step

IMAGES_NAME = "images"
SEALED_SUFFIX = ".sealed"
SAME = pa.schema(
    [
        ("kind", pa.string()),  # bytes, pixels, near
        ("first", pa.string()),
        ("second", pa.string()),
        ("bits", pa.int64()),  # of 64 that differ in their perceptual hashes
        ("one_group", pa.bool_()),
    ]
)
# what becomes of a photo, without the digest by which its owner's copy could be found
SCRUBBED = pa.schema(
    [
        ("file_name", pa.string()),
        ("removed", pa.list_(pa.string())),
        ("coded_again", pa.bool_()),
        ("bytes_before", pa.int64()),
        ("bytes_after", pa.int64()),
        ("sha256_after", pa.string()),
    ]
)
Told = tuple[dict[str, Any], BadInputs | None]


def run_intake(
    settings: Settings,
    folder: Path,
    output: Path,
    *,
    roles: Sequence[str],
    gap_seconds: float,
    near_bits: int,
    source: Provenance | None,
) -> Told:
    """Take a camera's folder into a store, with photos.parquet and same.parquet beside its tables."""
    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder")
    names = [name for name in walk(folder) if name.rpartition(".")[2].lower() in (*PHOTOS, "json")]
    config = {
        "roles": list(roles),
        "gap_seconds": gap_seconds,
        "near_bits": near_bits,
        "source": str(source) if source else None,
    }

    def make() -> Made:
        found = take_in(
            folder,
            roles=roles,
            gap_seconds=gap_seconds,
            near_bits=near_bits,
            source=source,
            executor=settings.executor(),
        )
        bad = sayable(found.bad)
        sidecars = sum(name.lower().endswith(".json") for name, _ in bad)
        photos = len(bad) - sidecars
        invalid = {"photos that cannot be read": photos} if photos else {}
        extra = {"sidecars that cannot be read": sidecars} if sidecars else {}
        counts = Counts(
            unit="photos", read=len(found.seen) + photos, kept=len(found.seen), invalid=invalid, extra=extra
        )
        pairs = [vars(pair) for pair in found.same]
        details = {
            "bad": bad[:MOST_LISTED],
            "others": [sayable_text(name) for name in found.others[:MOST_LISTED]],
            "same": pairs[:MOST_LISTED],
        }
        groups = {group for group, _ in found.groups.values()}
        notes = [f"{len(groups):,} groups ({', '.join(roles)}) with {len(found.groups):,} photos"]
        for kind in ("bytes", "pixels", "near"):
            if count := sum(pair.kind == kind for pair in found.same):
                notes.append(f"{count:,} pairs of photos that are the same: {kind}")
        beside = {
            "photos.parquet": photo_table(found),
            "same.parquet": pa.Table.from_pylist(pairs, schema=SAME),
        }
        return Made(found.annotations, counts, notes + bad_lines(bad), details, beside)

    inputs = [photos_input("photos", folder, names)]
    result = store_step(settings, "polygons-intake", config, inputs, output, make, sources=[folder])
    bad = result.get("details", {}).get("bad", [])
    return with_bad(settings, result, output, bad, f"{len(bad):,} files cannot be read")


def key_input(key: Key) -> InputRef:
    """A key as the input of a step: nothing of its 64 random bytes can be told from this."""
    return InputRef(role="key", id=hashlib.sha256(b"headwater seal key\n" + key.secret).hexdigest())


def run_scrub(
    settings: Settings,
    path: Path,
    annotations: Annotations,
    images: Path,
    output: Path,
    *,
    orientation: str,
    keep_times: bool,
    sealed: tuple[Path, Key] | None,
) -> Told:
    """Write a store and scrubbed photos; before that, where asked, the sealed folder."""
    apart(output, [path], [images])
    if output.resolve() == images.resolve():
        raise UsageError(f"-o {output}: is the folder of the photos", hint="write somewhere else")
    if sealed:
        _check_sealed(sealed[0], output, path, images)
    listed = annotations.images["file_name"].to_pylist()
    names = list(dict.fromkeys(name for name in listed if name is not None))
    unnamed = [f"image row {row}" for row, name in enumerate(listed) if name is None]
    config = {"orientation": orientation, "keep_times": keep_times}
    inputs = [input_of("annotations", annotations), photos_input("photos", images, names)]
    if sealed:
        _seal(settings, names, images, sealed, config, inputs)
    plan = Plan("polygons-scrub", VERSION, config, inputs, output, kind="folder")
    how: dict[str, Any] = {"orientation": orientation, "keep_times": keep_times}

    def work(job: Work) -> Counts:
        copies = job.parts / IMAGES_NAME  # a store is written into an empty folder
        _empty(copies)
        report = scrub_folder(names, images, copies, **how)
        found = scrub_annotations(annotations, report, **how)
        write_store(found, job.stage)
        copies.mkdir(exist_ok=True)
        copies.rename(job.stage / IMAGES_NAME)
        rows = [{name: row[name] for name in SCRUBBED.names} for row in report.rows]
        write_table(pa.Table.from_pylist(rows, schema=SCRUBBED), job.stage / "scrubbed.parquet")
        report.bad += [(name, "has no file name") for name in unnamed]
        return _counted(job, report, len(names) + len(unnamed), len(found.annotations))

    result = told(plan, run_step(plan, work, settings.run_options()))
    bad = result.get("details", {}).get("bad", [])
    return with_bad(settings, result, output, bad, f"{len(bad):,} photos are left out")


def _check_sealed(sealed: Path, output: Path, path: Path, images: Path) -> None:
    for one, other in ((sealed, output), (output, sealed)):
        if one.resolve().is_relative_to(other.resolve()):
            raise UsageError(
                f"--sealed {sealed}: it and -o {output} must lie apart", hint="only one of them is published"
            )
    apart(sealed, [path], [images])
    check_output(sealed, "folder")


def _seal(
    settings: Settings,
    names: Sequence[str],
    images: Path,
    sealed: tuple[Path, Key],
    config: dict[str, Any],
    inputs: Sequence[InputRef],
) -> None:
    """The folder of sealed sidecars, NAME.sealed each."""
    folder, key = sealed
    plan = Plan("polygons-seal", VERSION, config, [inputs[1], key_input(key)], folder, kind="folder")

    def work(job: Work) -> Counts:
        copies = job.parts / "copies"
        _empty(copies)
        how: dict[str, Any] = config
        report = scrub_folder(names, images, copies, sealed=(job.stage, key), **how)
        _empty(copies)
        return _counted(job, report, len(names))

    run_step(plan, work, settings.run_options())


def _counted(job: Work, report: Report, read: int, annotations: int | None = None) -> Counts:
    bad = sayable(report.bad)
    if bad and not report.rows:
        raise BadInputs(
            "none of the photos can be used:\n" + "\n".join(bad_lines(bad)),
            hint="--images is the folder from which the file names of the dataset count",
        )
    job.details["bad"] = bad[:MOST_LISTED]
    removed: dict[str, int] = {}
    for row in report.rows:
        for name in row["removed"]:
            removed[name] = removed.get(name, 0) + 1
    job.details["removed"] = removed
    notes = [f"taken out of {count:,} photos: {name}" for name, count in sorted(removed.items())]
    job.details["notes"] = notes + bad_lines(bad)
    again = sum(row["coded_again"] for row in report.rows)
    extra = {"coded again": again} if again else {}
    if annotations is not None:
        extra["annotations"] = annotations
    kept = len(report.rows)
    invalid = {"photos that cannot be used": read - kept} if read > kept else {}
    return Counts(unit="photos", read=read, kept=kept, invalid=invalid, extra=extra)


def _empty(folder: Path) -> None:
    """Remove what a killed run left there."""
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def run_unseal(settings: Settings, scrubbed: Path, sealed: Path, key: Key, output: Path) -> Told:
    """Write the originals, byte for byte. Raises SignatureFailure when the key opens none of the sidecars."""
    for folder in (scrubbed, sealed):
        if not folder.is_dir():
            raise MissingInput(f"{folder}: no such folder")
    if (scrubbed / HEADER_NAME).is_file() and (scrubbed / IMAGES_NAME).is_dir():
        scrubbed = scrubbed / IMAGES_NAME
    apart(output, [scrubbed, sealed])
    sidecars = [name for name in walk(sealed) if name.endswith(SEALED_SUFFIX)]
    if not sidecars:
        raise UsageError(
            f"{sealed}: no sealed sidecar (*{SEALED_SUFFIX}) in it", hint="name the folder given as --sealed"
        )
    names = [name.removesuffix(SEALED_SUFFIX) for name in sidecars]
    inputs = [
        photos_input("scrubbed", scrubbed, names), photos_input("sealed", sealed, sidecars), key_input(key)
    ]  # fmt: skip
    plan = Plan("polygons-unseal", VERSION, {}, inputs, output, kind="folder")

    def work(job: Work) -> Counts:
        bad: list[tuple[str, str]] = []
        strange = 0  # sidecars that the key does not open
        for name in names:
            try:
                data = _opened(scrubbed, sealed, name, key)
            except HeadwaterError as error:
                strange += isinstance(error, SignatureFailure)
                bad.append((name, error.message.removeprefix(f"{name}: ")))
                continue
            path = job.stage / name
            with named_io(path):
                path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            with atomic_file(path, durable=False) as out:
                out.write(data)
        if strange == len(names):
            raise SignatureFailure(f"{sealed}: the key opens none of its sidecars, or they were changed")
        listed = sayable(bad)
        if len(bad) == len(names):
            raise BadInputs("no original can be made:\n" + "\n".join(bad_lines(listed)))
        job.details |= {"bad": listed[:MOST_LISTED], "notes": bad_lines(listed)}
        invalid = {"originals that cannot be made": len(bad)} if bad else {}
        return Counts(unit="photos", read=len(names), kept=len(names) - len(bad), invalid=invalid)

    result = told(plan, run_step(plan, work, settings.run_options()))
    bad = result.get("details", {}).get("bad", [])
    return with_bad(settings, result, output, bad, f"{len(bad):,} photos are left out")


def _opened(scrubbed: Path, sealed: Path, name: str, key: Key) -> bytes:
    from curate.polygons.exif import read_bytes

    photo, sidecar = image_path(scrubbed, name), image_path(sealed, f"{name}{SEALED_SUFFIX}")
    if photo is None or not photo.is_file():
        raise MissingInput("its scrubbed photo is missing")
    assert sidecar is not None
    if name == RECORD_NAME:
        raise IntegrityError(f"{RECORD_NAME} is the name of our record")
    with named_io(sidecar):
        own, data = unseal(sidecar.read_bytes(), read_bytes(photo), key)
    if own != name:
        raise IntegrityError(f"the sidecar is that of {own!r}")
    return data


def run_strip(settings: Settings, folder: Path, output: Path) -> Told:
    """Copy a LabelMe folder without the pictures inside its files."""
    from curate.polygons.labelme_files import is_labelme, read_document
    from curate.polygons.labelme_strip import strip_image_data

    if not folder.is_dir():
        raise MissingInput(f"{folder}: no such folder")
    apart(output, [folder])
    own = folder / RECORD_NAME  # of a copy that we made; the new copy gets its own
    if own.is_file() and is_labelme(read_document(own)):
        raise UsageError(f"{own}: is the name of our record", hint="give this file another name")
    names = [name for name in walk(folder) if name != RECORD_NAME]
    if odd := [name for name in names if name.encode(errors="replace").decode() != name]:
        raise UsageError(
            f"{folder}: names that no record can hold: {', '.join(map(sayable_text, odd[:5]))}",
            hint="rename these files",
        )
    plan = Plan("polygons-strip", VERSION, {}, [photos_input("folder", folder, names)], output, kind="folder")

    def work(job: Work) -> Counts:
        done = strip_image_data(folder, job.stage)
        (job.stage / RECORD_NAME).unlink(missing_ok=True)
        bad = sayable(done.bad)
        unpacked = [sayable_text(name) for name in done.unpacked]
        job.details |= {"bad": bad[:MOST_LISTED], "unpacked": unpacked[:MOST_LISTED]}
        notes = [
            f"{done.stripped:,} files without their picture inside, {len(unpacked):,} of these pictures are files now"
        ]
        job.details["notes"] = notes + bad_lines(bad)
        invalid = {"copied as they are, because they cannot be read": len(bad)} if bad else {}
        extra = {"stripped": done.stripped, "unpacked": len(unpacked)}
        return Counts(unit="files", read=len(names), kept=len(names) - len(bad), invalid=invalid, extra=extra)

    result = told(plan, run_step(plan, work, settings.run_options()))
    bad = result.get("details", {}).get("bad", [])
    return with_bad(settings, result, output, bad, f"{len(bad):,} files are copied as they are")

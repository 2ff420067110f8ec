"""Archives: members that any tool reads, that threads pack and unpack, and that are believed no more than checked."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from archive_tools import HEADER, Part, archive_of, parts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flambe_save
from flambe_save import CorruptSaveError, LimitError, Limits, SaveError, load, save, verify
from flambe_save.storage import TarStore, create_store, tar_checks, tar_headers, tar_reading
from flambe_save.storage import gzip_members as members
from flambe_save.storage import tar as tars

CONTENT, MIXED, LARGE = 3000, 5000, 1000  # bytes, in place of megabytes


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use one library or the other."""
    if request.param == "zlib":
        monkeypatch.setattr(members, "isal_zlib", None)
    elif members.isal_zlib is None:
        pytest.skip("needs isal")
    return str(request.param)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make members small."""
    monkeypatch.setattr(members, "_CONTENT_SIZE", CONTENT)
    monkeypatch.setattr(members, "_MIXED_SIZE", MIXED)
    for module in (tars, tar_reading):
        monkeypatch.setattr(module, "LARGE", LARGE)


def content(size: int, seed: int = 0) -> bytes:
    """Return bytes that shrink a little."""
    return bytes(random.Random(seed).choices(range(64), k=size))


FILES = {
    "state.pt": content(10_000),
    "config.yaml": b"!Model {}\n",
    "empty": b"",
    "encoder/state.pt": content(2 * CONTENT, 1),
    "encoder/config.yaml": b"x" * (LARGE - 1),
    "encoder/\u03b1/stash.pkl": content(LARGE, 2),
    "head/" + "long" * 40: content(CONTENT + 1, 3),
    **{f"layers/{index}": content(index * 37 % 900, index) for index in range(40)},
}


def pack(path: Path, files: Mapping[str, bytes] = FILES, pieces: int = 1 << 30, **options: Any) -> Path:
    """Write an archive, saying the sizes, in pieces of so many bytes."""
    with TarStore(path, "w", overwrite=True, single="" in files, **options) as store:
        for name, data in files.items():
            with store.writer(name, len(data)) as file:
                for begin in range(0, len(data), pieces):
                    file.write(memoryview(data)[begin : begin + pieces])
    return path


def unpack(path: Path, **options: Any) -> dict[str, bytes]:
    """Return what our reader finds."""
    with TarStore(path, **options) as store:
        return {name: store.reader(name).read() for name in store.names()}


def unpack_otherwise(path: Path) -> dict[str, bytes]:
    """Return what our reader finds that knows of no members."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members.MemberReader, "find", lambda *_: None)
        return unpack(path)


def is_by_members(path: Path) -> bool:
    """Whether an archive is read member by member."""
    with TarStore(path) as store:
        return store._members is not None


def threads() -> list[str]:
    """Return the names of our threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("flambe_save")]


# ------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_files_come_back(tmp_path: Path, library: str, count: int) -> None:
    """What is written by one library is read by both, member by member, and by the standard library."""
    path = pack(tmp_path / "run.tar.gz", threads=count)
    assert is_by_members(path)
    assert unpack(path, threads=count) == unpack_otherwise(path) == FILES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "isal_zlib", None)
        assert unpack(path) == FILES
    with tarfile.open(path) as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar if info.isfile()}  # type: ignore[union-attr]
    assert found == {f"run/{name}": data for name, data in FILES.items()}


@pytest.mark.usefixtures("_small")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.integers(0, 4 * CONTENT) | st.sampled_from([LARGE - 1, LARGE, CONTENT, 2 * CONTENT, 512, 1024, MIXED]),
        max_size=12,
    ),
    st.integers(100, 4000),
)
def test_any_sizes(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], pieces: int) -> None:
    """Whatever the sizes and the pieces: all comes back, and neither pieces nor threads show in the bytes."""
    files = {f"{index}/state.pt": content(size, index) for index, size in enumerate(sizes)} or {"a": b""}
    path = tmp_path_factory.mktemp("sizes") / "run.tar.gz"
    one = pack(path, files, pieces, threads=3)
    data = one.read_bytes()
    assert is_by_members(one)
    assert unpack(one) == unpack_otherwise(one) == files
    assert pack(path, files, threads=1).read_bytes() == data


def test_a_size_that_is_not_told(tmp_path: Path) -> None:
    """A file whose size is known only at its end is in the archive as if it had been told."""
    files = {"state.pt": content(6 << 20), "config.yaml": b"x"}
    told = pack(tmp_path / "a/run.tar.gz", files).read_bytes()
    with create_store(tmp_path / "b/run.tar.gz", archive=True, single=False) as store:
        for name, data in files.items():
            with store.writer(name) as file:
                file.write(data)
    assert (tmp_path / "b/run.tar.gz").read_bytes() == told


@pytest.mark.usefixtures("_small")
def test_a_single_file(tmp_path: Path) -> None:
    """An archive of one large file has no folder."""
    path = pack(tmp_path / "run.pkl.tar.gz", {"": content(20_000)})
    assert unpack(path) == {"": content(20_000)}
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["run.pkl"]


@pytest.mark.usefixtures("_small")
def test_large_files_have_members_of_their_own(tmp_path: Path) -> None:
    """Members of content hold one file each, and say so; all headers are in the others."""
    parts = parts_of(pack(tmp_path / "run.tar.gz", {"a": content(7000), "b": content(10), "c": content(3000, 1)}))
    assert [part.kind for part in parts] == [0, 1, 1, 1, 0, 1, 1, 0]
    assert b"".join(part.data for part in parts[1:4])[:7000] == content(7000)
    assert parts[5].data[:3000] == content(3000, 1)


@pytest.mark.skipif(shutil.which("tar") is None or shutil.which("gzip") is None, reason="needs tar and gzip")
def test_other_tools_take_it(tmp_path: Path, library: str) -> None:
    """gzip tests it and tar unpacks it, without a word."""
    files = {**FILES, "big/state.pt": os.urandom(9 << 20), "big/zeros": bytes(5 << 20)}
    pack(tmp_path / "run.tar.gz", files)
    for command in (["gzip", "-t", "run.tar.gz"], ["tar", "-xzf", "run.tar.gz"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        assert done.stdout + done.stderr == b""
    folder = tmp_path / "run"
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=120).filter(
        lambda name: not name.endswith("/")
    ),
    st.none() | st.integers(0, 1 << 35),
)
def test_headers_are_those_of_tarfile(name: str, size: int | None) -> None:
    """Headers made by hand are to the bit what the standard library makes, and are read back."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size or 0, 0o644
    if size is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    header = tar_headers.header_of(name, size)
    assert header == info.tobuf(tarfile.PAX_FORMAT)
    try:
        assert tar_headers.parsed_header(header, 0) == (name, size, len(header))
    except tar_headers.OtherwiseWrittenError:
        assert "\n" in name or os.path.normpath(name) != name


@pytest.mark.parametrize("level", [0, 1, 5, 9])
def test_levels(tmp_path: Path, library: str, level: int) -> None:
    """Every level is read by all; 0 stores, and the others make smaller."""
    files = {"state.pt": content(600_000), "config.yaml": b"text\n" * 1000}
    path = pack(tmp_path / "run.tar.gz", files, level=level)
    assert unpack(path) == unpack_otherwise(path) == files
    total = sum(map(len, files.values()))
    assert (path.stat().st_size > total) == (level == 0)


def test_the_default_level_looks_for_repetition(tmp_path: Path, library: str) -> None:
    """Without a level, what repeats itself gets about as small as by gzip's level 6; so do weights."""
    rows = bytes(random.Random(0).choices(range(256), k=2000)) * 300
    weights = torch.randn(200_000).numpy().tobytes()
    for data in (rows, weights):
        path = pack(tmp_path / "run.tar.gz", {"state.pt": data})
        assert path.stat().st_size < 1.02 * len(gzip.compress(data, 6)) + 2000


# -------------------------------------------------------------------------------------------------------------- saves


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return an archive of a model, each of whose weights has a member of its own."""
    with flambe_save.recording():
        model = {"encoder": nn.Linear(300, 300), "head": nn.Linear(300, 300)}
    return Path(save(model, tmp_path / "model", compress=True))


def damaged(path: Path, name: str) -> None:
    """Damage the checksum of the content of a large file."""
    parts = parts_of(path)
    index = next(i for i, part in enumerate(parts) if part.kind == 0 and name.encode() in part.data[-512:])
    parts[index + 1] = parts[index + 1]._replace(checksum=1)
    archive_of(path, parts)


def test_one_node_is_read_without_the_others(saved: Path) -> None:
    """A part loads though another is damaged; the whole does not, and verify finds it."""
    head = load(saved)["head"]
    damaged(saved, "encoder/state.pt")
    assert torch.equal(load(saved, node="head").weight, head.weight)
    with pytest.raises(CorruptSaveError, match="checksum"):
        load(saved, node="encoder")
    with pytest.raises(CorruptSaveError, match="checksum"):
        load(saved)
    assert [(row.node, row.file) for row in verify(saved)] == [("encoder", "encoder/state.pt")]


def test_what_a_load_passes_over_is_checked_too(tmp_path: Path) -> None:
    """A README beside the save is no part of it, but its member may be no lie."""
    folder = Path(save({"a": torch.ones(3)}, tmp_path / "run"))
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    path = pack(tmp_path / "packed.tar.gz", {"README.md": content(300_000), **files})
    assert torch.equal(load(path)["a"], torch.ones(3))
    assert verify(path) == []
    damaged(path, "README.md")
    with pytest.raises(CorruptSaveError, match="checksum"):
        load(path)
    assert len(verify(path)) == 1


@pytest.mark.parametrize("level", [-1, 10, True, 1.5, "6"])
def test_levels_that_are_none(tmp_path: Path, level: Any) -> None:
    """A level is a number from 0 to 9."""
    with pytest.raises(SaveError, match="0 to 9"):
        save({"a": 1}, tmp_path / "run", compress=True, level=level)
    assert list(tmp_path.iterdir()) == []


def test_a_level_of_what_is_not_compressed(tmp_path: Path) -> None:
    """A level without compress=True would be ignored, and is refused."""
    with pytest.raises(SaveError, match="compress=True"):
        save({"a": 1}, tmp_path / "run", level=1)
    assert list(tmp_path.iterdir()) == []


def test_a_save_of_each_level_loads(tmp_path: Path) -> None:
    """The level of a save is that of its archive."""
    weights = torch.randn(200_000)
    stored, small = (Path(save([weights], tmp_path / str(level), compress=True, level=level)) for level in (0, 9))
    assert stored.stat().st_size > 800_000 > small.stat().st_size
    assert torch.equal(load(stored)[0], weights)
    assert torch.equal(load(small)[0], weights)


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("size", [10, 5000])
@pytest.mark.parametrize("written", [-1, 1, -5000])
@pytest.mark.parametrize("caught", [False, True])
def test_a_wrong_size(tmp_path: Path, size: int, written: int, caught: bool) -> None:
    """More or fewer bytes than were said are an error; an archive never comes to be, even where the error is caught."""
    with pytest.raises(SaveError, match=r"were written to|not written to its end"):  # noqa: PT012, SIM117
        with TarStore(tmp_path / "run.tar.gz", "w") as store:
            try:
                with store.writer("a", size) as file:
                    file.write(bytes(max(size + written, 0)))
            except SaveError:
                if not caught:
                    raise
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_small")
def test_what_was_written_may_be_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller may use the buffer again as soon as ``write`` returns, however slow the threads are."""
    packed = members._packed
    monkeypatch.setattr(members, "_packed", lambda *args: time.sleep(0.01) or packed(*args))
    data = content(10 * CONTENT)
    with TarStore(tmp_path / "run.tar.gz", "w", threads=3) as store, store.writer("a", len(data)) as file:
        lent = bytearray(data)
        file.write(lent)
        lent[:] = bytes(len(lent))
    assert unpack(tmp_path / "run.tar.gz") == {"a": data}


@pytest.mark.usefixtures("_small")
def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """Two large files cannot be written by turns."""
    with (
        pytest.raises(SaveError, match="'a' is not written yet"),
        TarStore(tmp_path / "run.tar.gz", "w") as store,
        store.writer("a", 5000),
        store.writer("b", 5000),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


class Full(io.RawIOBase):
    """A disk that takes no more."""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Fail."""
        raise OSError(errno.ENOSPC, "no space")


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("error", [MemoryError("on purpose"), KeyboardInterrupt("on purpose")])
def test_an_error_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, error: BaseException
) -> None:
    """What a thread raises comes out of the save, which leaves no file and no thread."""
    packed, calls = members._packed, []

    def fail(*args: Any) -> list[bytes]:
        calls.append(1)
        if len(calls) == 5:
            raise error
        return packed(*args)

    monkeypatch.setattr(members, "_packed", fail)
    with pytest.raises(type(error), match="on purpose"):
        pack(tmp_path / "run.tar.gz", {"a": content(60_000)}, threads=count)
    assert (list(tmp_path.iterdir()), threads()) == ([], [])


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("count", [1, 3])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """An error of the disk comes out as it is."""
    monkeypatch.setattr(tars, "open", lambda *_: Full(), raising=False)
    with pytest.raises(OSError, match="no space"):
        pack(tmp_path / "run.tar.gz", {"a": content(60_000)}, threads=count)
    assert (list(tmp_path.iterdir()), threads()) == ([], [])


@pytest.mark.usefixtures("_small")
def test_an_error_while_unpacking_ends_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread raises comes out of the reader."""
    path = pack(tmp_path / "run.tar.gz", {"a": content(60_000)})
    monkeypatch.setattr(members, "_PIECE", None)  # a TypeError, wherever content is unpacked
    with pytest.raises(TypeError):
        unpack(path, threads=4)
    assert threads() == []


@pytest.mark.usefixtures("_small")
def test_without_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, as at the interpreter's exit, the work is done all the same."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    expected = pack(tmp_path / "run.tar.gz").read_bytes()
    monkeypatch.setattr(threading.Thread, "start", start)
    path = pack(tmp_path / "run.tar.gz", threads=4)
    assert path.read_bytes() == expected
    assert unpack(path, threads=4) == FILES


MEASURE = """
import sys
import flambe_save
from flambe_save.storage import TarStore

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10

data, path = memoryview(bytearray(range(256)) * (160 << 12)), sys.argv[1]
open("/proc/self/clear_refs", "w").write("5")
before = peak()
with TarStore(path, "w", level=0, threads=4) as store:
    for name in "ab":
        with store.writer(name, len(data)) as file:
            file.write(data)
written = peak()
with TarStore(path, threads=4) as store:
    for name in "ab":
        store.reader(name).close()
print(written - before, peak() - before - len(data))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_memory(tmp_path: Path) -> None:
    """Writing 320 MB takes less than 96 MB beside them, and reading less than 64 MB beside the largest file."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "run.tar.gz")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "clear_refs" in result.stderr:
        pytest.skip("this system does not tell")
    writing, reading = map(int, result.stdout.split())
    assert writing < 96 << 20  # about 50, and more on a busy machine, where what is packed waits to be written
    assert reading < 64 << 20


# ------------------------------------------------------------------------------------------------- archives of others


def plain(path: Path) -> list[Part]:
    """Return an archive's members without their extra fields."""
    return [part._replace(plain=True) for part in parts_of(path)]


def once_more(path: Path) -> list[Part]:
    """Return an archive's members with an empty one of another program behind."""
    return [*parts_of(path), Part(0, b"", plain=True)]


def merged(path: Path) -> list[Part]:
    """Return an archive as one member."""
    return [Part(0, b"".join(part.data for part in parts_of(path)))]


def marked(kind: int) -> Any:
    """Return what says of all members that they are of a kind."""
    return lambda path: [part._replace(kind=kind) for part in parts_of(path)]


def cut_anywhere(path: Path) -> list[Part]:
    """Return an archive cut at places of no meaning."""
    data = merged(path)[0].data
    return [Part(0, data[begin : begin + 777]) for begin in range(0, len(data), 777)]


def tail_with_headers(path: Path) -> list[Part]:
    """Return an archive in which the end of some content shares a member with the headers behind it."""
    parts = parts_of(path)
    index = next(i for i, part in enumerate(parts) if part.kind and not parts[i + 1].kind)
    return [*parts[:index], Part(0, parts[index].data + parts[index + 1].data), *parts[index + 2 :]]


OTHERS = {
    "tail_with_headers": tail_with_headers,
    "plain": plain,
    "once_more": once_more,
    "all_mixed": marked(0),
    "all_content": marked(1),
    "cut_anywhere": cut_anywhere,
}


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_members_as_nobody_here_writes_them(tmp_path: Path, change: Any) -> None:
    """A good archive whose members are otherwise cut or marked is read from its begin to its end."""
    path = pack(tmp_path / "run.tar.gz")
    archive_of(path, change(path))
    assert not is_by_members(path)
    assert unpack(path) == FILES


@pytest.mark.usefixtures("_small")
def test_one_member_may_hold_all(tmp_path: Path) -> None:
    """Where large files share the one member, it says the same."""
    path = pack(tmp_path / "run.tar.gz")
    archive_of(path, merged(path))
    assert unpack(path) == FILES


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_tarfile(tmp_path: Path, format: int) -> None:
    """What the standard library packs, as Flambe did, is read."""
    with tarfile.open(tmp_path / "run.tar.gz", "w:gz", format=format) as tar:
        for name, data in {"run/a": b"1", "run/b": content(400_000)}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 12345
            tar.addfile(info, io.BytesIO(data))
    # its first member is the root, so that this is none
    with pytest.raises(CorruptSaveError, match="outside the archive's root"):
        unpack(tmp_path / "run.tar.gz")
    (tmp_path / "run").mkdir()
    for name, data in {"a": b"1", "b": content(400_000)}.items():
        (tmp_path / "run" / name).write_bytes(data)
    with tarfile.open(tmp_path / "run.tar.gz", "w:gz", format=format) as tar:
        tar.add(tmp_path / "run", "run")
    assert unpack(tmp_path / "run.tar.gz") == {"a": b"1", "b": content(400_000)}


@pytest.mark.usefixtures("_small")
def test_two_archives_in_one_file(tmp_path: Path) -> None:
    """What comes behind an archive's end is an error, though each member tells the truth."""
    path = pack(tmp_path / "run.tar.gz")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(CorruptSaveError, match="after the archive's end"):
        unpack(path)


# -------------------------------------------------------------------------------------------------------------- lies


def changes() -> st.SearchStrategy[Any]:
    """Draw a change of one member."""
    where = st.integers(0, 30)
    few = st.sampled_from([-512, -1, 1, 512, 1000, 1 << 20])
    return st.one_of(
        st.tuples(st.just("kind"), where, st.just(0)),
        st.tuples(st.just("told"), where, few),
        st.tuples(st.just("packed"), where, few),
        st.tuples(st.just("checksum"), where, st.just(1)),
        st.tuples(st.just("plain"), where, st.just(0)),
        st.tuples(st.just("cut"), where, st.sampled_from([1, 512, 1024, 2000])),
        st.tuples(st.just("join"), where, st.just(0)),
        st.tuples(st.just("drop"), where, st.just(0)),
        st.tuples(st.just("twice"), where, st.just(0)),
        st.tuples(st.just("swallow"), where, st.sampled_from([0, 1, 2])),
    )


def changed(parts: list[Part], what: str, where: int, amount: int) -> list[Part]:
    """Return members with one change."""
    index = where % len(parts)
    part, before, behind = parts[index], parts[:index], parts[index + 1 :]
    if what == "kind":
        return [*before, part._replace(kind=1 - part.kind), *behind]
    if what in ("told", "packed", "checksum"):
        return [*before, part._replace(**{what: amount}), *behind]
    if what == "plain":
        return [*before, part._replace(plain=True), *behind]
    if what == "cut":
        halves = [part._replace(data=half) for half in (part.data[:amount], part.data[amount:])]
        return [*before, *(half for half in halves if half.data), *behind]
    if what == "join" and behind:
        return [*before, part._replace(data=part.data + behind[0].data), *behind[1:]]
    if what == "drop":
        return [*before, *behind] or parts
    if what == "twice":
        return [*before, part, part, *behind]
    if what == "swallow" and behind:  # a member whose packed size covers the next, which nobody is told of
        hidden = behind[0]._replace(plain=amount == 1)
        more = part.more + hidden.bytes()
        told = len(hidden.data) - len(part.data) if amount == 2 else 0
        return [*before, part._replace(more=more, packed=part.packed + len(more), told=told), *behind[1:]]
    return parts


@pytest.mark.usefixtures("_small")
@settings(max_examples=400, deadline=None)
@given(st.lists(changes(), min_size=1, max_size=4))
def test_both_ways_of_reading_agree(tmp_path_factory: pytest.TempPathFactory, drawn: list[Any]) -> None:
    """However an archive lies: what is read member by member is what any other reader sees, or it is refused."""
    path = tmp_path_factory.mktemp("lies") / "run.tar.gz"
    parts = parts_of(pack(path))
    for change in drawn:
        parts = changed(parts, *change)
    archive_of(path, parts)
    try:
        ours = unpack(path)
    except CorruptSaveError:
        return
    assert ours == unpack_otherwise(path)


LIES = {
    "told_more": lambda part: part._replace(told=512),
    "told_less": lambda part: part._replace(told=-512),
    "checksum": lambda part: part._replace(checksum=1),
    "no_end": lambda part: part._replace(is_open=True),
    "hides_itself": lambda part: part._replace(more=part.bytes(), packed=len(part.bytes())),
    "hides_a_member": lambda part: part._replace(
        more=Part(1, b"hidden").bytes(), packed=len(Part(1, b"hidden").bytes()), told=0
    ),
}


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("kind", [0, 1])
def test_a_member_that_lies_is_refused(tmp_path: Path, lie: Any, kind: int) -> None:
    """Each lie alone, in a member of headers and in one of content, is an error when that is read."""
    path = pack(tmp_path / "run.tar.gz")
    parts = parts_of(path)
    index = next(index for index, part in enumerate(parts) if part.kind == kind)
    parts[index] = lie(parts[index])
    archive_of(path, parts)
    with pytest.raises(CorruptSaveError, match=r"not an intact|after the archive's end"):
        unpack(path)


@pytest.mark.usefixtures("_small")
def test_two_sizes_that_differ(tmp_path: Path) -> None:
    """Where the extra field tells another size than the trailer, the extra field is not used at all."""
    path = pack(tmp_path / "run.tar.gz")
    archive_of(path, parts_of(path))
    whole = bytearray(path.read_bytes())
    for place in (HEADER.size - 4, len(parts_of(path)[0].bytes()) + HEADER.size - 4):
        whole[place] ^= 1
    path.write_bytes(whole)
    assert not is_by_members(path)
    assert unpack(path) == FILES


def test_limits_hold_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that members tell are added up and refused at once; they are no reason to allocate."""
    path = pack(tmp_path / "run.tar.gz", {"zeros": bytes(2 << 20)})
    with pytest.raises(LimitError, match=r"unpacked_bytes="):
        unpack(path, limits=Limits(unpacked_bytes=1 << 20))
    monkeypatch.setattr(tar_checks, "FREE", 0)
    with pytest.raises(LimitError, match=r"ratio="):
        unpack(path)
    with pytest.raises(LimitError, match=r"members="):
        unpack(path, limits=Limits(members=1, ratio=1e6))
    assert unpack(path, limits=Limits(ratio=1e6)) == {"zeros": bytes(2 << 20)}


NAMES = ["/etc/a", "run/../../a", "..", "other", "run/a/b", "run/./c", "run//c", "run/c/", "run/a", "", "run/\0x", "."]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [0, 1])
def test_names_are_checked_in_both_ways(tmp_path: Path, name: str, kind: int) -> None:
    """A name that leads out, comes twice or can be understood in two ways is no better for good members around it."""
    head = tar_headers.header_of("run", None) + tar_headers.header_of("run/a", 0) + tar_headers.header_of("run/c", 0)
    data = content(LARGE + 24)
    parts = [Part(0, head + tar_headers.header_of(name, 0)), Part(0, bytes(1024))]
    if kind:
        parts = [Part(0, head + tar_headers.header_of(name, len(data))), Part(1, data), Part(0, bytes(1024))]
    path = archive_of(tmp_path / "run.tar.gz", parts)
    if "\0" in name:  # which ends a name
        assert unpack(path) == unpack_otherwise(path)
        assert not is_by_members(path)
        return
    with pytest.raises(CorruptSaveError, match=r"outside|twice|intact"):
        unpack(path)


@pytest.mark.parametrize("last", [bytes(512), bytes(1024) + b"x" * 512, bytes(1023), b""])
def test_the_end_is_checked(tmp_path: Path, last: bytes) -> None:
    """An archive ends with blocks of zeros and nothing else; where it ends otherwise, the reader of all decides."""
    path = archive_of(tmp_path / "run.tar.gz", [Part(0, tar_headers.header_of("run", 0) + last)])
    assert not _is_taken_by_members(path)


def _is_taken_by_members(path: Path) -> bool:
    try:
        return is_by_members(path)
    except CorruptSaveError:
        return False


@pytest.fixture(autouse=True)
def _no_threads_stay() -> Iterator[None]:
    """Look that no test leaves a thread."""
    yield
    assert threads() == []

"""Archives that reach out, repeat themselves, never end or grow: nothing is extracted, and all is counted."""

from __future__ import annotations

import gzip
import struct
import tarfile
import zlib
from pathlib import Path

from archive_tools import HEADER, Part, archive_of, parts_of
from casebook import Case, add, archive, case, holder, holder_tar, marker, member, members_of

from flambe_save import CorruptSaveError, LimitError, LoadError, UnknownFormatError
from flambe_save.storage import TarStore

Members = list[tuple[tarfile.TarInfo, bytes]]


def good(folder: Path) -> Members:
    """Return the members of an archive that would load."""
    return members_of(holder(folder))


def with_members(folder: Path, more: Members, first: bool = False) -> Path:
    """Return an archive of a save and more members."""
    rest = good(folder)
    return archive(folder / "s.tar.gz", [*more, *rest] if first else [*rest, *more])


BAD: dict[str, tuple[Members, str]] = {
    "absolute": ([member("/elsewhere", b"x")], "names lie inside the archive's root"),
    "parent": ([member("s/../../x", b"x")], "names lie inside the archive's root"),
    "parent_alone": ([member("..", type=tarfile.DIRTYPE)], "names lie inside the archive's root"),
    "sibling": ([member("t/config.yaml", b"x")], "an archive has one root"),
    "root_prefix": ([member("s2/config.yaml", b"x")], "an archive has one root"),
    "dot": ([member(".", type=tarfile.DIRTYPE)], "names lie inside the archive's root"),
    "symlink": ([member("s/link", type=tarfile.SYMTYPE, linkname="state.pt")], "members are files and folders"),
    "symlink_folder": (
        [member("s/part", type=tarfile.SYMTYPE, linkname=".."), member("s/part/x", b"x")],
        "members are files and folders",
    ),
    "hardlink": ([member("s/link", type=tarfile.LNKTYPE, linkname="s/state.pt")], "members are files and folders"),
    "fifo": ([member("s/pipe", type=tarfile.FIFOTYPE)], "members are files and folders"),
    "char_device": ([member("s/zero", type=tarfile.CHRTYPE, devmajor=1, devminor=5)], "members are files and folders"),
    "block_device": ([member("s/disk", type=tarfile.BLKTYPE)], "members are files and folders"),
    "unknown_type": ([member("s/odd", type=b"Z")], "members are files and folders"),
    "sparse": ([member("s/holes", type=tarfile.GNUTYPE_SPARSE)], "members are plain files"),
    "twice": ([member("s/config.yaml", b"!casebook.Anything {}")], "a name comes once"),
    "twice_by_dots": ([member("s/./config.yaml", b"x")], "a name comes once, however it is written"),
    "twice_by_slashes": ([member("s//config.yaml", b"x")], "a name comes once, however it is written"),
    "inside_a_file": ([member("s/state.pt/config.yaml", b"x")], "a file holds no files"),
    "file_over_a_folder": ([member("s/part/config.yaml", b"x"), member("s/part", b"x")], "a folder is no file"),
    "foreign": ([member("s/notes.txt", b"x")], "the manifest lists all files"),
    "unfinished_part": ([member("s/part/config.yaml", b"x")], "the manifest lists all files"),
    "colour": ([member("s/\x1b[31m\n\x07", b"x")], "what a message quotes is quoted"),
    "surrogate": ([member("s/\udcff\udcfe", b"x")], "what a message quotes is quoted"),
    "long": ([member("s/" + "x" * 10_000, b"x")], "what a message quotes is cut"),
    "many_parts": ([member("s" + "/a" * 20_000, b"x")], "what a message quotes is cut"),
    "empty": ([member("", b"x")], "names lie inside the archive's root"),
}
REASONS = {
    "names lie inside the archive's root": "outside",
    "an archive has one root": "outside",
    "members are files and folders": "neither a plain file nor a folder",
    "a name comes once": "comes twice",
    "a name comes once, however it is written": "comes twice",
    "a file holds no files": "comes twice",
}
for kind, (more, rule) in BAD.items():
    add(
        Case(
            f"tar_{kind}",
            lambda folder, more=more: with_members(folder, more),  # type: ignore[misc]
            (CorruptSaveError,),
            REASONS.get(rule, ""),
            rule,
        )
    )
for kind in ("parent", "symlink", "hardlink", "fifo", "sibling", "absolute"):
    add(
        Case(
            f"tar_{kind}_first",
            lambda folder, more=BAD[kind][0]: with_members(folder, more, first=True),  # type: ignore[misc]
            (CorruptSaveError, UnknownFormatError),
            REASONS[BAD[kind][1]],
            BAD[kind][1],
        )
    )


@case(CorruptSaveError, "outside|neither", "nothing is extracted")
def tar_that_writes(folder: Path) -> Path:
    """A link that leads out, and a file behind it."""
    link = member("s/out", type=tarfile.SYMTYPE, linkname=str(folder))
    return with_members(folder, [link, member(f"s/out/{marker(folder).name}", b"x")])


@case(CorruptSaveError, "outside", "nothing is extracted")
def tar_that_climbs(folder: Path) -> Path:
    """A file two folders up."""
    return with_members(folder, [member(f"s/../../../{marker(folder).name}", b"x")])


@case(CorruptSaveError, "outside", "the first member is the root of all others")
def tar_without_a_root(folder: Path) -> Path:
    """The files lie at the top."""
    return archive(folder / "s.tar.gz", [member(info.name.removeprefix("s/"), data) for info, data in good(folder)[1:]])


@case((CorruptSaveError, UnknownFormatError), "", "an archive holds something")
def tar_of_nothing(folder: Path) -> Path:
    """No members."""
    return archive(folder / "s.tar.gz", [])


@case((CorruptSaveError, UnknownFormatError), "", "a gzip stream holds a tar")
def gzip_of_nothing(folder: Path) -> Path:
    """An empty gzip stream."""
    (folder / "s.tar.gz").write_bytes(gzip.compress(b""))
    return folder / "s.tar.gz"


@case((CorruptSaveError, UnknownFormatError), "", "a gzip stream holds a tar")
def gzip_of_a_text(folder: Path) -> Path:
    """A gzip stream of something else."""
    (folder / "s.tar.gz").write_bytes(gzip.compress(b"hello\n" * 1000))
    return folder / "s.tar.gz"


@case((CorruptSaveError, UnknownFormatError), "", "a gzip stream holds a tar")
def gzip_of_a_pickle(folder: Path) -> Path:
    """A pickle that was only compressed."""
    (folder / "s.pkl.gz").write_bytes(gzip.compress(b"\x80\x02}."))
    return folder / "s.pkl.gz"


@case((CorruptSaveError, UnknownFormatError), "", "the magic number alone is no archive")
def gzip_magic_alone(folder: Path) -> Path:
    """Two bytes."""
    (folder / "s.tar.gz").write_bytes(b"\x1f\x8b")
    return folder / "s.tar.gz"


def packed(folder: Path) -> tuple[Path, bytearray]:
    """Return a good archive and its bytes."""
    path = holder_tar(folder)
    return path, bytearray(path.read_bytes())


@case(CorruptSaveError, "intact|damaged|cut", "gzip's own end is read")
def tar_truncated(folder: Path) -> Path:
    """The last third is missing."""
    path, data = packed(folder)
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


@case(CorruptSaveError, "intact|damaged|cut", "gzip's own end is read")
def tar_without_its_trailer(folder: Path) -> Path:
    """Only checksum and size are missing."""
    path, data = packed(folder)
    path.write_bytes(data[:-8])
    return path


@case(CorruptSaveError, "intact|damaged|CRC", "gzip's checksum is compared")
def tar_of_a_wrong_checksum(folder: Path) -> Path:
    """One bit of the checksum."""
    path, data = packed(folder)
    data[-8] ^= 1
    path.write_bytes(data)
    return path


@case(CorruptSaveError, "intact|damaged|length", "gzip's size is compared")
def tar_of_a_wrong_size(folder: Path) -> Path:
    """One bit of the size."""
    path, data = packed(folder)
    data[-1] ^= 1
    path.write_bytes(data)
    return path


@case(CorruptSaveError, "", "after the archive there is nothing")
def tar_with_garbage(folder: Path) -> Path:
    """A text after the end."""
    path, data = packed(folder)
    path.write_bytes(data + b"garbage")
    return path


@case(CorruptSaveError, "", "after the archive there is nothing")
def tar_with_a_second_stream(folder: Path) -> Path:
    """Another archive after the end."""
    path, data = packed(folder)
    path.write_bytes(data + gzip.compress(b"more"))
    return path


@case(CorruptSaveError, "", "a member is as long as it says")
def tar_of_a_huge_size(folder: Path) -> Path:
    """A size of 1 MiB and no content."""
    info = tarfile.TarInfo("s/state.pt")
    info.size = 1 << 20
    return raw_archive(folder, [root(), info.tobuf(tarfile.GNU_FORMAT)])


def raw_archive(folder: Path, blocks: list[bytes]) -> Path:
    """Write an archive of raw blocks."""
    (folder / "s.tar.gz").write_bytes(gzip.compress(b"".join(blocks) + bytes(1024), 1))
    return folder / "s.tar.gz"


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = kind, len(records)
    return info.tobuf() + records + bytes(-len(records) % 512)


def root() -> bytes:
    """Return the header of the root folder."""
    info = tarfile.TarInfo("s")
    info.type = tarfile.DIRTYPE
    return info.tobuf()


PAX = {
    "huge_size": b"30 size=99999999999999999999\n",
    "no_number": b"12 size=abc\n",
    "no_length": b"nonsense",
    "path": b"21 path=../../evil\n",
    "sparse": b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
    "charset": b"21 hdrcharset=BINARY\n",
}
for kind, records in PAX.items():
    add(
        Case(
            f"pax_{kind}",
            lambda folder, records=records: raw_archive(  # type: ignore[misc]
                folder, [root(), pax(records), tarfile.TarInfo("s/config.yaml").tobuf()]
            ),
            (CorruptSaveError, UnknownFormatError),
            "",
            "extended headers are read within limits",
        )
    )


def zeros(blocks: int, head: bytes) -> bytes:
    """Return gzip of a head and many megabytes of zeros, in a moment; its checksum is not reached."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    begin = squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return begin + block * blocks + squeeze.flush()


FREE = 8 << 20  # bytes that an archive here may unpack to, beside 100 times its own size: 256 MiB take seconds
MEGABYTES = 12
SIZE = MEGABYTES << 20


def bomb(folder: Path, head: bytes) -> Path:
    """Write an archive that unpacks to a little more than the limits allow."""
    (folder / "s.tar.gz").write_bytes(zeros(MEGABYTES, head))
    return folder / "s.tar.gz"


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a member's header."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@case(LimitError, "", "what is unpacked is counted against what is packed", state=False)
def gzip_bomb_in_a_state(folder: Path) -> Path:
    """A state of 12 MiB of zeros."""
    return bomb(folder, root() + header("s/state.pt", SIZE))


@case(CorruptSaveError, "too many for its kind", "a text is no larger than texts are", state=False)
def text_past_its_limit(folder: Path) -> Path:
    """A config of one byte more than 64 MiB."""
    rest = [(info, data) for info, data in good(folder) if info.name not in ("s/config.yaml", "s/manifest.json")]
    return archive(folder / "s.tar.gz", [*rest, member("s/config.yaml", b" " * ((64 << 20) + 1))])


@case(LimitError, "", "extended headers are read within limits", state=False)
def gzip_bomb_in_a_pax_header(folder: Path) -> Path:
    """A pax header of 12 MiB of zeros."""
    return bomb(folder, root() + header("././@PaxHeader", SIZE, b"x"))


@case(LimitError, "", "extended headers are read within limits", state=False)
def gzip_bomb_in_a_global_header(folder: Path) -> Path:
    """A pax header for all members, of 12 MiB of zeros."""
    return bomb(folder, root() + header("././@PaxHeader", SIZE, b"g"))


@case(LimitError, "", "long names are read within limits", state=False)
def gzip_bomb_in_a_long_name(folder: Path) -> Path:
    """A name of 12 MiB of zeros."""
    return bomb(folder, root() + header("././@LongLink", SIZE, b"L"))


@case(LimitError, "", "what follows the last member is counted too", state=False)
def gzip_bomb_after_the_end(folder: Path) -> Path:
    """Zeros after the archive's end."""
    return bomb(folder, gzip.decompress(holder_tar(folder).read_bytes()))


@case((LimitError, UnknownFormatError), "", "an archive begins with a member", state=False)
def gzip_bomb_of_zeros(folder: Path) -> Path:
    """Nothing but zeros."""
    return bomb(folder, b"")


@case((CorruptSaveError, LoadError), "", "an archive holds a save, and no other archive")
def an_archive_in_an_archive(folder: Path) -> Path:
    """A .tar.gz inside a .tar.gz."""
    inner = holder_tar(folder).read_bytes()
    return archive(folder / "t.tar.gz", [member("t", inner)])


# ------------------------------------------------------------------------------------------------ members that lie

CONTENT = bytes(range(256)) * (1 << 12)  # 1 MiB, which gets members of its own


def with_content(folder: Path) -> list[Part]:
    """Return the members of a good archive with a large file in it: headers, content, the rest."""
    path, saved = folder / "s.tar.gz", holder(folder)
    files = {str(file.relative_to(saved)): file.read_bytes() for file in sorted(saved.rglob("*")) if file.is_file()}
    with TarStore(path, "w") as store:
        for name, data in {"README.md": CONTENT, **files}.items():
            with store.writer(name, len(data)) as writer:
                writer.write(data)
    return parts_of(path)


HIDDEN = Part(0, header("s/config.yaml", 0)).bytes()
MEMBER_LIES = {
    "told_too_large": ({"told": 512}, "a member unpacks to the size that it tells"),
    "told_too_small": ({"told": -512}, "a member unpacks to the size that it tells"),
    "told_negative": ({"told": -(1 << 21)}, "a member unpacks to the size that it tells"),
    "told_huge": ({"told": 0xFFFF0000}, "sizes that members tell are no reason to allocate"),
    "hides_a_member": ({"more": HIDDEN, "packed": len(HIDDEN)}, "a member is one gzip stream, and no more"),
    "wrong_checksum": ({"checksum": 1}, "what is unpacked is compared with the checksum"),
}
for kind, (lie, rule) in MEMBER_LIES.items():
    for index, what in enumerate(["headers", "content"]):
        add(
            Case(
                f"gzip_member_of_{what}_{kind}",
                lambda folder, index=index, lie=lie: archive_of(  # type: ignore[misc]
                    folder / "s.tar.gz",
                    [
                        part._replace(**lie) if place == index else part
                        for place, part in enumerate(with_content(folder))
                    ],
                ),
                (CorruptSaveError,),
                "intact|after the archive's end|twice",
                rule,
            )
        )


@case(CorruptSaveError, "outside|twice", "members marked as content are not believed to be")
def gzip_member_of_content_with_headers(folder: Path) -> Path:
    """A second config, in what says that it is content."""
    first, content, *rest = with_content(folder)
    more = header("s/config.yaml", 0) + header("s/config.yaml", 0)
    return archive_of(folder / "s.tar.gz", [first, content, Part(1, more), *rest])


@case(LimitError, "unpacks to more", "what members tell is counted against what is packed", state=False)
def gzip_bomb_by_members(folder: Path) -> Path:
    """24 MiB of zeros in members that tell the truth."""
    zero = Part(1, bytes(4 << 20)).bytes() * 6
    first = Part(0, root() + header("s/state.pt", 24 << 20)).bytes()
    (folder / "s.tar.gz").write_bytes(first + zero + Part(0, bytes(1024)).bytes())
    return folder / "s.tar.gz"


@case(CorruptSaveError, "as long as it says", "no more is unpacked than a member tells", state=False)
def gzip_bomb_in_a_member(folder: Path) -> Path:
    """2 MiB of zeros in one member that tells of 1 MiB."""
    first, _, *rest = with_content(folder)
    bomb = zeros(2, b"")[10:-8]  # of another trailer and header
    begin = HEADER.pack(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff", 13, b"FS", 9, 1, HEADER.size + len(bomb) + 8, 1 << 20)
    end = struct.pack("<II", 0, 1 << 20)
    data = first.bytes() + begin + bomb + end + b"".join(part.bytes() for part in rest)
    (folder / "s.tar.gz").write_bytes(data)
    return folder / "s.tar.gz"


@case(CorruptSaveError, "as long as it says", "what a load passes over is unpacked all the same", state=False)
def gzip_members_that_overlap(folder: Path) -> Path:
    """Content that ends early, by what its member tells; what lies behind is other files, or still content."""
    first, content, *rest = with_content(folder)
    other = b"".join(part.bytes() for part in rest)
    size = len(content.data)
    inside = struct.pack("<II", zlib.crc32(content.data), size) + other  # told: the content's end, and all the rest
    stored = bytes(100) + inside
    begin = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff"
    block = struct.pack("<BHH", 1, len(stored), len(stored) ^ 0xFFFF) + stored
    head = HEADER.pack(begin, 13, b"FS", 9, 1, HEADER.size + 5 + 100 + 8, size)
    (folder / "s.tar.gz").write_bytes(first.bytes() + head + block)
    return folder / "s.tar.gz"

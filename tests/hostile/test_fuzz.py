"""Damage by chance: whatever is done to a save, a load gives the object or one of this package's errors.

``FLAMBE_SAVE_TORTURE=1`` runs 60,000 cases and a bit of each byte of small saves; by default it runs 1,200.
"""

from __future__ import annotations

import datetime
import functools
import gzip
import io
import mmap
import os
import pickletools
import random
import shutil
import signal
import struct
import tempfile
import traceback
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import textnet
import torch
from casebook import Holder, Outer, call, legacy, listed, marker, named, number, text, torch_zip, zip_of
from helpers.places import TORTURE
from helpers.saves import files_of
from sandbox import in_child, limit, peak

import flambe_save
from flambe_save import FlambeSaveError, load, load_state_from_file, save

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forked processes")

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = round(60_000 * TORTURE) or 1_200
SECONDS = 5.0
MEMORY = 2 << 30
GROWTH = 1 << 30
assert textnet  # the golden save's classes

Files = dict[str, bytes]  # of a folder; a single file has the name ""
Random = random.Random

# ------------------------------------------------------------------------------------------------ what is damaged


def everything() -> Outer:
    """Return a small object with nearly all kinds of data in it."""
    kinds = (torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn)
    values = OrderedDict((str(kind), torch.ones(2).to(kind)) for kind in kinds)
    values.update(
        sparse=torch.eye(2).to_sparse(),
        numpy=np.arange(3.0),
        fields=np.zeros(2, [("a", "<i4"), ("b", "S3")]),
        day=np.datetime64("2020-01-01"),
        time=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
        path=Path("a/b"),
        items={1, 2, ("a", 3.5)},
        frozen=frozenset([b"x", None, True]),
        size=torch.Size([1, 2]),
        nested=[{"a": (1, [2, {3: 4j}])}, bytearray(b"abc"), torch.float16, torch.device("cpu"), 1 << 70],
    )
    thing = Outer(Holder(values))
    thing.inner.value["tied"] = thing.lin.weight.detach()
    return thing


@functools.cache
def corpus() -> dict[str, Files]:
    """Return valid saves of all shapes, by the suffix of their path."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    thing = everything()
    paths = {
        "": save(thing, folder / "a"),
        ".tar.gz": save(thing, folder / "b", compress=True),
        ".pkl": save(thing, folder / "c", pickle_only=True),
        ".pkl.tar.gz": save(thing, folder / "d", compress=True, pickle_only=True),
        "-golden": str(GOLDEN / "flambe_0_4" / "stashed"),
        "-golden.pkl": str(GOLDEN / "flambe_0_4" / "classifier_pkl.pkl"),
        "-linked": str(GOLDEN / "flambe_0_4" / "linked"),
    }
    found = {suffix: files_of(Path(path)) for suffix, path in paths.items()}
    shutil.rmtree(folder)
    return found


def write(files: Files, path: Path) -> None:
    """Write the files of a save."""
    for name, data in files.items():
        target = path / name if name else path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


# ------------------------------------------------------------------------------------------------ bytes

NUMBERS = [struct.pack(kind, value) for kind, value in (("<I", 0), ("<I", 0xFFFFFFFF), ("<Q", 1 << 40), ("<i", -1))]


def mutate_bytes(data: bytes, rng: Random, other: bytes = b"") -> bytes:
    """Flip, cut, splice, double, zero or insert something."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        length = rng.choice((1, 2, 4, 8, 64, 512))
        way = rng.randrange(9)
        if way == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif way == 2:
            del out[at : at + length]
        elif way == 3:
            del out[at:]
        elif way == 4:
            out[at:at] = out[at : at + length]
        elif way == 5:
            out[at : at + length] = bytes(len(out[at : at + length]))
        elif way == 6:
            out[at:at] = rng.randbytes(length)
        elif way == 7:
            source = other or bytes(out)
            start = rng.randrange(len(source) + 1)
            out[at : at + rng.choice((0, length))] = source[start : start + length]
        else:
            chosen = rng.choice(NUMBERS)
            out[at : at + len(chosen)] = chosen
    return bytes(out)


# ------------------------------------------------------------------------------------------------ pickles


def opcodes(data: bytes) -> list[bytes]:
    """Cut a pickle into its opcodes."""
    starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


@functools.cache
def pieces() -> list[bytes]:
    """Return opcodes worth putting anywhere."""
    from flambe_save.codecs.safe_globals import _GLOBALS

    names = [named(*name.rpartition(".")[::2]) for name in _GLOBALS]
    plain = [op.code.encode("latin1") for op in pickletools.opcodes if op.arg is None]
    values = [number(value) for value in (0, 1, -1, 2, 255, 1 << 31, 1 << 40, -(1 << 63), 1 << 70)]
    texts = [text(value) for value in ("", "0", "storage", "cpu", "lin.weight", "_metadata", "<", "f4", "\x00")]
    evil = call("casebook", "touched", text("MARKER"))
    memo = [b"h" + bytes([index]) for index in range(6)] + [b"q" + bytes([index]) for index in range(6)]
    more = [b"(tR", b")R", b"}b", b"(lR", b"\x85R", b"\x86R", b"\x87R", b")\x81", b"}\x92", b"Q", b"}(", b"]("]
    kept = [piece for name in (".pkl", "-golden.pkl") for piece in opcodes(corpus()[name][""])[:400]]
    return [*names, *plain, *values, *texts, evil, *memo, *more, *kept]


KINDS = {
    code: kind
    for kind, codes in {"number": (b"K", b"M", b"J", b"\x8a"), "text": (b"X", b"\x8c"), "name": (b"c",)}.items()
    for code in codes
}


def mutate_pickle(data: bytes, rng: Random) -> bytes:
    """Change a pickle by its opcodes."""
    try:
        found = opcodes(data)
    except Exception:
        return mutate_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(1, max(2, len(found)))
        way = rng.randrange(14)
        if way >= 8:  # something of the same kind, so that the stack stays as it was
            at = rng.choice([index for index, item in enumerate(found) if item[:1] in KINDS] or [0])
            alike = [item for item in pieces() if KINDS.get(item[:1], "none") == KINDS.get(found[at][:1])]
            found[at] = rng.choice(alike or [b"N"])
        elif way == 0:
            del found[at : at + rng.choice((1, 1, 3))]
        elif way == 1:
            found[at:at] = found[at : at + rng.choice((1, 4, 20))] * rng.choice((1, 2, 50))
        elif way == 2:
            found.insert(at, rng.choice(pieces()))
        elif way == 3 and at < len(found):
            found[at] = rng.choice(pieces())
        elif way == 4 and at < len(found):
            other = rng.randrange(1, len(found))
            found[at], found[other] = found[other], found[at]
        elif way == 5 and at < len(found):
            found[at] = mutate_bytes(found[at], rng)
        elif way == 6 and at < len(found):
            others = [item for item in found if item[:1] == found[at][:1]]
            found[at] = rng.choice(others)
        else:
            found[at:at] = [rng.choice(pieces()) for _ in range(rng.choice((2, 5)))]
    if rng.random() < 0.9 and not any(item == b"." for item in found[-1:]):
        found.append(b".")
    return b"".join(found)


def mutate_zip(data: bytes, rng: Random) -> bytes:
    """Change what is in a torch file, with checksums that fit; or the zip around it."""
    way = rng.randrange(10)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            records = [(info.filename, file.read(info)) for info in file.infolist()]
    except Exception:
        return mutate_bytes(data, rng)
    if way == 0:
        return mutate_bytes(data, rng)
    if way == 1:
        records.insert(rng.randrange(len(records) + 1), rng.choice(records))
    elif way == 2:
        records.pop(rng.randrange(len(records)))
    elif way == 3:
        index = rng.randrange(len(records))
        records[index] = (mutate_bytes(records[index][0].encode(), rng).decode("latin1"), records[index][1])
    elif way == 4:
        index = rng.randrange(len(records))
        records[index] = (records[index][0], mutate_bytes(records[index][1], rng))
    elif way == 5:
        inner = next((found for name, found in records if name.endswith("data.pkl")), b"\x80\x02}.")
        return legacy(mutate_pickle(inner, rng)) if rng.random() < 0.7 else mutate_pickle(inner, rng)
    else:
        records = [(name, mutate_pickle(found, rng) if name.endswith("data.pkl") else found) for name, found in records]
    try:
        return zip_of(records)
    except Exception:
        return torch_zip(mutate_pickle(b"\x80\x02}.", rng))


# ------------------------------------------------------------------------------------------------ texts

WORDS = (
    "!casebook.Holder {}", "!casebook.Outer", "!torch.Linear {in_features: 2, out_features: 2}", "!@ inner",
    "!@ inner.value",
    "!@ 'a[b].c'", "!call inner.run", "!$ '0'", "!tuple", "!set", "!type torch.ReLU", "!range [0, 3, 1]", "!odict",
    "&a ", "*a", "{", "}", "[", "]", ": ", "- ", "---\n", "...\n", "\n", "  ", "? ", "| ", "> ", "# ", "'", '"', "\t",
    "null", "1e400", "-0", ".nan", "0x", "9" * 500, "2020-13-01", "!!python/object:casebook.Trap {}", "!!binary 'a'",
    "%YAML 9.9\n", "<<: *a", "a: &a [*a]", "\u2028", "\x85", "\ufeff", "value:", "inner:", "!complex x", "!slice [1]",
    "!torch.dtype float32", "!torch.Sequential {args: [1]}", "!torch.LSTM {input_size: 1, hidden_size: 1}", "!path x",
    "evil: evil\n", "!casebook.Holder.load_from_path {path: x}", "!frozenset", "size: 3", "torch.", "!torch.device cpu",
)  # fmt: skip


def mutate_text(data: bytes, rng: Random) -> bytes:
    """Change a config by its words."""
    out = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        way = rng.randrange(6)
        if way <= 1:
            out = out[:at] + rng.choice(WORDS) + out[at:]
        elif way == 2:
            out = out[:at] + rng.choice(WORDS) + out[at + rng.choice((1, 5, 20)) :]
        elif way == 3:
            lines = out.splitlines(keepends=True) or [""]
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines) * rng.choice((1, 2, 30)))
            out = "".join(lines)
        elif way == 4:
            lines = out.splitlines(keepends=True) or [""]
            lines.pop(rng.randrange(len(lines)))
            out = "".join(lines)
        else:
            out = mutate_bytes(out.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    return out.encode("utf-8", "replace")


STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    1 << 70,
    "",
    "../x",
    [],
    {},
    ["lin.weight", "lin.bias"],
    "lin.weight",
    "inner",
)


def mutate_json(value: Any, rng: Random) -> Any:
    """Change something inside JSON."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        way = rng.randrange(8)
        if way == 0:
            value.pop(key)
        elif way == 1:
            value[rng.choice(("x", "", "../x", "inner", "state.pt"))] = value[key]
        else:
            value[key] = mutate_json(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.8:
        index = rng.randrange(len(value))
        value[index] = mutate_json(value[index], rng)
        return value
    return rng.choice(STRANGE)


# ------------------------------------------------------------------------------------------------ saves


def mutate_file(name: str, data: bytes, rng: Random) -> bytes:
    """Change a file by what it is."""
    if name.endswith(("state.pt", "stash.pkl")):
        return mutate_zip(data, rng) if data[:2] == b"PK" else mutate_pickle(data, rng)
    if name.endswith("config.yaml"):
        return mutate_text(data, rng)
    return mutate_bytes(data, rng)


def mutate_names(files: Files, rng: Random) -> None:
    """Rename, remove, copy or swap files and folders."""
    name = rng.choice(list(files))
    way = rng.randrange(5)
    if way == 0:
        files.pop(name)
    elif way == 1:
        files[mutate_bytes(name.encode(), rng).decode("latin1").replace("\0", "_").strip("/.") or "x"] = files.pop(name)
    elif way == 2:
        other = rng.choice(list(files))
        files[name], files[other] = files[other], files[name]
    else:
        folder = name.rpartition("/")[0]
        inside = [item for item in files if item.startswith(f"{folder}/")] if folder else list(files)
        into = rng.choice(("inner", "inner.inner", "inner/b", "x", "%2E", "INNER", "lin", "a.b.c", "%", "encoder"))
        for item in inside:
            target = f"{into}/{item[len(folder) + 1 :] if folder else item}"
            files[target] = files[item] if way == 3 else files.pop(item)


def without_trailer(data: bytes) -> bytes:
    """Return a pickle alone, without what a save writes after it."""
    return b"".join(opcodes(data)) if data[:1] != b"\x80" else data[: _end(data)]


def _end(data: bytes) -> int:
    stream = io.BytesIO(data)
    for _ in pickletools.genops(stream):
        pass
    return stream.tell()


def mutate(suffix: str, rng: Random, folder: Path) -> tuple[Path, bool]:
    """Write a damaged save; say whether its checksums still stand for what it was."""
    files = dict(corpus()[suffix])
    path = folder / f"s{suffix}"
    checked = rng.random() < 0.2 and "golden" not in suffix and "linked" not in suffix
    if "" not in files:
        return path, _mutate_folder(files, rng, path, checked)
    data = files[""]
    others = rng.choice(list(corpus().values()))
    if checked:
        data = mutate_bytes(data, rng, next(iter(others.values())))
    elif suffix.endswith(".gz"):
        data = gzip.compress(_mutate_tar(gzip.decompress(data), rng), 1)
    else:
        data = mutate_pickle(without_trailer(data), rng)
    path.write_bytes(data)
    return path, checked


def _mutate_folder(files: Files, rng: Random, path: Path, checked: bool) -> bool:
    names = [name for name in files if name not in ("requirements.txt", "manifest.json")]
    if checked:
        name = rng.choice([*names, *(["manifest.json"] if "manifest.json" in files else [])])
        files[name] = mutate_bytes(files[name], rng, files[rng.choice(names)])
        write(files, path)
        return True
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.1:
            mutate_names(files, rng)
            continue
        weighted = [name for name in files for _ in range(4 if name.endswith((".pt", ".yaml", ".pkl")) else 1)]
        name = rng.choice(weighted or ["x"])
        files[name] = mutate_file(name, files.get(name, b""), rng)
    had = files.pop("manifest.json", None)
    try:
        write(files, path)
    except OSError:  # a file where a folder should be
        pass
    if had is not None and rng.random() < 0.5:
        path.mkdir(exist_ok=True)
        (path / "manifest.json").write_bytes(had)
        try:
            listed(path, (lambda found: mutate_json(found, rng)) if rng.random() < 0.4 else None)
        except (ValueError, TypeError, AttributeError, KeyError):
            pass
    return False


def _mutate_tar(data: bytes, rng: Random) -> bytes:
    """Change a tar's blocks, or what is in a header, with the header's sum made to fit; or a file inside."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    heads = [index for index, block in enumerate(blocks) if block[257:262] == b"ustar"]
    way = rng.randrange(4)
    if way == 0:
        return mutate_bytes(data, rng)
    if way == 1:
        chosen = [blocks[rng.choice(heads)] for _ in range(2)]
        blocks.insert(rng.choice(heads), chosen[0])
        if rng.random() < 0.5:
            blocks.remove(chosen[1])
        return b"".join(blocks)
    block = blocks[rng.choice(heads)]
    if way == 2:
        start, length = rng.choice(((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
        block[start : start + length] = mutate_bytes(bytes(block[start : start + length]), rng)[:length].ljust(
            length, b"\0"
        )
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
        return b"".join(blocks)
    index = rng.choice(heads)
    size = int(blocks[index][124:135].strip(b"\0 ") or b"0", 8)
    body = b"".join(blocks[index + 1 : index + 1 + -(-size // 512)])[:size]
    name = bytes(blocks[index][:100]).rstrip(b"\0").decode("latin1")
    if name.endswith(".pkl") and body[:1] == b"\x80":
        changed = mutate_pickle(without_trailer(body), rng)
    else:
        changed = mutate_file(name, body, rng)
    head = bytearray(blocks[index])
    head[124:136] = b"%011o\0" % len(changed)
    head[148:156] = b"%06o\0 " % (sum(head[:148]) + 8 * 32 + sum(head[156:]))
    rest = b"".join(blocks[index + 1 + -(-size // 512) :])
    return b"".join(blocks[:index]) + bytes(head) + changed + bytes(-len(changed) % 512) + rest


# ------------------------------------------------------------------------------------------------ runs


def plain(value: Any) -> Any:
    """Return a value as something that compares."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), repr(value.tolist()) if not value.is_sparse else repr(value)
    if isinstance(value, dict):
        return [(repr(key), plain(item)) for key, item in value.items()]
    return repr(value)


def facts(path: Path) -> Any:
    """Return all that a load finds."""
    return plain(load_state_from_file(path))


@functools.cache
def truth(suffix: str) -> Any:
    """Return what the undamaged save holds."""
    with tempfile.TemporaryDirectory() as folder:
        write(corpus()[suffix], Path(folder) / f"s{suffix}")
        return facts(Path(folder) / f"s{suffix}")


def one(seed: int, folder: Path) -> str | None:
    """Run one case; return what is wrong with it, or None."""
    rng = Random(seed)
    suffix = rng.choice(list(corpus()))
    path, checked = mutate(suffix, rng, folder)
    before = peak()
    limit(SECONDS, MEMORY)
    problem = None
    try:
        for function in (load, load_state_from_file):
            try:
                result = function(path)
                if checked and function is load_state_from_file and plain(result) != truth(suffix):
                    problem = "it was loaded, and is not what was saved"
            except FlambeSaveError as error:
                str(error)
            except BaseException:
                problem = traceback.format_exc(limit=-4)
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if peak() - before > GROWTH:
        problem = f"it took {(peak() - before) >> 20} MiB"
    if (folder / "MARKER").exists() or marker(folder).exists():
        problem = "a payload ran"
    return problem


def work(seeds: range, folder: Path, counter: mmap.mmap) -> list[tuple[int, str]]:
    """Run cases one after the other, in a forked process."""
    problems = []
    os.chdir(folder)
    warnings.simplefilter("ignore")
    for seed in seeds:
        counter[:8] = struct.pack("<Q", seed)
        inside = folder / str(seed)
        inside.mkdir()
        os.chdir(inside)
        problem = one(seed, inside)
        if problem is not None:
            problems.append((seed, problem))
        os.chdir(folder)
        shutil.rmtree(inside, ignore_errors=True)
        if len(problems) > 20:
            break
    return problems


def run(seeds: range, folder: Path) -> list[tuple[int, str]]:
    """Run cases; a worker that dies is noted, and another one goes on after its case."""
    for suffix in corpus():
        truth(suffix)
        pieces()
    problems: list[tuple[int, str]] = []
    while len(seeds) and len(problems) <= 20:
        counter = mmap.mmap(-1, 8)
        batch = seeds[:500]
        try:
            problems += in_child(lambda batch=batch, counter=counter: work(batch, folder, counter), 3600)  # type: ignore[misc]
            seeds = seeds[500:]
        except AssertionError as error:
            at = struct.unpack("<Q", counter[:8])[0]
            problems.append((at, str(error)[-2000:]))
            seeds = range(at + 1, seeds.stop)
            shutil.rmtree(folder / str(at), ignore_errors=True)
    return problems


PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_damage_by_chance(part: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged save loads, or is refused by an error of this package: no other error, no hang, no payload."""
    begin = int(os.environ.get("FLAMBE_SAVE_SEED", "0")) + part * (CASES // PARTS)
    problems = run(range(begin, begin + CASES // PARTS), tmp_path)
    if TORTURE:
        with capsys.disabled():
            print(f"\n{CASES // PARTS} damaged saves from seed {begin}: {len(problems)} problems")
    shown = "\n\n".join(f"seed {seed}: {problem}" for seed, problem in problems[:20])
    assert not problems, f"{len(problems)} problems\n{shown}"


def flips(data: bytes, rng: Random) -> Iterator[tuple[int, bytes]]:
    """Yield copies with one bit changed: one of each byte, or of some where time is short."""
    step = 1 if TORTURE else max(1, len(data) // 150)
    for at in range(rng.randrange(step), len(data), step):
        yield at, data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


class Tiny(flambe_save.Component):
    """As little as a save can hold."""

    def __init__(self) -> None:
        self.value = torch.arange(3)
        self.register_attrs("value")


@pytest.mark.parametrize("suffix", ["", ".pkl", ".tar.gz", ".pkl.tar.gz"])
def test_a_flipped_bit_is_found(suffix: str, tmp_path: Path) -> None:
    """Any bit of a save that is flipped is found, or it changes nothing of what is loaded."""
    options = {"compress": suffix.endswith(".gz"), "pickle_only": ".pkl" in suffix}
    path = Path(save(Tiny(), tmp_path / "s", **options))
    files, whole = files_of(path), facts(path)
    rng = Random(1)

    def missed() -> list[str]:
        warnings.simplefilter("ignore")
        limit(600, 4 << 30)
        found = []
        for name, data in files.items():
            if name == "requirements.txt":  # it is for people; verify() compares it
                continue
            target = path / name if name else path
            for at, changed in flips(data, rng):
                target.write_bytes(changed)
                try:
                    same = facts(path) == whole and suffix.endswith(".gz")
                    # gzip's own time and system, and bits that it skips
                    if not (same and gzip.decompress(changed) == gzip.decompress(data)):
                        found.append(f"{name}:{at}: {data[max(0, at - 20) : at + 20]!r}")
                except FlambeSaveError:
                    pass
            target.write_bytes(data)
        return found

    assert in_child(missed, 900) == []

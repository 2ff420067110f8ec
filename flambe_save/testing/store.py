"""StoreContract: inherit it in a ``Test...`` class; say how to open it to write and read."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from flambe_save.errors import LoadError
from flambe_save.layout import CONFIG_FILE, PROTOCOL_FILE, STATE_FILE
from flambe_save.storage import Store


class StoreContract(abc.ABC):
    """Rules of every Store, of any kind.

    Attributes
    ----------
    files : mapping of str to bytes
        Names and bytes that the store is tried with. A store of single files has ``{"": ...}``.
    """

    files: ClassVar[Mapping[str, bytes]] = {
        STATE_FILE: bytes(range(256)) * 5000,
        PROTOCOL_FILE: b"1",
        CONFIG_FILE: b"",
        f"head/{STATE_FILE}": b"\x00" * 1000,
        f"encoder/{STATE_FILE}": b"a",
        f"encoder/rnn.0/{STATE_FILE}": b"\r\n",
        "encoder/%CE%B1 \u03b2/config.yaml": "\u03b3".encode(),
    }

    @abc.abstractmethod
    def make_writer(self, path: str | os.PathLike[str]) -> Store:
        """Return a store that writes to ``path`` and replaces a save that is there."""

    @abc.abstractmethod
    def make_reader(self, path: str | os.PathLike[str]) -> Store:
        """Return a store that reads what is at ``path``."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str | os.PathLike[str]:
        """Return where the store of a test shall be; nothing is there yet."""
        return tmp_path / "save"

    def write(self, path: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
        """Write and commit some files."""
        with self.make_writer(path) as store:
            _fill(store, files)

    def seen(self, path: str | os.PathLike[str]) -> dict[str, bytes]:
        """Return the content that a reader finds at ``path``; nothing where it accepts none."""
        try:
            with self.make_reader(path) as store:
                return {name: _read(store, name) for name in store.names()}
        except (LoadError, OSError, KeyError):
            return {}

    def test_what_is_written_is_read(self, path: str | os.PathLike[str]) -> None:
        """Every name gives the bytes that were written to it."""
        self.write(path, self.files)
        assert self.seen(path) == dict(self.files)

    def test_names_are_sorted(self, path: str | os.PathLike[str]) -> None:
        """The order of writing does not show."""
        self.write(path, {name: self.files[name] for name in sorted(self.files, reverse=True)})
        with self.make_reader(path) as store:
            assert store.names() == sorted(self.files)

    def test_bytes_may_come_in_pieces(self, path: str | os.PathLike[str]) -> None:
        """A writer takes bytes piece by piece, and buffers other than bytes."""
        with self.make_writer(path) as store:
            for name, data in self.files.items():
                with store.writer(name) as file:
                    file.write(memoryview(data)[:100])
                    file.write(bytearray(data[100:]))
        assert self.seen(path) == dict(self.files)

    def test_sizes_may_be_told(self, path: str | os.PathLike[str]) -> None:
        """Writers that know the size in advance give the same; a written buffer may then change."""
        with self.make_writer(path) as store:
            for name, data in self.files.items():
                with store.writer(name, len(data)) as file:
                    for begin in range(0, len(data), 100_000):
                        lent = bytearray(data[begin : begin + 100_000])
                        assert file.write(memoryview(lent)) == len(lent)
                        lent[:] = bytes(len(lent))
        assert self.seen(path) == dict(self.files)

    def test_a_buffer_outlives_its_reader(self, path: str | os.PathLike[str]) -> None:
        """A reader's ``getbuffer``, if it has one, is writable, stays, and is the caller's alone."""
        self.write(path, self.files)
        name = max(self.files, key=lambda item: len(self.files[item]))
        with self.make_reader(path) as store:
            with store.reader(name) as file:
                if not hasattr(file, "getbuffer"):
                    pytest.skip("its readers have no getbuffer")
                buffer = file.getbuffer()
                assert file.readinto(bytearray(1)) <= 1  # type: ignore[attr-defined]
            assert buffer == self.files[name]
            buffer[:3] = b"new"
            assert _read(store, name) == self.files[name]
        assert buffer[:3] == b"new"

    def test_readers_can_seek(self, path: str | os.PathLike[str]) -> None:
        """A reader knows its size and seeks back, as codecs need; two readers do not interfere."""
        self.write(path, self.files)
        name = max(self.files, key=lambda item: len(self.files[item]))
        with self.make_reader(path) as store, store.reader(name) as one, store.reader(name) as other:
            assert one.seek(0, os.SEEK_END) == len(self.files[name])
            assert other.read(10) == self.files[name][:10]
            one.seek(5)
            assert one.read() == self.files[name][5:]

    def test_unknown_name_is_a_key_error(self, path: str | os.PathLike[str]) -> None:
        """A name that is not there is a KeyError, as in a mapping."""
        self.write(path, self.files)
        with self.make_reader(path) as store, pytest.raises(KeyError, match="no-such-name"):
            store.reader("no-such-name")

    def test_nothing_is_seen_before_the_commit(self, path: str | os.PathLike[str]) -> None:
        """Until its ``with`` is left, a reader sees nothing; then it sees all."""
        with self.make_writer(path) as store:
            for name, data in self.files.items():
                _fill(store, {name: data})
                assert self.seen(path) == {}
        assert self.seen(path) == dict(self.files)

    def test_an_exception_leaves_nothing(self, path: str | os.PathLike[str]) -> None:
        """A failed writer leaves nothing that a reader accepts, and its error comes out unchanged."""
        with pytest.raises(ZeroDivisionError, match="on purpose"), self.make_writer(path) as store:  # noqa: PT012
            _fill(store, self.files)
            raise ZeroDivisionError("on purpose")
        assert self.seen(path) == {}

    def test_an_exception_keeps_the_old_save(self, path: str | os.PathLike[str]) -> None:
        """A writer that fails leaves the save that was there, whole."""
        self.write(path, self.files)
        with pytest.raises(ZeroDivisionError, match="on purpose"), self.make_writer(path) as store:  # noqa: PT012
            _fill(store, dict.fromkeys(self.files, b"new"))
            assert self.seen(path) == dict(self.files)
            raise ZeroDivisionError("on purpose")
        assert self.seen(path) == dict(self.files)

    def test_a_new_save_replaces_all_of_the_old(self, path: str | os.PathLike[str]) -> None:
        """After a second save only its own names are there."""
        self.write(path, self.files)
        new = {name: b"new" for name in self.files if "/" not in name}
        self.write(path, new)
        assert self.seen(path) == new

    def test_a_failed_save_can_be_made_again(self, path: str | os.PathLike[str]) -> None:
        """Remains of a failed writer, if any, do not stop the next one."""
        with pytest.raises(ZeroDivisionError, match="on purpose"), self.make_writer(path) as store:  # noqa: PT012
            _fill(store, self.files)
            raise ZeroDivisionError("on purpose")
        self.write(path, self.files)
        assert self.seen(path) == dict(self.files)


def _fill(store: Store, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        with store.writer(name) as file:
            file.write(data)


def _read(store: Store, name: str) -> bytes:
    with store.reader(name) as file:
        return file.read()

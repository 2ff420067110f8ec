"""CodecContract: inherit it in a ``Test...`` class; give the codec, and values to try."""

from __future__ import annotations

import abc
import contextlib
import copy
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

from flambe_save.codecs import Codec
from flambe_save.codecs.data import same_bits
from flambe_save.errors import CorruptSaveError, LoadError, UntrustedError
from flambe_save.pt import DumpOptions, LoadOptions, MemorySource
from flambe_save.trust import Trust


class CodecContract(abc.ABC):
    """Rules of every Codec.

    Attributes
    ----------
    detects_any_damage : bool
        Whether each changed byte is noticed or harmless, as with checksums. Otherwise a wrong value may be read, but
        never a wrong kind of error raised.
    """

    detects_any_damage: ClassVar[bool] = True

    @abc.abstractmethod
    def make_codec(self) -> Codec[Any]:
        """Return the codec."""

    def make_values(self) -> Any:
        """Return values that are data; a codec of tensors alone gives others than these."""
        weight = torch.arange(12.0).reshape(3, 4)
        return OrderedDict(
            weight=weight,
            transposed=weight.t(),
            half=torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
            counter=torch.tensor(7),
            empty=torch.empty(0, 3),
            plain={"step": 10, "names": ["a", "\u03b2"], "seen": {3, 1, 2}, "rate": (0.1, None)},
        )

    def make_code(self) -> Any:
        """Return values that run code when unpickled; None if the codec can hold no such value."""
        return {"harmless": 1, "code": _Code()}

    def dump(self, values: Any) -> bytes:
        """Return values as bytes; they must count as data."""
        draft = self.make_codec().dump(values, DumpOptions())
        assert list(draft.opaque) == []
        return bytes(draft)

    def load(self, data: bytes, options: LoadOptions | None = None) -> Any:
        """Return the values in bytes."""
        return self.make_codec().load(MemorySource(bytearray(data)), options or LoadOptions())

    def test_suffix_is_one_of_a_file(self) -> None:
        """The suffix begins with a dot and goes on."""
        assert len(self.make_codec().suffix.rpartition(".")[2]) > 0
        assert self.make_codec().suffix.startswith(".")

    def test_load_is_the_inverse_of_dump(self) -> None:
        """Reading gives the values that were written, to the bit."""
        values = self.make_values()
        assert same(self.load(self.dump(values)), values)

    def test_values_are_not_changed(self) -> None:
        """Writing leaves the values as they are."""
        values = self.make_values()
        self.dump(values)
        assert same(values, self.make_values())

    def test_same_values_same_bytes(self) -> None:
        """Two writes of one object, or of an equal one, give the same bytes."""
        values = self.make_values()
        assert self.dump(values) == self.dump(values) == self.dump(self.make_values())

    def test_a_draft_knows_its_size_and_checksums(self) -> None:
        """The size is known before anything is written, and each chunk comes with its CRC-32."""
        draft = self.make_codec().dump(self.make_values(), DumpOptions())
        chunks = [(bytes(chunk), checksum) for chunk, checksum in draft.chunks()]
        assert sum(len(chunk) for chunk, _ in chunks) == draft.size
        assert all(zlib.crc32(chunk) == checksum for chunk, checksum in chunks)

    def test_a_draft_of_other_memory(self) -> None:
        """A draft over copies of the storages holds what they held when they were copied."""
        values = self.make_values()
        draft = self.make_codec().dump(values, DumpOptions())
        before = bytes(draft)
        copied = draft.with_storages(copy.deepcopy)
        for storage in draft.storages:
            torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).zero_()
        assert bytes(copied) == before
        assert bytes(draft) != before or not draft.storages

    def test_a_truncated_file_is_corrupt(self) -> None:
        """A file cut at any length is a CorruptSaveError, with the options' node and file."""
        data = self.dump(self.make_values())
        options = LoadOptions(node="encoder", file="the-file")
        for length in {0, 1, 2, 4, 10, *range(0, len(data), max(1, len(data) // 200)), len(data) - 1}:
            with pytest.raises(CorruptSaveError, match="the-file") as info:
                self.load(data[:length], options)
            assert (info.value.node, info.value.file) == ("encoder", "the-file")

    def test_a_changed_byte_is_corrupt_or_harmless(self) -> None:
        """Any changed byte is a LoadError, or harmless where ``detects_any_damage`` says so."""
        values = self.make_values()
        data = self.dump(values)
        expected = CorruptSaveError if self.detects_any_damage else LoadError
        refused = 0
        with limited_memory():
            for index in range(0, len(data), max(1, len(data) // 2000)):
                damaged = bytearray(data)
                damaged[index] ^= 1 << index % 8
                try:
                    loaded = self.load(bytes(damaged))
                except expected:
                    refused += 1
                except Exception as error:
                    pytest.fail(f"byte {index} changed: {error!r} is not an error of the package")
                else:
                    assert not self.detects_any_damage or same(loaded, values), f"byte {index} changed"
        assert refused > 0

    def test_code_is_not_run(self) -> None:
        """Values that are more than data are named at the save, and by default neither read nor run."""
        values = self.make_code()
        if values is None:
            pytest.skip("the codec holds data only")
        draft = self.make_codec().dump(values, DumpOptions())
        _Code.runs = 0
        assert len(draft.opaque) == 1
        with pytest.raises(UntrustedError, match=r"trusted=\["):
            self.load(bytes(draft))
        assert _Code.runs == 0

    def test_trusted_code_is_run(self) -> None:
        """A caller who trusts the module, or everything, gets the whole."""
        values = self.make_code()
        if values is None:
            pytest.skip("the codec holds data only")
        data = bytes(self.make_codec().dump(values, DumpOptions()))
        for trust in (Trust.of(trusted=[__name__]), Trust.of(weights_only=False)):
            loaded = self.load(data, LoadOptions(trust))
            assert loaded.keys() == values.keys()
            assert type(loaded["code"]) is type(values["code"])


class _Code:
    """Counts how often it was unpickled."""

    runs: ClassVar[int] = 0

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _make_code, ()


def _make_code() -> _Code:
    _Code.runs += 1
    return _Code()


@contextlib.contextmanager
def limited_memory(extra: int = 4 << 30) -> Iterator[None]:
    """Allow the process ``extra`` more bytes: a size made up by damage is a MemoryError here.

    Without effect where there is no ``/proc``.
    """
    if not os.path.exists("/proc/self/statm"):
        yield
        return
    import resource

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def same(one: Any, other: Any) -> bool:
    """Whether two values have equal types and bits, in containers too; NaN equals itself.

    Tensors must agree in layout, device and whether they need a gradient as well, but not in strides.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.requires_grad == other.requires_grad and same_bits(one, other)
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        return len(one) == len(other) and all(same(mine, yours) for mine, yours in pairs)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (float, complex)):
        return repr(one) == repr(other)  # exact: NaN and -0.0 differ
    if hasattr(one, "tobytes") and hasattr(one, "dtype"):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    return bool(one == other)

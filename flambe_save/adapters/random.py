"""Random generators of torch, numpy and Python, and the process's :class:`RandomStates`.

States are saved as plain data and tensors of bytes. A load checks them first: the libraries trust positions in a state,
and would read memory beyond its end.
"""

from __future__ import annotations

import operator
import random
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch

from flambe_save.adapters.protocol import Child, Fit, Mismatch, Place
from flambe_save.classes.registrable import Registrable
from flambe_save.deferred_init.generators import restore_random_states
from flambe_save.errors import StateMismatchWarning, quote, warn
from flambe_save.schema.schema import Schema
from flambe_save.state import State


class _Part(NamedTuple):
    """One value of a random state.

    ``check`` returns the argument of ``write``, or None where there is nothing to set; it raises ValueError for any
    other value.
    """

    read: Callable[[], Any]
    check: Callable[[Any], Any]
    write: Callable[[Any], object]


class _RandomAdapter:
    """Objects that are built by a Schema, and whose state has named parts."""

    def __init__(self, describe: Callable[[Any], Schema | None], parts: Callable[[Any], Mapping[str, _Part]]) -> None:
        self._describe = describe
        self._parts = parts

    def describe(self, obj: Any) -> Schema | None:
        return self._describe(obj)

    def children(self, obj: Any) -> Iterable[Child]:
        return ()

    def get_state(self, place: Place, state: State) -> None:
        for name, part in self._parts(place.obj).items():
            state[place.key_prefix + name] = part.read()

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
        ready: list[tuple[str, _Part, Any]] = []
        errors: list[str] = []
        for name, part in self._parts(place.obj).items():
            key = place.key_prefix + name
            if key not in state:
                mismatch.missing.append(key)
                continue
            mismatch.consumed.add(key)
            try:
                ready.append((key, part, part.check(state[key])))
            except Exception as error:  # a save may hold anything
                errors.append(_refusal(key, error))
        for key, part, value in [] if errors else ready:
            if value is not None:
                try:
                    part.write(value)
                except Exception as error:
                    errors.append(_refusal(key, error))
        mismatch.errors += errors


def _refusal(key: str, error: Exception) -> str:
    what = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    return f"{quote(key)} is not a random state that can be set here: {what[:200]}"


def _is_count(value: Any, most: int) -> bool:
    """Whether a value is an int from 0 to ``most``, and not a bool."""
    return type(value) is int and 0 <= value <= most


def _are_counts(values: list[Any] | tuple[Any, ...], most: int) -> bool:
    """Whether all values are ints from 0 to ``most``, and not bools."""
    return {*map(type, values)} <= {int} and (not values or (min(values) >= 0 and max(values) <= most))


# -------------------------------------------------------------------------------------------------- torch

_TWISTER_WORDS = 624
_TWISTER_BYTES = 5056  # of torch's CPU generator: seed, words left, whether it is seeded, next word, the words, ...


def _torch_parts(generator: torch.Generator) -> dict[str, _Part]:
    def check(saved: Any) -> torch.Tensor | None:
        return _checked_bytes(saved, generator.get_state())

    return {"state": _Part(generator.get_state, check, generator.set_state)}


def _checked_bytes(saved: Any, now: torch.Tensor) -> torch.Tensor | None:
    """Check a state for torch and return it; None on the meta device, where it is empty."""
    fits = isinstance(saved, torch.Tensor) and (saved.dtype, saved.layout) == (torch.uint8, torch.strided)
    if not fits or saved.shape != now.shape:
        raise ValueError(f"it is not {now.numel()} bytes in a tensor")
    if saved.is_meta:
        return None
    state: torch.Tensor = saved.detach().cpu().contiguous()
    if len(state) == _TWISTER_BYTES:
        # torch checks each of these two alone, and draws as many words as are left, from the next one on
        left, following = struct.unpack("=i4xQ", bytes(state[8:24].tolist()))
        if not (left > 0 and following + left <= _TWISTER_WORDS + 1):
            raise ValueError(f"{left} words left after the first {following} of {_TWISTER_WORDS}")
    return state


TORCH_GENERATOR = _RandomAdapter(
    lambda obj: Schema(torch.Generator, device=str(obj.device)) if type(obj) is torch.Generator else None,
    _torch_parts,
)


# -------------------------------------------------------------------------------------------------- Python


def _python_parts(source: Any) -> dict[str, _Part]:
    if type(source).getstate is not random.Random.getstate:
        return {}  # SystemRandom has no state, and other subclasses may return anything
    return {"state": _Part(source.getstate, lambda saved: _checked_words(saved, source.getstate()), source.setstate)}


def _checked_words(saved: Any, now: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check a state for ``random.Random``: version, words with a position in them, and a number."""
    if type(saved) is not tuple or len(saved) != 3 or type(saved[0]) is not int or saved[0] != now[0]:
        raise ValueError(f"it is not a tuple of {now[0]}, {len(now[1])} words and a number")
    _, words, gauss = saved
    if type(words) is not tuple or len(words) != len(now[1]) or not _are_counts(words, 2**32 - 1):
        raise ValueError(f"it does not hold {len(now[1])} words")
    if words[-1] > len(words) - 1 or type(gauss) not in (float, type(None)):
        raise ValueError("its position is not one of a word, or its number is not a float")
    return saved


PYTHON_RANDOM = _RandomAdapter(
    lambda obj: Schema(random.Random) if type(obj) is random.Random else None,
    _python_parts,
)


# -------------------------------------------------------------------------------------------------- numpy

_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_MOST = {  # of the numbers in their states
    "pos": 624,
    "buffer_pos": 4,
    "has_gauss": 1,
    "has_uint32": 1,
    "uinteger": 2**32 - 1,
    "state": 2**128 - 1,
    "inc": 2**128 - 1,
}
_MOST_POOL = 64  # mixing a pool takes the square of its size
_MOST_ENTROPY = 1024  # numbers, and bits of each


def _is_known(bit_generator: Any) -> bool:
    cls = type(bit_generator)
    return cls.__name__ in _BIT_GENERATORS and cls.__module__.startswith("numpy.random.")


def _describe_generator(obj: Any) -> Schema | None:
    cls = type(obj)
    if cls.__module__ != "numpy.random._generator" or not _is_known(obj.bit_generator):
        return None
    return Schema(cls, bit_generator=Schema(type(obj.bit_generator)))


def _describe_random_state(obj: Any) -> Schema | None:
    cls, bit_generator = type(obj), type(obj._bit_generator)
    if cls.__module__ != "numpy.random.mtrand" or not _is_known(obj._bit_generator):
        return None
    return Schema(cls) if bit_generator.__name__ == "MT19937" else Schema(cls, seed=Schema(bit_generator))


def _generator_parts(obj: Any) -> dict[str, _Part]:
    bits = obj.bit_generator
    if not _is_known(bits):
        return {}

    def set_state(value: Any) -> None:
        bits.state = value

    def check_seed(saved: Any) -> Any:
        is_kept = isinstance(bits.__getstate__(), tuple)  # numpy before 1.25 does not keep it
        return _numpy_random().SeedSequence(**_checked_seed(saved)) if is_kept and saved is not None else None

    return {
        "state": _Part(lambda: _plain(bits.state), lambda saved: _checked_like(saved, bits.state), set_state),
        "seed": _Part(lambda: _seed_of(bits), check_seed, lambda seed: bits.__setstate__((bits.state, seed))),
    }


def _random_state_parts(obj: Any) -> dict[str, _Part]:
    return {"state": _numpy_part(obj)} if _is_known(obj._bit_generator) else {}


def _numpy_part(source: Any) -> _Part:
    """Make the part of a RandomState, or of the module ``numpy.random`` with its global one."""
    return _Part(
        lambda: _plain(source.get_state(legacy=False)),
        lambda saved: _checked_like(saved, source.get_state(legacy=False)),
        source.set_state,
    )


def _plain(value: Any) -> Any:
    """Turn a numpy state's arrays into lists, so that it can be read without numpy."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _checked_like(saved: Any, now: Any, name: str = "") -> Any:
    """Check a state that :func:`_plain` made by the present one, and return it as numpy's."""
    if isinstance(now, dict):
        if type(saved) is not dict or saved.keys() != now.keys():
            raise ValueError(f"it is not a dict of {', '.join(now)}")
        return {key: _checked_like(saved[key], item, key) for key, item in now.items()}
    if hasattr(now, "tolist"):
        if type(saved) is not list or len(saved) != len(now):
            raise ValueError(f"{name} is not a list of {len(now)} numbers")
        if not _are_counts(saved, 2 ** (8 * now.itemsize) - 1):
            raise ValueError(f"{name} is not a list of numbers of {8 * now.itemsize} bits")
        made = now.copy()
        made[:] = saved
        return made
    if isinstance(now, str) and saved != now:
        raise ValueError(f"it is of {quote(saved)}, and this is {quote(now)}")
    if type(saved) is not type(now) or (isinstance(now, int) and not _is_count(saved, _MOST[name])):
        raise ValueError(f"{name} cannot be {quote(saved)}")
    return saved


def _seed_of(bit_generator: Any) -> dict[str, Any] | None:
    """Return the seed sequence for new generators, if it is numpy's own and not too long."""
    kept = bit_generator.__getstate__()
    seed: Any = kept[1] if isinstance(kept, tuple) else None
    if type(seed).__name__ != "SeedSequence":
        return None
    found = dict(seed.state)
    try:
        entropy = found["entropy"]
        is_one = hasattr(entropy, "__index__") and not hasattr(entropy, "__len__")
        found["entropy"] = operator.index(entropy) if is_one else [operator.index(item) for item in entropy]
        found["spawn_key"] = [operator.index(item) for item in found["spawn_key"]]
        return _checked_seed(found)
    except (TypeError, ValueError):
        return None


def _checked_seed(saved: Any) -> dict[str, Any]:
    names = ("entropy", "spawn_key", "pool_size", "n_children_spawned")
    if type(saved) is not dict or set(saved) != set(names):
        raise ValueError(f"it is not a dict of {', '.join(names)}")
    entropy = saved["entropy"] if type(saved["entropy"]) is list else [saved["entropy"]]
    for numbers in (entropy, saved["spawn_key"]):
        is_short = type(numbers) is list and len(numbers) <= _MOST_ENTROPY
        if not is_short or not _are_counts(numbers, 2**_MOST_ENTROPY - 1):
            raise ValueError("its entropy or spawn_key is not a list of numbers, or too long")
    if not _is_count(saved["pool_size"], _MOST_POOL) or not _is_count(saved["n_children_spawned"], 2**32 - 1):
        raise ValueError("its pool_size or n_children_spawned is not a number in range")
    return saved


NUMPY_GENERATOR = _RandomAdapter(_describe_generator, _generator_parts)
NUMPY_RANDOM_STATE = _RandomAdapter(_describe_random_state, _random_state_parts)


# -------------------------------------------------------------------------------------------------- the process


class _ProcessAdapter(_RandomAdapter):
    comes_last = True  # hooks of other objects may draw numbers while they are loaded

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
        if fit is not None:
            restore_random_states()  # now, since the end of the load would overwrite the loaded ones
        super().load_state(place, state, mismatch, fit)


# The source of this class is in saves: tests/test_golden.py compares its bytes
class RandomStates(Registrable):
    """Stands for the random states of the whole process: saving one reads them, and loading it sets them.

    They are torch's CPU generator, those of all CUDA devices and of mps, numpy's global one where numpy is imported,
    and that of Python's ``random``. The object itself holds nothing.

    Wherever it stands, it is loaded last, because what else is loaded may draw numbers. Devices, or numpy, that the
    save has states of and this machine has not, are left out, with a :class:`~flambe_save.StateMismatchWarning`; what
    the save has no state of stays as it is.

    Examples
    --------
    >>> import tempfile
    >>> from flambe_save import load, save
    >>> path = save(RandomStates(), tempfile.mkdtemp() + "/states")
    >>> before = torch.rand(3)
    >>> load(path)  # doctest: +ELLIPSIS
    RandomStates(torch, ...)
    >>> torch.equal(torch.rand(3), before)
    True
    """

    __flambe_adapter__ = _ProcessAdapter(lambda obj: Schema(RandomStates), lambda obj: _process_parts())

    def __repr__(self) -> str:
        names = [name for name, part in _process_parts().items() if name != "cuda" and part.read() is not None]
        return f"RandomStates({', '.join([*names, *(f'cuda:{index}' for index in range(_cuda_devices()))])})"


def _process_parts() -> dict[str, _Part]:
    return {
        "torch": _Part(
            torch.get_rng_state, lambda saved: _checked_bytes(saved, torch.get_rng_state()), torch.set_rng_state
        ),
        "cuda": _Part(_read_cuda, _check_cuda, _write_cuda),
        "mps": _Part(_read_mps, _check_mps, lambda state: torch.mps.set_rng_state(state)),
        "numpy": _Part(_read_numpy, _check_numpy, lambda state: _numpy_random().set_state(state)),
        "python": _Part(random.getstate, lambda saved: _checked_words(saved, random.getstate()), random.setstate),
    }


def _cuda_devices() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _read_cuda() -> list[torch.Tensor]:
    return [torch.cuda.get_rng_state(index) for index in range(_cuda_devices())]


def _check_cuda(saved: Any) -> list[torch.Tensor | None]:
    if type(saved) is not list:
        raise ValueError("it is not a list of a state for each device")
    here = _read_cuda() if saved else []
    if len(saved) > len(here):
        _warn_of_left_out(f"{len(saved)} CUDA devices", f"has {len(here)}")
    return [_checked_bytes(state, now) for state, now in zip(saved, here, strict=False)]


def _write_cuda(states: list[torch.Tensor | None]) -> None:
    for index, state in enumerate(states):
        if state is not None:
            torch.cuda.set_rng_state(state, index)


def _read_mps() -> torch.Tensor | None:
    return torch.mps.get_rng_state() if torch.backends.mps.is_available() else None


def _check_mps(saved: Any) -> torch.Tensor | None:
    if saved is None:
        return None
    now = _read_mps()
    if now is None:
        _warn_of_left_out("an mps device", "has none")
        return None
    return _checked_bytes(saved, now)


def _numpy_random() -> Any:
    import numpy

    return numpy.random


def _read_numpy() -> Any:
    return _numpy_part(_numpy_random()).read() if sys.modules.get("numpy") is not None else None


def _check_numpy(saved: Any) -> Any:
    if saved is None:
        return None
    try:
        source = _numpy_random()
    except ImportError:
        _warn_of_left_out("numpy", "has none")
        return None
    return _numpy_part(source).check(saved)


def _warn_of_left_out(what: str, here: str) -> None:
    warn(f"the save holds random states of {what}, and this machine {here}: others are left out", StateMismatchWarning)

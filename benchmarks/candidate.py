"""A candidate: one way to do a piece of work, which protocol.py times and fresh.py runs in a process of its own."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flambe_save
from benchmarks.workloads import Work


@dataclass(frozen=True)
class Place:
    """Where a candidate works.

    Parameters
    ----------
    source : Path
        A folder with what ``Candidate.source`` wrote.
    fresh : Path
        An empty folder.
    """

    source: Path
    fresh: Path


@dataclass(frozen=True)
class Way:
    """A format: its two inverse functions.

    Parameters
    ----------
    name : str
    save : callable
        Writes the work's tensors into a folder.
    load : callable
        Returns what a user would work with: a module, or a mapping of tensors where the format has no more.
    packages : tuple of str
        Modules that have to be there.
    uses : tuple of str
        What of flambe_save has to be there: ``"save_async"``, ``"load(mmap)"``.
    """

    name: str
    save: Callable[[Work, Path], Any]
    load: Callable[[Work, Path], Any]
    packages: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One way to do a piece of work.

    Parameters
    ----------
    name : str
    run : callable
        Does the work; this is what is timed.
    prepare : callable, optional
        Runs right before ``run``, untimed.
    source : Way, optional
        Writes, once and untimed, what ``run`` reads.
    finish : callable, optional
        Waits for what ``run`` started, untimed.
    tensors : callable, optional
        Returns the tensors that a run produced, to compare them with the work's.
    part : str
        The prefix of the keys that ``run`` is about, where that is not all; those of ``tensors`` are without it.
    packages, uses : tuple of str
        As in Way.
    is_slow : bool
        Whether one timed run, without an untimed one before, is all that there is time for.
    needs_gpu : bool
    """

    name: str
    run: Callable[[Work, Place], Any]
    prepare: Callable[[Work, Place], object] | None = None
    source: Way | None = None
    finish: Callable[[Any], object] | None = None
    tensors: Callable[[Work, Place, Any], Mapping[str, torch.Tensor]] | None = None
    part: str = ""
    packages: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    is_slow: bool = False
    needs_gpu: bool = False

    def missing(self) -> str:
        """Say what is not there, or nothing."""
        packages = {*self.packages, *(self.source.packages if self.source else ())}
        absent = sorted(name for name in packages if importlib.util.find_spec(name.partition(".")[0]) is None)
        if absent:
            return f"not installed: {', '.join(absent)}"
        if self.needs_gpu and not torch.cuda.is_available():
            return "no GPU here"
        uses = [*self.uses, *(self.source.uses if self.source else ())]
        lacking = [use for use in uses if not _has(use)]
        return f"not there yet: {', '.join(lacking)}" if lacking else ""

    def timed(self, work: Work, place: Place, *, check: bool) -> float:
        """Return the seconds that one run takes.

        Parameters
        ----------
        work : Work
        place : Place
        check : bool
            Whether what it gives is compared with the work, afterwards.

        Raises
        ------
        RuntimeError
            If that is not the same.
        """
        if self.prepare is not None:
            self.prepare(work, place)
        gc.collect()
        gc.disable()
        try:
            start = time.perf_counter()
            result = self.run(work, place)
            seconds = time.perf_counter() - start
        finally:
            gc.enable()
        if self.finish is not None:
            self.finish(result)
        problem = self.problem(work, place, result) if check else ""
        if problem:
            raise RuntimeError(f"{self.name} is not comparable: {problem}")
        return seconds

    def problem(self, work: Work, place: Place, result: Any) -> str:
        """Say how the tensors of a run differ from the work's, or nothing."""
        if self.tensors is None:
            return ""
        got = {self.part + key: tensor for key, tensor in self.tensors(work, place, result).items()}
        expected = {key: tensor for key, tensor in work.state.items() if key.startswith(self.part)}
        known = {work.state[key].data_ptr() for key in got if key in work.state}  # what is tied may be written once
        absent = [key for key, tensor in expected.items() if key not in got and tensor.data_ptr() not in known]
        if absent:
            return f"{absent[:3]} are missing"
        wrong = [key for key, tensor in got.items() if not _equal(tensor, expected.get(key))]
        return f"{wrong[:3]} differ" if wrong else ""


def _equal(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)


def _has(use: str) -> bool:
    """Say whether flambe_save has ``name`` or ``name(keyword)``."""
    name, _, keyword = use.rstrip(")").partition("(")
    function = getattr(flambe_save, name, None)
    return function is not None and (not keyword or keyword in inspect.signature(function).parameters)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@contextmanager
def quietly() -> Iterator[None]:
    """Let nothing warn: peers do, about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tensors_of(result: Any) -> Mapping[str, torch.Tensor]:
    """Return the tensors of what a load returned."""
    return result.state_dict() if isinstance(result, nn.Module) else result


def saving(way: Way, name: str = "") -> Candidate:
    """Return the candidate that saves; what it wrote is loaded to be compared."""
    return Candidate(
        name or way.name,
        run=lambda work, place: way.save(work, place.fresh),
        tensors=lambda work, place, result: tensors_of(way.load(work, place.fresh)),
        packages=way.packages,
        uses=way.uses,
    )


def loading(way: Way, name: str = "", *, source: Way | None = None) -> Candidate:
    """Return the candidate that loads what ``way``, or ``source``, wrote."""
    return Candidate(
        name or way.name,
        run=lambda work, place: way.load(work, place.source),
        source=source or way,
        tensors=lambda work, place, result: tensors_of(result),
        packages=way.packages,
        uses=way.uses,
    )


def until_forward(candidate: Candidate) -> Candidate:
    """Return a candidate that has also run the module once, on one example, when it is done."""

    def run(work: Work, place: Place) -> Any:
        module = candidate.run(work, place)
        with torch.inference_mode():
            module(work.input())
        return module

    return dataclasses.replace(candidate, name=f"{candidate.name}, forward", run=run)


def until_step(candidate: Candidate) -> Candidate:
    """Return a candidate that has also written to every parameter in place when it is done."""

    def run(work: Work, place: Place) -> Any:
        module = candidate.run(work, place)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.0)  # each page is written, and the result can be compared
        return module

    return dataclasses.replace(candidate, name=f"{candidate.name}, step", run=run)


def on_gpu(candidate: Candidate) -> Candidate:
    """Return a candidate that loads to a GPU, and is done when all of it is there."""

    def run(work: Work, place: Place) -> Any:
        result = candidate.run(work, place)
        torch.cuda.synchronize()
        return result

    def tensors(work: Work, place: Place, result: Any) -> Mapping[str, torch.Tensor]:
        return {key: tensor.cpu() for key, tensor in tensors_of(result).items() if tensor.is_cuda}

    return dataclasses.replace(candidate, run=run, tensors=tensors, needs_gpu=True)

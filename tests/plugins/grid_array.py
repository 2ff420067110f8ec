"""A plug-in as another package would ship it: arrays of a kind of its own, which a save holds as tensors."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import torch

from flambe_save import Schema, State, register
from flambe_save.adapters import Child, Fit, Mismatch, Place


class Grid:
    """Numbers in rows and columns, in memory of Python's."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.numbers = array("d", bytes(8 * rows * columns))


def tensor_of(grid: Grid) -> torch.Tensor:
    """Return a tensor over a grid's own memory."""
    flat = torch.frombuffer(grid.numbers, dtype=torch.float64) if grid.numbers else torch.empty(0, dtype=torch.float64)
    return flat.reshape(grid.rows, grid.columns)


class GridAdapter:
    """A config tells the shape of a grid, and the state has its numbers."""

    def describe(self, obj: Grid) -> Schema:
        """Return the call that makes a grid of this shape."""
        return Schema(Grid, rows=obj.rows, columns=obj.columns)

    def children(self, obj: Grid) -> Iterable[Child]:
        """Return nothing."""
        return ()

    def get_state(self, place: Place, state: State) -> None:
        """Give the numbers, which are not copied."""
        state[f"{place.key_prefix}numbers"] = tensor_of(place.obj)

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
        """Copy the numbers into the grid."""
        key = f"{place.key_prefix}numbers"
        if key not in state:
            mismatch.missing.append(key)
            return
        mismatch.consumed.add(key)
        saved, here = state[key], tensor_of(place.obj)
        if not isinstance(saved, torch.Tensor) or (saved.dtype, saved.shape) != (here.dtype, here.shape):
            mismatch.errors.append(f"{key} is not a tensor of {place.obj.rows} rows and {place.obj.columns} columns")
        else:
            here.copy_(saved)


ADAPTER = GridAdapter()
register(Grid, "grids.Grid")

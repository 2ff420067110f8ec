"""References to what a save holds beside a config: its stash, and its state's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from flambe_save.classes.registrable import alias
from flambe_save.errors import LinkError, UnpreparedLinkError, quote
from flambe_save.schema.reference import Reference, Sources


@alias("$")
class PickledDataLink(Reference):
    """A value that YAML cannot hold, kept in the stash under an id.

    Parameters
    ----------
    obj_id : str
    """

    def __init__(self, obj_id: str) -> None:
        self.obj_id = obj_id

    def __repr__(self) -> str:
        return f"PickledDataLink({self.obj_id!r})"

    def __call__(self, stash: Mapping[str, Any]) -> Any:
        """Return the object from a stash; UnpreparedLinkError where it has none."""
        try:
            return stash[self.obj_id]
        except KeyError:
            raise UnpreparedLinkError(
                f"the stash holds no object {quote(self.obj_id)}",
                fix="Load the whole save, or pass the stash when calling the Schema.",
            ) from None

    def resolve(self, sources: Sources) -> Any:
        return self(sources.stash)


@alias("tensor")
class TensorLink(Reference):
    """A tensor or array of the save's state, by its key there."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"

    def resolve(self, sources: Sources) -> Any:
        """Return the value of the state; UnpreparedLinkError where it has none."""
        if self.key not in sources.state:
            raise UnpreparedLinkError(
                f"the state holds no {quote(self.key)}", fix="Load the whole save: a part does not hold the rest."
            )
        return sources.state[self.key]


@alias("param")
class StoredParameter(TensorLink):
    """A parameter of its own, with values of the save's state.

    Parameters
    ----------
    key : str
    tensor : torch.Tensor, optional
        For a link to be written: its target, of which the key is found then. A tensor that is not a parameter is
        written as :class:`TensorLink`.
    """

    def __init__(self, key: str, tensor: Any = None) -> None:
        super().__init__(key)
        self.tensor = tensor

    def resolve(self, sources: Sources) -> Any:
        """Return the parameter, which shares its memory with the value of the state.

        Raises
        ------
        UnpreparedLinkError
            If the state has no such value.
        LinkError
            If the value is not a tensor.
        """
        value = super().resolve(sources)
        if not isinstance(value, torch.Tensor):
            raise LinkError(f"{self!r}: that is a {type(value).__name__}, not a tensor", fix="Correct the config.")
        if isinstance(value, torch.nn.Parameter):
            return value
        known = sources.parameters.get(id(value))
        if known is None:
            known = sources.parameters[id(value)] = torch.nn.Parameter(value, requires_grad=False)
        return known


@alias("unbuilt")
class Unbuilt(Reference):
    """The place of an object of a named class, left out by ``save(..., build=False)``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Unbuilt({self.name!r})"

    def resolve(self, sources: Sources) -> Any:
        """Raise a LinkError: the save does not say how to build it."""
        raise LinkError(
            f"the save does not say how this {quote(self.name)} is built: it was written by save(..., build=False)",
            fix="Build the object yourself, and fill it: load_state(obj, path).",
        )

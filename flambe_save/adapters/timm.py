"""timm's models, built again by the name of their architecture, and never from the hub.

Nothing here imports timm: the program has, since it has objects of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from flambe_save.adapters.protocol import Child, Fit, Later, Mismatch, Place
from flambe_save.adapters.rebuilt import built_again, outline, written_beside
from flambe_save.adapters.torch import ModuleAdapter
from flambe_save.describing.describe import assembled
from flambe_save.errors import CompilationError, quote, shown
from flambe_save.schema.reference import Reference
from flambe_save.schema.schema import Schema
from flambe_save.state import State

_COUNTS = ("num_classes", "in_chans")  # arguments of create_model


def public_class(name: str) -> type | None:
    """Return timm's model class of a name; None where the program has not imported it."""
    models: Any = sys.modules.get("timm.models")
    found = vars(models).get(name) if models is not None and not name.startswith("_") else None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


class _TimmAdapter(ModuleAdapter):
    """A model of ``timm.create_model``: its architecture, and numbers of classes and channels."""

    def describe(self, obj: Any) -> Schema | None:
        """Return a Schema of the architecture and of the changes since; else of its parts."""
        cls = type(obj)
        if public_class(cls.__name__) is not cls:
            return super().describe(obj)
        known = getattr(obj, "pretrained_cfg", None) or getattr(obj, "default_cfg", None) or {}
        name = known.get("architecture") if isinstance(known, Mapping) else getattr(known, "architecture", None)
        read = {
            "architecture": name,
            "num_classes": getattr(obj, "num_classes", None),
            "in_chans": getattr(obj, "in_chans", None) or _channels(obj),
        }
        arguments = {name: value for name, value in read.items() if value is not None}
        if any(True for _ in self.asks(cls, arguments)) or "architecture" not in arguments:
            return assembled(obj)
        try:
            again = built_again(lambda: self.build(cls, arguments))
        except Exception:  # the factory refuses these arguments
            return assembled(obj)
        if not outline(again).keys() & outline(obj).keys():
            return assembled(obj)
        return written_beside(Schema(cls, **arguments), obj, again, apart_from=frozenset(arguments))

    def children(self, obj: Any) -> Iterable[Child]:
        """Return the submodules; timm's objects that are not modules have none."""
        return super().children(obj) if isinstance(obj, nn.Module) else ()

    def get_state(self, place: Place, state: State) -> None:
        """Add the module's ``state_dict``."""
        if isinstance(place.obj, nn.Module):
            super().get_state(place, state)

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> Later:
        """Return the loading of the ``state_dict``."""
        return super().load_state(place, state, mismatch, fit) if isinstance(place.obj, nn.Module) else None

    def asks(self, cls: type, arguments: Mapping[str, Any]) -> Iterator[str]:
        """Yield arguments that need trust, as unknown architectures, which may be downloaded."""
        for name, value in arguments.items():
            if isinstance(value, Reference):
                continue
            if name == "architecture":
                if not isinstance(value, str) or not sys.modules["timm"].is_model(value):
                    yield f"architecture={quote(shown(value)[:80])}, which is not timm's own"
            elif name not in _COUNTS or type(value) is not int:
                yield f"{quote(name)}={quote(shown(value)[:80])}"

    def build(self, cls: type, arguments: Mapping[str, Any]) -> Any:
        """Build the model with fresh weights.

        Raises
        ------
        CompilationError
            If the architecture is one of another class.
        """
        rest = dict(arguments)
        architecture = rest.pop("architecture", None)
        model = sys.modules["timm"].create_model(architecture, pretrained=False, **rest)
        if type(model) is not cls:
            raise CompilationError(f"timm's {architecture!r} is a {type(model).__name__}, not a {cls.__name__}")
        return model


MODEL = _TimmAdapter()


def _channels(model: nn.Module) -> int | None:
    """Return the number of channels of an image: those that the first convolution takes."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return None if first is None else first.in_channels

"""Notes that frameworks leave on objects they work with. No save holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Of transformers' loading, accelerate, torch.compile (as Lightning replaces it too), torch.jit.script and typing's
# generic classes
NOTES = frozenset(
    (
        *("_is_hf_initialized", "_is_accelerate_prepared", "_is_torch_compile", "_compiled_call_impl"),
        *("_compile_kwargs", "__overloads__", "__orig_class__"),
    )
)
OF_THE_COMPILER = "_dynamo_"  # what its notes begin with
_OF_BUFFERS = ("_is_buffer", "persistent")  # what nn.Buffer sets on a tensor


def is_note(name: str) -> bool:
    """Whether an attribute of that name is a framework's note."""
    return name in NOTES or name.startswith(OF_THE_COMPILER)


def marks_of(tensor: torch.Tensor) -> dict[str, Any]:
    """Return the attributes of a tensor that a caller set.

    Notes and the marks of ``nn.Buffer`` are left out.
    """
    own: dict[str, Any] = tensor.__dict__
    if not own:
        return own
    others = _OF_BUFFERS if "_is_buffer" in own else ()
    return {name: value for name, value in own.items() if not is_note(name) and name not in others}


def attributes_on(tensor: torch.Tensor) -> dict[str, Any]:
    """Return the attributes of a tensor without notes.

    The marks of ``nn.Buffer`` stay: isinstance() knows a Buffer by them.
    """
    own: dict[str, Any] = tensor.__dict__
    return {name: value for name, value in own.items() if not is_note(name)} if own else own

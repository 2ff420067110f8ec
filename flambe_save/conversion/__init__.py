"""Conversions of a save between folder, archive, pickle and one safetensors file.

copying.py copies files unchanged, which packs and unpacks; containers.py converts by way of the state;
state_json.py puts a state into a file of tensors, and tensor_files.py knows these; extracting.py cuts a part out of a
save; resealing.py writes a new manifest for a folder that was edited by hand.
"""

from typing import TYPE_CHECKING

from flambe_save.support.lazy import lazy_names

# Only some of them need torch
if TYPE_CHECKING:
    from flambe_save.conversion.containers import convert
    from flambe_save.conversion.copying import pack, unpack
    from flambe_save.conversion.extracting import extract
    from flambe_save.conversion.resealing import Edited, reseal

__getattr__ = lazy_names(
    __name__,
    {
        "flambe_save.conversion.containers": "convert",
        "flambe_save.conversion.copying": "pack unpack",
        "flambe_save.conversion.extracting": "extract",
        "flambe_save.conversion.resealing": "Edited reseal",
    },
)

__all__ = ["Edited", "convert", "extract", "pack", "reseal", "unpack"]

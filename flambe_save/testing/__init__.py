"""Contract suites: inherit one in a ``Test...`` class, make your object, and run pytest.

A store, codec, format or adapter that passes its suite can be used wherever the package uses its own. The modules
beside this one are the only ones of the package that need pytest.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in ("adapter", "codec", "format", "store")))

from flambe_save.testing.adapter import AdapterContract  # noqa: E402
from flambe_save.testing.codec import CodecContract, same  # noqa: E402
from flambe_save.testing.format import FormatContract, same_tree  # noqa: E402
from flambe_save.testing.store import StoreContract  # noqa: E402

__all__ = ["AdapterContract", "CodecContract", "FormatContract", "StoreContract", "same", "same_tree"]

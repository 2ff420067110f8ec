"""Alias for old pickles, made before schema/schema.py: all its names."""

from functools import partial

from flambe_save.schema import schema

__getattr__ = partial(getattr, schema)

"""Alias for old pickles, made before describing/changes.py: all its names."""

from functools import partial

from flambe_save.describing import changes

__getattr__ = partial(getattr, changes)

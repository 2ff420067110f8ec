"""The version of this package, the one place it is written (setup.cfg and the manifest read it)."""

__version__ = "0.1.0"

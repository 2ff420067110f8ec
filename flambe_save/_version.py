"""Version of this package; setup.cfg and the manifest read it here."""

__version__ = "0.1.0"

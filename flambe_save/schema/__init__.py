"""Schemas: constructions not yet run, how a config's text becomes one, and what it asks for."""

"""Describing: how an object was built and what changed since, as Schemas, and those as text."""

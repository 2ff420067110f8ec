"""Deferred initialisation: build without drawing random numbers that a load overwrites."""

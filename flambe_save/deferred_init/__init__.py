"""Deferred initialisation: build without drawing the random numbers that a load overwrites; mode.py is the mode."""

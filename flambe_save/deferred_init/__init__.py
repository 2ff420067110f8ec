"""Deferred initialisation: build without drawing random numbers that a load overwrites.

mode.py has the mode.
"""

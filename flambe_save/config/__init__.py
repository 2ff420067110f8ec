"""Configs as text: the dialect of YAML, and what it holds without a tag."""

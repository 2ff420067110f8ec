"""All hostile and damaged saves, by name; importing the modules of each area fills the table."""

from __future__ import annotations

import hostile_archives
import hostile_configs
import hostile_folders
import hostile_memory
import hostile_parts
import hostile_pickles
from casebook import CASES, Case

__all__ = ["AREAS", "CASES", "Case"]

AREAS = (hostile_archives, hostile_configs, hostile_folders, hostile_memory, hostile_parts, hostile_pickles)

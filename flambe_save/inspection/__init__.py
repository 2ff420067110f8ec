"""Inspect saves: open() for one, diff() for two, documents for the command and the page.

Nothing of a save is imported, built or run for any of this, and nothing but data is unpickled.
"""

from typing import TYPE_CHECKING

from flambe_save.support.lazy import lazy_names

# Who looks into one save needs nothing of comparing two
if TYPE_CHECKING:
    from flambe_save.inspection.difference import Change, changes, diff
    from flambe_save.inspection.measures import Measures, Statistics
    from flambe_save.inspection.nodes import SavedNode, SavedValues
    from flambe_save.inspection.opening import OpenSave, open_save
    from flambe_save.inspection.totals import Totals

__getattr__ = lazy_names(
    __name__,
    {
        "flambe_save.inspection.difference": "Change changes diff",
        "flambe_save.inspection.opening": "OpenSave open_save",
        "flambe_save.inspection.measures": "Measures Statistics",
        "flambe_save.inspection.nodes": "SavedNode SavedValues",
        "flambe_save.inspection.totals": "Totals",
    },
)

__all__ = [
    "Change",
    "Measures",
    "OpenSave",
    "SavedNode",
    "SavedValues",
    "Statistics",
    "Totals",
    "changes",
    "diff",
    "open_save",
]

"""Page: a report of one save, or two and their difference, as one self-contained HTML file.

``data.py`` packs the report, ``highlight.py`` colours its texts, ``render.py`` puts them into the template with the
styles and scripts beside it, and ``server.py`` shows the result to a browser on this machine.
"""

from __future__ import annotations

from flambe_save.page.render import policy, render
from flambe_save.page.server import PageServer

__all__ = ["PageServer", "policy", "render"]

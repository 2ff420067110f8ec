"""How Sphinx makes the site of this folder; `make docs` runs it, and any warning is an error."""

from __future__ import annotations

import flambe_save

project = "flambe_save"
author = copyright = "the flambe_save authors"
version = release = flambe_save.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"torch\..*")]  # torch's pages are elsewhere, and nothing here needs a network

myst_heading_anchors = 3  # a heading's anchor is the one that GitHub gives it

autodoc_typehints = "none"  # the docstrings say types, in words
autodoc_preserve_defaults = True  # as the source has them: a module's repr is a path of this machine
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# Without a network: furo has its styles and scripts with it, and the search index is a script beside the pages
html_theme = "furo"
html_title = "flambe_save"
html_static_path = ["_static"]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_copy_source = html_show_sourcelink = False

#!/bin/sh
# accelerate 1.15.0: objects of its menu class have no readable __dict__; vars() and copy.copy raise TypeError.
#
# The class is decorated by a function that makes it anew by its metaclass, of a copy of its names. That copy has the
# descriptor of "__dict__", which belongs to the class that was there before, so it refuses objects of the new one.
# Attributes can be read and set one by one all the same.
#
# Seen: menu.prompt is what it was set to; vars(menu): descriptor '__dict__' for 'BulletMenu' objects doesn't apply to a
# 'BulletMenu' object. Expected: the attributes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 accelerate==1.15.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import copy
import importlib.metadata

from accelerate.commands.menu.selection_menu import BulletMenu

assert importlib.metadata.version("accelerate") == "1.15.0"
menu = BulletMenu("which?", ["one", "two"])
assert menu.prompt == "which?"
for name, call in {"vars": vars, "copy": copy.copy}.items():
    try:
        call(menu)
    except TypeError as error:
        print("seen:", name, "raises TypeError:", error)
        assert "doesn't apply to a 'BulletMenu' object" in str(error), "changed: another error"
    else:
        raise AssertionError(f"changed: {name} works")
PYTHON

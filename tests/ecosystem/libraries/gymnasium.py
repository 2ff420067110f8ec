"""gymnasium: the spaces that an agent holds."""

from __future__ import annotations

import numpy
from gymnasium import spaces

from ecosystem.entries import entry


@entry("a `Dict` of spaces", edit="seeded", use=lambda made: made.sample())
def space():
    made = spaces.Dict({"at": spaces.Box(-1, 1, (3,), numpy.float32), "what": spaces.Discrete(4, start=1)})
    made.seed(3)
    return made

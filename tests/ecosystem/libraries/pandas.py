"""pandas: a table beside a model."""

from __future__ import annotations

import pandas
from torch import nn

from ecosystem.entries import entry


@entry("a model beside the `DataFrame` of its history", edit="a row", use=lambda run: run["history"].describe())
def history():
    table = pandas.DataFrame({"loss": [1.0, 0.5], "note": ["a", "b"]}, index=pandas.Index([1, 2], name="epoch"))
    table.loc[3] = [0.25, "c"]
    return {"model": nn.Linear(2, 2), "history": table}

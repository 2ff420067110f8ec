"""scikit-learn: estimators beside a model."""

from __future__ import annotations

import numpy
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from ecosystem.entries import entry

X = numpy.linspace(0, 1, 40).reshape(10, 4) ** 2
Y = numpy.arange(10) % 2


@entry("a `Pipeline` of a scaler and a regression", edit="fitted", use=lambda made: made.predict_proba(X))
def pipeline():
    return make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=0.5)).fit(X, Y)


@entry(
    "a model beside its `StandardScaler`",
    edit="fitted",
    use=lambda run: run["model"](torch.tensor(run["scaler"].transform(X)).float()),
)
def scaler():
    return {"model": nn.Linear(4, 2), "scaler": StandardScaler().fit(X)}

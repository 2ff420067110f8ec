"""skorch: a network as an estimator."""

from __future__ import annotations

import numpy
from skorch import NeuralNetClassifier
from torch import nn

from ecosystem.entries import entry

X = numpy.linspace(0, 1, 40, dtype=numpy.float32).reshape(10, 4)
Y = numpy.arange(10, dtype=numpy.int64) % 2


class Net(nn.Module):
    def __init__(self, hidden=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2), nn.Softmax(-1))

    def forward(self, x):
        return self.layers(x)


@entry("`NeuralNetClassifier`", edit="fitted for two epochs", use=lambda net: net.predict_proba(X))
def classifier():
    net = NeuralNetClassifier(Net, module__hidden=5, max_epochs=2, lr=0.1, verbose=0, train_split=None)
    net.fit(X, Y)
    return net

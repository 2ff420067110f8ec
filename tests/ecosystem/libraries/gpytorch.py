"""gpytorch: a Gaussian process, and a kernel."""

from __future__ import annotations

import gpytorch
import torch

from ecosystem.entries import entry

X = torch.linspace(0, 1, 12, dtype=torch.float64).unsqueeze(-1)
Y = torch.sin(6 * X.squeeze(-1))


class Regression(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood):
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5))

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def _posterior(model):
    model.eval()
    with torch.no_grad():
        found = model(X[:5] + 0.01)
    return found.mean, found.variance


@entry("a model derived from `ExactGP`", edit="its length scale set, float64", use=_posterior)
def exact():
    model = Regression(X, Y, gpytorch.likelihoods.GaussianLikelihood()).double()
    model.covar_module.base_kernel.lengthscale = 0.3
    model.likelihood.noise = 0.01
    return model


@entry(
    "a sum of kernels with a prior and a constraint",
    edit="one kernel more",
    use=lambda kernel: kernel(X).to_dense(),
)
def kernel():
    rbf = gpytorch.kernels.RBFKernel(
        ard_num_dims=1,
        lengthscale_prior=gpytorch.priors.GammaPrior(3.0, 6.0),
        lengthscale_constraint=gpytorch.constraints.Interval(0.05, 2.0),
    )
    made = gpytorch.kernels.ScaleKernel(rbf) + gpytorch.kernels.LinearKernel()
    made.kernels.append(gpytorch.kernels.PeriodicKernel())
    return made.double()

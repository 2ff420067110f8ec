"""Load a model somewhere else than where it was saved: map_location moves all of it, not only its parameters.

Run it with: python examples/gpu_to_cpu.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flambe_save import Component, load, save


class Scaler(Component, nn.Module):
    """Has one tensor of each kind: a parameter, a buffer, and a registered attribute that torch knows nothing of."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size))
        self.register_buffer("mean", torch.rand(size))
        self.history = torch.zeros(3)
        self.register_attrs("history")

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight, "mean": self.mean, "history": self.history}


def show(how: str, path: str, where: str, map_location: Any) -> Scaler:
    """Load the save in one way, and print and check where its tensors are."""
    model = load(path, map_location=map_location)
    devices = {name: tensor.device for name, tensor in model.tensors().items()}
    print(f"   {how:<44}" + ", ".join(f"{name} on {device}" for name, device in devices.items()))
    assert {device.type for device in devices.values()} == {where}, devices
    return model


def main() -> None:
    torch.manual_seed(0)
    has_gpu = torch.cuda.is_available()
    home = torch.device("cuda", 0) if has_gpu else torch.device("cpu")
    if not has_gpu:
        print("There is no GPU here: the model is saved on the CPU, and 'meta' stands in for the other device.")

    model = Scaler(4).to(home)
    model.history = torch.tensor([0.9, 0.5, 0.3], device=home)  # torch's `to` moves no plain attributes
    with tempfile.TemporaryDirectory() as folder:
        path = save(model, Path(folder) / "scaler")
        print(f"Saved on {home}. Loaded with map_location =")

        same = show("None: where it was", path, home.type, None)
        on_cpu = show("'cpu'", path, "cpu", "cpu")
        other = "cpu" if has_gpu else "meta"
        show(f"{{{str(home)!r}: {other!r}}}", path, other, {str(home): other})
        # torch hands over the bytes, in the CPU's memory, and where they were; what comes back is where they shall be
        stay = show("lambda storage, location: storage", path, "cpu", lambda storage, location: storage)
        show("'meta': shapes and types, and no memory", path, "meta", "meta")

    for loaded in (same, on_cpu, stay):
        for name, tensor in loaded.tensors().items():
            assert torch.equal(tensor.cpu(), model.tensors()[name].cpu()), name
    print("The values are the saved ones, wherever there are values.")


if __name__ == "__main__":
    main()

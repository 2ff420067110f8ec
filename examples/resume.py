"""Train a digit reader, be killed in the middle of saving a checkpoint, go on, and end with the very same weights.

Run it with: python examples/resume.py [--output FOLDER]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from digits_model import Backbone, Head
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flambe_save import RandomStates, load, save

EPOCHS = 6


def begin() -> dict[str, Any]:
    """Return the checkpoint of a run that has not begun: all that makes the next step what it is."""
    torch.manual_seed(0)
    model = nn.Sequential(
        Backbone(channels=8, features=32), Head(features=32, classes=10)
    )  # with dropout, which draws from torch's own numbers
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    generator = torch.Generator().manual_seed(1)  # shuffles the data
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "generator": generator,
        "random": RandomStates(),
        "epoch": 0,
    }


def train(checkpoint: dict[str, Any], path: Path | None = None) -> None:
    """Go on from a checkpoint to the last epoch; with a path, save there after each."""
    model, optimizer, scheduler = checkpoint["model"], checkpoint["optimizer"], checkpoint["scheduler"]
    raw = load_digits()
    data = TensorDataset(torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(raw.target))
    batches = DataLoader(data, batch_size=64, shuffle=True, generator=checkpoint["generator"])
    model.train()
    while checkpoint["epoch"] < EPOCHS:
        for images, digits in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), digits)
            loss.backward()
            optimizer.step()
        scheduler.step()
        checkpoint["epoch"] += 1
        print(
            f"   epoch {checkpoint['epoch']}: loss {loss.item():.6f}, then rate {scheduler.get_last_lr()[0]}",
            flush=True,
        )
        if path is not None:
            save(checkpoint, path, overwrite=True)


def kill_in_save(number: int) -> None:
    """Let the system kill this process in the middle of a save: when it has written some of the files."""
    opened = 0

    def see(event: str, arguments: tuple[Any, ...]) -> None:  # Python calls it before it opens a file
        nonlocal opened
        if event == "open" and arguments[0] == "config.yaml" and arguments[2] & os.O_CREAT:
            opened += 1
            if opened == number:
                print(f"   killed while it writes checkpoint {number}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(see)


def in_new_process(action: str, path: Path) -> int:
    """Run a part of this file in a process of its own, and return how it ended."""
    return subprocess.run([sys.executable, __file__, action, str(path)]).returncode


def equal(one: Any, other: Any) -> bool:
    """Whether two nested states are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def story(output: Path) -> None:
    """Everything in order; the parts that get killed or resume run in processes of their own."""
    print(f"1. {EPOCHS} epochs in one go")
    straight = begin()
    train(straight)

    print("\n2. The same in a new process, with a checkpoint after each epoch, killed in the middle of the fourth save")
    path = output / "checkpoint"
    ended = in_new_process("--doomed", path)
    assert ended == -signal.SIGKILL, ended
    left = sorted(item.name for item in output.iterdir())
    print(f"   in the folder: {', '.join(left)}")
    assert len(left) == 2, left

    print("\n3. The path has the third checkpoint, whole; what was half written is not looked at")
    checkpoint = load(path)
    assert checkpoint["epoch"] == 3
    assert checkpoint["optimizer"].param_groups[0]["params"][0] is next(checkpoint["model"].parameters())
    print(f"   epoch {checkpoint['epoch']}, and the optimizer is that of the loaded model")

    print("\n4. Load it in a new process and go on")
    ended = in_new_process("--resume", path)
    assert ended == 0, ended
    left = sorted(item.name for item in output.iterdir())
    assert left == ["checkpoint"], left
    print(f"   in the folder: {', '.join(left)}; the next save removed what was half written")

    print("\n5. Compare")
    resumed = load(path)
    for name in ("model", "optimizer", "scheduler"):
        assert equal(resumed[name].state_dict(), straight[name].state_dict()), name
    assert torch.equal(resumed["generator"].get_state(), straight["generator"].get_state())
    print("   model, optimizer, scheduler and shuffling are equal, bit for bit")
    print(f"\nThe checkpoint is yours to look at: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="where the checkpoint goes; by default a new temporary folder")
    parser.add_argument("--doomed", metavar="SAVE", help="only train, saving here, and be killed in the fourth save")
    parser.add_argument("--resume", metavar="SAVE", help="only go on from this checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.doomed:
        kill_in_save(4)
        train(begin(), Path(options.doomed))
    elif options.resume:
        train(load(options.resume), Path(options.resume))
    else:
        output = Path(options.output or tempfile.mkdtemp(prefix="flambe_save-"))
        output.mkdir(parents=True, exist_ok=True)
        story(output)


if __name__ == "__main__":
    main()

"""See what fine-tuning changed: a small BERT before and after, its tree, the difference, and a page of both.

Run it with: python examples/look_inside.py [FOLDER]
It needs transformers and the extra cli: pip install transformers 'flambe_save[cli]'. With FOLDER, the two saves and the
page stay there; nothing is downloaded: the model starts from random weights.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, logging

import flambe_save
from flambe_save.cli import main as flambe_save_command


def fine_tune(model: BertForSequenceClassification, steps: int = 5) -> None:
    """Train the last layer and the classifier on nonsense; all else is frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("bert.encoder.layer.1.", "classifier.")))
    optimizer = torch.optim.AdamW((item for item in model.parameters() if item.requires_grad), lr=1e-3)
    words, labels = torch.randint(0, 500, (16, 12)), torch.randint(0, 3, (16,))
    for _ in range(steps):
        loss = model(input_ids=words, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def look(folder: Path) -> None:
    """Save a model before and after, and show what is in the saves."""
    logging.set_verbosity_error()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=3,
    )
    model = BertForSequenceClassification(config)
    before = flambe_save.save(model, folder / "before")
    fine_tune(model)
    after = flambe_save.save(model, folder / "after")

    with flambe_save.open(after) as saved:
        print(saved)
        largest = max(saved.tensors, key=lambda name: saved.tensors[name].bytes or 0)
        print(f"largest: {largest}, {saved.tensors[largest].shape}, norm {saved.statistics(largest).norm:.1f}")
    moved = {row.name for row in flambe_save.diff(before, after) if row.part == "tensor"}
    print(f"{len(moved)} tensors moved, all of them in the last layer or the classifier")
    assert all(name.startswith(("bert.encoder.layer.1.", "classifier.")) for name in moved if name)

    for command in (
        ["tree", after],
        ["diff", before, after],
        ["report", before, after, "-o", str(folder / "page.html")],
    ):
        print(f"\n$ flambe-save {' '.join(command)}", flush=True)
        flambe_save_command(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the saves and the page stay")
    folder = parser.parse_args().folder
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        look(folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        look(Path(temporary))


if __name__ == "__main__":
    main()

"""Train a digit reader, save it as a folder, load it in a new process, and reuse a part of it.

Run it with: python examples/quickstart.py [--output FOLDER]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from digits_model import Backbone, DigitClassifier, Head, Labels
from sklearn.datasets import load_digits
from torch import nn

from flambe_save import load, save

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits:
    """scikit-learn's 1797 handwritten digits: every fifth is a test, the others train."""

    def __init__(self) -> None:
        raw = load_digits()
        images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
        is_test = torch.arange(len(images)) % 5 == 0
        self.train_images, self.test_images = images[~is_test], images[is_test]
        self.train_digits, self.test_digits = raw.target[~is_test].tolist(), raw.target[is_test].tolist()


def train(model: DigitClassifier, images: torch.Tensor, words: Sequence[str], epochs: int) -> None:
    """Fit what of the model may be trained."""
    targets = model.labels.encode(words)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), targets[batch]).backward()
            optimizer.step()


def accuracy(model: DigitClassifier, images: torch.Tensor, words: Sequence[str]) -> float:
    """Return the share of images that the model reads right."""
    model.eval()
    with torch.inference_mode():
        read = model.labels.decode(model(images))
    return sum(a == b for a, b in zip(read, words, strict=True)) / len(words)


def spell(digits: Sequence[int]) -> list[str]:
    return [WORDS[digit] for digit in digits]


def parity(digits: Sequence[int]) -> list[str]:
    return ["odd" if digit % 2 else "even" for digit in digits]


def show_tree(folder: Path, indent: str = "") -> None:
    """Print a folder's files with their sizes, then the folders in it."""
    print(f"{indent}{folder.name}/")
    indent += "    "
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        print(f"{indent}{file.name:<{36 - len(indent)}}{file.stat().st_size:>9,} bytes")
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        show_tree(inner, indent)


def evaluate(path: str) -> None:
    """What the new process does; it knows the model's classes and the folder, and nothing else."""
    data = Digits()
    model = load(path)
    print(f"accuracy {accuracy(model, data.test_images, spell(data.test_digits))}")


def story(output: Path) -> None:
    """Everything else, in order."""
    data = Digits()

    print("1. Train")
    labels = Labels()
    labels.learn(spell(data.train_digits))
    model = DigitClassifier(Backbone(), Head(features=64, classes=10), labels)
    train(model, data.train_images, spell(data.train_digits), epochs=10)
    before = accuracy(model, data.test_images, spell(data.test_digits))
    assert before > 0.95, before
    print(f"   accuracy {before}")

    print("\n2. Save: a folder, and in it a folder for each component")
    path = Path(save(model, output / "digits", overwrite=True))
    show_tree(path, "   ")

    print(f"\n3. How to rebuild it: {path.name}/config.yaml")
    print("   " + (path / "config.yaml").read_text(encoding="utf-8").replace("\n", "\n   ").rstrip())

    print("\n4. Load it in a new process")
    command = [sys.executable, __file__, "--evaluate", str(path)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    after = float(answer.split()[-1])
    assert after == before, (after, before)
    print(f"   accuracy {after}, the same to the last digit")

    print("\n5. Every folder is itself a save: the vocabulary alone")
    words = load(path / "labels").words
    assert words == model.labels.words
    print(f"   {', '.join(words)}")

    print("\n6. The backbone alone, frozen, tells even from odd under a new head")
    backbone = load(path, node="backbone")
    backbone.requires_grad_(False)
    labels = Labels()
    labels.learn(parity(data.train_digits))
    reuse = DigitClassifier(backbone, Head(backbone.features, classes=2), labels)
    train(reuse, data.train_images, parity(data.train_digits), epochs=3)
    reused = accuracy(reuse, data.test_images, parity(data.test_digits))
    assert reused > 0.9, reused
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), model.backbone.parameters(), strict=True))
    print(f"   accuracy {reused}, after 3 epochs")

    print(f"\nThe save is yours to look at: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", help="where the save goes; by default a new temporary folder")
    parser.add_argument("--evaluate", metavar="SAVE", help="only load this save and print its accuracy")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    if options.evaluate:
        evaluate(options.evaluate)
    else:
        story(Path(options.output or tempfile.mkdtemp(prefix="flambe_save-")))


if __name__ == "__main__":
    main()

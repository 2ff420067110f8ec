"""Train a tiny GPT-2 of Hugging Face transformers, save it, and see that its tied weights are one tensor again.

The model is built from a config and random numbers, so nothing is downloaded. Needs::

    pip install transformers
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from flambe_save import load, save

TEXT = "to be or not to be that is the question "
LETTERS = sorted(set(TEXT))


def numbers(text: str) -> torch.Tensor:
    """Return a text as numbers."""
    return torch.tensor([[LETTERS.index(letter) for letter in text]])


def build() -> Any:
    """Return a GPT-2 that reads letters; its last layer is the transpose of its first."""
    config = transformers.GPT2Config(
        vocab_size=len(LETTERS),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.GPT2LMHeadModel(config)


def goes_on(model: Any, text: str) -> str:
    """Return what a model writes after a text, by its own generation settings."""
    written = model.eval().generate(numbers(text), attention_mask=torch.ones_like(numbers(text)))
    return "".join(LETTERS[index] for index in written[0])


def read_again(path: str) -> None:
    """Load the model and let it write."""
    model = load(path)
    tied = model.lm_head.weight is model.transformer.wte.weight
    print(f"  it writes {goes_on(model, 'to be or')!r}; first and last layer are one tensor: {tied}")


def main() -> None:
    """Train, save, look inside, load in a new process."""
    torch.manual_seed(0)
    model = build()
    model.generation_config.max_new_tokens = 24
    batch = numbers(TEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        scores = model(input_ids=batch[:, :-1]).logits
        torch.nn.functional.cross_entropy(scores[0], batch[0, 1:]).backward()
        optimizer.step()
    print(f"Trained: it writes {goes_on(model, 'to be or')!r}")

    folder = Path(tempfile.mkdtemp(prefix="flambe_save_gpt2_"))
    try:
        path = Path(save(model, folder / "writer"))
        print("Its config.yaml:")
        print((path / "config.yaml").read_text(encoding="utf-8"))
        print("What the manifest says is tied:", json.loads((path / "manifest.json").read_text())["ties"])
        print("Loaded in a new process:")
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, str(path)], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read_again(sys.argv[1])
    else:
        main()

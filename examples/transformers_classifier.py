"""Train a tiny text classifier of Hugging Face transformers with a LoRA adapter, save it, and load it elsewhere.

The model is built from a config and random numbers, so nothing is downloaded. Needs::

    pip install transformers peft
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from flambe_save import load, load_state_from_file, save

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # some of its optional parts say that they are not installed
    import peft

WORDS = ["good", "great", "fine", "bad", "poor", "awful", "the", "film", "was", "very"]
LIKED = {"good", "great", "fine"}


def reviews(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return made-up reviews, each of eight words as numbers, and whether each holds more good words than bad."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(len(WORDS), (count, 8), generator=generator)
    liked = torch.tensor([1 if word in LIKED else -1 if index < 6 else 0 for index, word in enumerate(WORDS)])
    return words, (liked[words].sum(1) > 0).long()


def build() -> Any:
    """Return a BERT for two classes, whose layers are trained through LoRA, and whose embeddings are frozen."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=2,
    )
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, target_modules=["query", "key", "value", "dense"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks for a property that transformers has renamed
        return peft.get_peft_model(transformers.BertForSequenceClassification(config), lora)


def accuracy(model: Any) -> float:
    """Return how many of some new reviews a model reads rightly."""
    words, labels = reviews(500, seed=1)
    with torch.no_grad():
        return float((model.eval()(input_ids=words).logits.argmax(1) == labels).float().mean())


def read_again(path: str) -> None:
    """Load the model and use it: all that a program that serves it would do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = load(path)
    print(f"  a {type(model).__name__}, accuracy {accuracy(model):.4f}")


def main() -> None:
    """Train, save, look inside, load in a new process."""
    torch.manual_seed(0)
    model = build()
    words, labels = reviews(8000, seed=0)
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for batch in torch.arange(len(words)).split(100):
        optimizer.zero_grad()
        model(input_ids=words[batch], labels=labels[batch]).loss.backward()
        optimizer.step()
    print(f"Trained: accuracy {accuracy(model):.4f}")

    folder = Path(tempfile.mkdtemp(prefix="flambe_save_transformers_"))
    try:
        path = save(model, folder / "classifier")
        print("Saved as:")
        for file in sorted(Path(path).rglob("state.pt")):
            tensors = load_state_from_file(file.parent)
            print(f"  {file.relative_to(folder).parent}: {len(tensors)} tensors in it and below")
        print("Its config.yaml:")
        print((Path(path) / "config.yaml").read_text(encoding="utf-8"))
        print("Loaded in a new process:")
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, path], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read_again(sys.argv[1])
    else:
        main()

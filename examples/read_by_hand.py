"""Read a save without flambe_save, with json, zlib and torch.load(weights_only=True): what you saved stays yours.

Run it with: python examples/read_by_hand.py [SAVE]
Without SAVE it makes one first, in another process, and removes it in the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import torch


def write(path: str) -> None:
    """Make a save to read. Only this function knows flambe_save, and another process runs it."""
    from digits_model import Backbone, DigitClassifier, Head, Labels

    torch.manual_seed(0)
    labels = Labels()
    labels.learn(["even", "odd"])
    DigitClassifier(Backbone(channels=4, features=8), Head(features=8, classes=2), labels).save(path)


def read(save: Path) -> None:
    """Tell what is in a save, from its files alone."""
    manifest = json.loads((save / "manifest.json").read_text(encoding="utf-8"))
    torch_version = manifest["packages"]["torch"]
    print(f"manifest.json, written by {manifest['writer']} with torch {torch_version}, lists what there is:")
    for node in manifest["nodes"].values():
        print(f"   {node['folder'] or '.':<12}{node['class']:<18}{len(node['tensors'])} tensors")

    for name, facts in manifest["files"].items():
        data = (save / name).read_bytes()
        assert len(data) == facts["bytes"], name
        assert f"{zlib.crc32(data):08x}" == facts["crc32"], name
    print(f"   all {len(manifest['files'])} files have the sizes and checksums that it says")

    print("\nconfig.yaml, text for people, says how to build it again:")
    print("   " + (save / "config.yaml").read_text(encoding="utf-8").rstrip().replace("\n", "\n   "))

    node = next(node for node in manifest["nodes"].values() if node["tensors"])
    name, facts = next(iter(node["tensors"].items()))
    file = save / node["folder"] / "state.pt"
    tensor = torch.load(file, weights_only=True)[name]
    assert list(tensor.shape) == facts["shape"]
    assert str(tensor.dtype) == f"torch.{facts['dtype']}"
    print(f"\n{file.relative_to(save)}, which torch.load(weights_only=True) opens, holds this and more:")
    numbers = ", ".join(f"{number:.4f}" for number in tensor.flatten()[:3].tolist())
    print(f"   {name}, {facts['dtype']} of shape {tuple(tensor.shape)}: {numbers}, ...")

    assert "flambe_save" not in sys.modules
    print("\nflambe_save was not imported to tell this.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("save", nargs="?", type=Path, help="a folder that flambe_save has written")
    parser.add_argument("--write", metavar="PATH", help="only make a save there")
    options = parser.parse_args()
    if options.write:
        write(options.write)
    elif options.save:
        read(options.save)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "digits"
            subprocess.run([sys.executable, __file__, "--write", str(path)], check=True)
            read(path)


if __name__ == "__main__":
    main()

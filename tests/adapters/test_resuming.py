"""Every optimizer and scheduler of torch: three steps, a save, a load in a new process, three steps more."""

from __future__ import annotations

from pathlib import Path

from helpers.places import ROOT
from resuming import of_torch, row_of, there_and_back

KINDS = ROOT / "docs" / "kinds.md"


def test_all_of_torchs_go_on_to_the_last_bit(tmp_path: Path) -> None:
    """Equal to six straight steps, by default; where a scheduler is given functions, they are trusted by name."""
    found = there_and_back(tmp_path, of_torch(), "resuming")
    expected = dict.fromkeys(found, "equal")
    expected |= {"LambdaLR": "trusted=['resuming.half']", "MultiplicativeLR": "trusted=['resuming.tenth']"}
    assert found == expected
    assert len(found) == 45
    both = {name.removesuffix(" float32"): what for name, what in found.items() if not name.endswith(" bfloat16")}
    assert row_of("torch", both) in KINDS.read_text()

"""The examples: each runs as a newcomer runs it, says what it promises, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.places import ROOT

from flambe_save import save, verify

EXAMPLES = ROOT / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run an example in an empty folder, with another for temporary files, and return what it prints."""
    work, temporary = folder / "work", folder / "temporary"
    work.mkdir()
    temporary.mkdir()
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    places["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")  # which torch makes among the temporary files, unasked
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=work,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # no warnings either
    assert list(work.iterdir()) == []
    return done.stdout


def left_behind(folder: Path) -> list[Path]:
    """Return what an example left among the temporary files."""
    return list((folder / "temporary").iterdir())


def test_every_example_is_run_here() -> None:
    """A new example must get a test, or be a module that others import."""
    scripts = {path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    here = Path(__file__).read_text(encoding="utf-8")
    assert scripts == set(re.findall(r'run\("(\w+\.py)"', here))


def test_quickstart(tmp_path: Path) -> None:
    """It reads more than 95 % of the digits, in a new process just as many, and keeps only the save it names."""
    output = run("quickstart.py", tmp_path)
    before, after, reused = (float(number) for number in re.findall(r"accuracy ([\d.]+)", output))
    assert before > 0.95
    assert after == before
    assert reused > 0.9
    assert "!digits_model.DigitClassifier" in output

    path = Path(output.splitlines()[-1].removeprefix("The save is yours to look at: "))
    assert left_behind(tmp_path) == [path.parent]
    assert [saved.name for saved in path.parent.iterdir()] == ["digits"]
    for file in path.rglob("*"):
        assert file.name in output, file  # the printed tree is the folder


def test_gpu_to_cpu(tmp_path: Path) -> None:
    """It loads one save in five ways, and says so where there is no GPU."""
    output = run("gpu_to_cpu.py", tmp_path)
    assert output.count("history on ") == 5
    assert "weight on meta, mean on meta, history on meta" in output
    assert ("There is no GPU here" in output) is not torch.cuda.is_available()
    assert left_behind(tmp_path) == []


def test_links(tmp_path: Path) -> None:
    """The whole config has the link, the part's has the value."""
    output = run("links.py", tmp_path)
    whole, part = output.split("Saved, config.yaml keeps the links:")[1].split("In embedding/config.yaml")
    assert "words: !@ vocabulary.size" in whole
    assert "words: 8" in part
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a system that kills processes")
def test_resume(tmp_path: Path) -> None:
    """It is killed in a save, goes on from the checkpoint before, and ends with equal weights and one checkpoint."""
    output = run("resume.py", tmp_path)
    straight, doomed, *_, resumed, compared = output.split("\n\n")[:5]
    losses = [re.findall(r"epoch (\d): loss (\S+)", part) for part in (straight, doomed, resumed)]
    assert [epoch for epoch, _ in losses[0]] == list("123456")
    assert losses[1:] == [losses[0][:4], losses[0][3:]]
    assert "killed while it writes checkpoint 4" in doomed
    assert re.search(r"in the folder: \.checkpoint\.\S+, checkpoint", doomed)
    assert "equal, bit for bit" in compared

    path = Path(output.splitlines()[-1].removeprefix("The checkpoint is yours to look at: "))
    assert left_behind(tmp_path) == [path.parent]
    assert [saved.name for saved in path.parent.iterdir()] == ["checkpoint"]
    assert verify(path) == []


def test_read_by_hand(tmp_path: Path) -> None:
    """It makes a save, reads it without the package, and removes it."""
    output = run("read_by_hand.py", tmp_path)
    assert re.search(r"backbone +Backbone +6 tensors", output)
    assert "layers.0.weight, float32 of shape (4, 1, 3, 3)" in output
    assert output.endswith("flambe_save was not imported to tell this.\n")
    assert left_behind(tmp_path) == []


def test_read_by_hand_reads_any_save(tmp_path: Path) -> None:
    """Given a save, it reads that one and leaves it there."""
    path = Path(save(torch.nn.Linear(2, 3), tmp_path / "linear"))
    output = run("read_by_hand.py", tmp_path, str(path))
    assert "!torch.Linear" in output
    assert "weight, float32 of shape (3, 2)" in output
    assert (path / "manifest.json").is_file()


def test_transformers_classifier(tmp_path: Path) -> None:
    """It learns, shows a folder for the base model and one for the adapter, and reads as well in a new process."""
    pytest.importorskip("peft", reason="pip install transformers peft")
    output = run("transformers_classifier.py", tmp_path)
    before, after = (float(number) for number in re.findall(r"accuracy ([\d.]+)", output))
    assert before > 0.8
    assert after == before
    assert "classifier/adapters.default: 16 tensors" in output
    assert "model: !transformers.BertForSequenceClassification" in output
    assert left_behind(tmp_path) == []


def test_tied_language_model(tmp_path: Path) -> None:
    """It writes the same in a new process, where its tied weights are one."""
    pytest.importorskip("transformers", reason="pip install transformers")
    output = run("tied_language_model.py", tmp_path)
    before, after = re.findall(r"it writes '(.*)'", output)
    assert after == before
    assert "one tensor: True" in output
    assert "[['transformer.wte.weight', 'lm_head.weight']]" in output
    assert "max_new_tokens: 24" in output
    assert left_behind(tmp_path) == []


def test_look_inside(tmp_path: Path) -> None:
    """It tells what moved, and writes a page of both saves."""
    pytest.importorskip("transformers", reason="pip install transformers")
    pytest.importorskip("pygments", reason="pip install pygments")
    output = run("look_inside.py", tmp_path)
    assert "18 tensors moved, all of them in the last layer or the classifier" in output
    assert "tensors changed: 18" in output
    assert re.search(r"written: \S+page.html", output)
    assert left_behind(tmp_path) == []

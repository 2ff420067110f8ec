"""URLs are no local paths: what has no store is refused by every call, and no folder of that name is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import flambe_save
from flambe_save import LoadError, SaveError, load, migrate, save, save_async, save_state_to_file, untrusted, verify
from flambe_save.cli import main
from flambe_save.conversion import convert, extract, pack, unpack

URLS = ("s3://bucket/run", "gs://b/run", "memory://run", "hf://user/repo", "simplecache::s3://bucket/run", "s3:/b/run")
LAYER = torch.nn.Linear(2, 2)


def written(here: str) -> dict[str, Callable[[Any], Any]]:
    return {
        "save": lambda url: save(LAYER, url),
        "save, a path": lambda url: save(LAYER, Path(url)),
        "save, packed": lambda url: save(LAYER, url, compress=True, pickle_only=True),
        "save_async": lambda url: save_async(LAYER, url).result(),
        "save_state_to_file": lambda url: save_state_to_file(LAYER.state_dict(), url),
        "convert": lambda url: convert(here, url),
        "extract": lambda url: extract(here, "weight", url + ".npy"),
        "pack": lambda url: pack(here, url),
        "unpack": lambda url: unpack(here + ".tar.gz", url),
    }


READ: dict[str, Callable[[Any], Any]] = {
    "load": load,
    "load a node": lambda url: load(url, node="a"),
    "load_state": lambda url: flambe_save.load_state(LAYER, url),
    "load_state_from_file": lambda url: flambe_save.load_state_from_file(url),
    "open": flambe_save.open,
    "diff": lambda url: flambe_save.diff(url, url),
    "untrusted": untrusted,
    "verify": verify,
    "migrate": migrate,
    "convert": lambda url: convert(url, "out"),
    "pack": pack,
    "unpack": unpack,
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written and nothing is read; the error names the scheme."""
    here = save(LAYER, tmp_path / "run")
    save(LAYER, tmp_path / "run", compress=True)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for call in written(here).values():
        with pytest.raises(SaveError, match=r"no store for \w+://"):
            call(url)
    for call in READ.values():
        with pytest.raises(LoadError, match=r"no store for \w+://"):
            call(url)
    with pytest.raises(LoadError, match="no store"):
        save(LAYER, "out", base=url)
    assert list(work.iterdir()) == []


def test_the_command_refuses_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Every verb exits with trouble, and writes nothing."""
    here = save(LAYER, tmp_path / "run")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    url = "s3://bucket/run"
    reading = [[verb, url] for verb in ("tree", "show", "verify", "untrusted", "migrate", "pack", "unpack")]
    others = [["diff", url, here], ["convert", url, "out"], ["extract", f"{url}#a", "out"], ["report", url, "-o", "x"]]
    writing = [["convert", here, url], ["pack", here, url], ["report", here, "-o", url, "--no-stats"]]
    for argv in reading + others + writing:
        assert main(argv) == 2
        assert "no store for s3://" in capfd.readouterr().err
    assert list(work.iterdir()) == []


def test_a_file_url_is_its_path(tmp_path: Path) -> None:
    """`file:///path` is read and written as the path; one with another host is refused."""
    url = f"file://{tmp_path}/a%20run"
    assert save(LAYER, url) == f"{tmp_path}/a run"
    assert torch.equal(load(f"file://localhost{tmp_path}/a%20run").weight, LAYER.weight)
    for wrong in ("file://elsewhere/run", "file:/run"):
        with pytest.raises(SaveError, match="three slashes"):
            save(LAYER, wrong)

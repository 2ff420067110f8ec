"""Saves as a test wants them: with a given config, with a byte that is wrong, or as the bytes of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flambe_save import save, save_state_to_file
from flambe_save.state import State

CONTAINERS: dict[str, dict[str, Any]] = {
    "": {},
    ".tar.gz": {"compress": True},
    ".pkl": {"pickle_only": True},
    ".pkl.tar.gz": {"compress": True, "pickle_only": True},
}


def written(obj: Any, path: Path, suffix: str = "", **options: Any) -> Path:
    """Save an object, or a state, in the container of a suffix, and return the save's path."""
    write = save_state_to_file if isinstance(obj, State) else save
    write(obj, path, **CONTAINERS[suffix], **options)
    return path.with_name(path.name + suffix)


def with_config(path: Path, config: str, obj: Any = None) -> Path:
    """Return a save of a small dict, or of an object, with another config, and without its manifest."""
    save({"x": 1} if obj is None else obj, path)
    (path / "manifest.json").unlink()
    (path / "config.yaml").write_text(config)
    return path


def files_of(path: str | Path) -> dict[str, bytes]:
    """Return the files of a folder by their names in it, or a single file under the name ``""``."""
    path = Path(path)
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def flip(path: Path, at: int | None = None) -> None:
    """Change one bit of a file: at a place, from its end where that is negative, or in the middle."""
    data = bytearray(path.read_bytes())
    at = len(data) // 2 if at is None else max(at, -len(data))
    data[at] ^= 1
    path.write_bytes(data)

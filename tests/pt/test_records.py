"""Classes of attrs and models of pydantic are their fields: they load without trust, and without code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flambe_save import load, save, untrusted

attrs: Any = pytest.importorskip("attrs")
pydantic: Any = pytest.importorskip("pydantic")


def refuse(*_: Any) -> None:
    """Stand for code of a class that no load runs."""
    if refuse.is_on:  # type: ignore[attr-defined]
        raise AssertionError("a load ran it")


refuse.is_on = False  # type: ignore[attr-defined]


@attrs.define
class Slotted:
    """With slots, and a list."""

    size: int = attrs.field(default=3, validator=refuse)
    names: list[str] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        refuse()


@attrs.frozen
class Frozen:
    """Frozen, around another."""

    inner: Slotted
    span: tuple[int, int] = (1, 2)


@attrs.define(slots=False)
class Open:
    """With a dict, so that it takes more than its fields."""

    size: int = 1


class Inner(pydantic.BaseModel):
    """A model with a private attribute."""

    first: float = 0.5
    _count: int = pydantic.PrivateAttr(default=2)


class Settings(pydantic.BaseModel):
    """A model with an inner one, extra fields, and a validator."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)
    name: str
    inner: Inner = Inner()
    rates: list[float] = pydantic.Field(default_factory=list)

    @pydantic.field_validator("name")
    @classmethod
    def check(cls, value: str) -> str:
        """Run by the constructor alone."""
        refuse()
        return value


class Loud(pydantic.BaseModel):
    """Defines what Python calls when it is copied, so it is more than its fields."""

    def __deepcopy__(self, memo: Any = None) -> Any:
        raise AssertionError


def test_records_are_their_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, what was set, what is private or extra, and what is one object come back; no validator is run."""
    slotted = Slotted(5)
    slotted.names.append("x")
    opened = Open()
    opened.more = "than fields"
    settings = Settings(name="n", inner=Inner(first=0.25), other=7)
    settings.inner._count = 9
    settings.rates.append(0.1)
    made = {
        "frozen": Frozen(slotted),
        "slotted": slotted,
        "open": opened,
        "settings": settings,
        "bare": Settings(name="b"),
    }
    path = save(made, tmp_path / "run")
    monkeypatch.setattr(refuse, "is_on", True)
    assert untrusted(path) == []
    again = load(path)
    monkeypatch.setattr(refuse, "is_on", False)
    assert again == made
    assert again["frozen"].inner is again["slotted"]
    assert again["open"].more == "than fields"
    loaded = again["settings"]
    assert (loaded.inner._count, loaded.other, loaded.model_fields_set) == (9, 7, {"name", "inner", "other"})
    assert again["bare"].model_fields_set == {"name"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        again["frozen"].span = (3, 4)
    with pytest.raises(pydantic.ValidationError):
        loaded.name = "m"


def test_a_model_with_methods_of_pythons_is_more_than_fields(tmp_path: Path) -> None:
    """It is pickled, and needs trust."""
    with pytest.warns(Warning, match="Loud"):
        path = save({"a": Loud()}, tmp_path / "run")
    assert {row.argument for row in untrusted(path)} == {"trusted=['test_records.Loud']"}
    assert load(path, trusted=["test_records.Loud"])["a"] == Loud()

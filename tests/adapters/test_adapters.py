"""The adapters here pass the suite that plug-ins inherit, and a plug-in's own adapter is found where its object is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flambe_save import Component, LinkError, Schema, load, register, register_adapter, save
from flambe_save.adapters import Child, Fit, Mismatch, Place, adapter_for, close_cycles
from flambe_save.registry import ADAPTERS, Registry
from flambe_save.schema.link import BackLink
from flambe_save.schema.schema import schema_of
from flambe_save.state import State
from flambe_save.testing import AdapterContract


class TestLinear(AdapterContract):
    """A built-in module."""

    def make_object(self, seed: int) -> nn.Module:
        """Return a layer."""
        torch.manual_seed(seed)
        return nn.Linear(2, 3)


class TestLSTM(AdapterContract):
    """A built-in module that keeps its weights in a list too."""

    def make_object(self, seed: int) -> nn.Module:
        """Return a recurrent layer."""
        torch.manual_seed(seed)
        return nn.LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True)


class TestSequential(AdapterContract):
    """Built-ins inside built-ins."""

    def make_object(self, seed: int) -> nn.Module:
        """Return a small network."""
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.BatchNorm2d(2), nn.ModuleList([nn.Linear(1, 1)]))


class Counted(Component, nn.Module):
    """A component that is a module and holds another."""

    def __init__(self, size: int, inner: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))
        self.count = torch.randint(1 << 40, ())
        self.inner = inner
        self.register_attrs("count")


class TestComponent(AdapterContract):
    """Components."""

    def make_object(self, seed: int) -> Component:
        """Return a component in a component."""
        torch.manual_seed(seed)
        return Counted(2, Counted(3))


class Thermometer:
    """A class of somebody else's, that is neither a Component nor a module."""

    def __init__(self, unit: str = "C") -> None:
        self.unit = unit
        self.degrees = 0.0


class ThermometerAdapter:
    """What a plug-in writes for it."""

    def describe(self, obj: Thermometer) -> Schema:
        """Tell how it was built."""
        return Schema(Thermometer, unit=obj.unit)

    def children(self, obj: Thermometer) -> Iterable[Child]:
        """Have none."""
        return ()

    def get_state(self, place: Place, state: State) -> None:
        """Give the degrees."""
        state[f"{place.key_prefix}degrees"] = place.obj.degrees

    def load_state(self, place: Place, state: State, mismatch: Mismatch, fit: Fit | None) -> None:
        """Take the degrees."""
        key = f"{place.key_prefix}degrees"
        if key in state:
            place.obj.degrees = state[key]
            mismatch.consumed.add(key)
        else:
            mismatch.missing.append(key)


@pytest.fixture(autouse=True, scope="module")
def _plug_in() -> Iterator[None]:
    """Register the plug-in as its package would, and forget it afterwards."""
    register(Thermometer, "thermo.meter")
    register_adapter(Thermometer, ThermometerAdapter())
    yield
    del ADAPTERS._entries[f"{Thermometer.__module__}.Thermometer"]
    ADAPTERS._by_type.clear()


class TestThermometer(AdapterContract):
    """The plug-in passes the suite itself."""

    def make_object(self, seed: int) -> Thermometer:
        """Return one that has measured something."""
        meter = Thermometer("K")
        meter.degrees = seed + 0.5
        return meter


class Weather(Component):
    """Keeps what the plug-in is for, among other things."""

    def __init__(self, meters: list[Any], model: Any) -> None:
        self.meters = meters
        self.model = model


class Sensor(Component, nn.Module):
    """A module that keeps one as a plain attribute."""

    def __init__(self, meter: Any) -> None:
        super().__init__()
        self.meter = meter
        self.linear = nn.Linear(1, 1)


def test_plug_in_is_found_inside_components(tmp_path: Path) -> None:
    """An object of a registered kind is saved wherever a component is: in a list, in a module."""
    weather = Weather([Thermometer(), Thermometer("F")], Sensor(Thermometer("K")))
    weather.meters[1].degrees = 70.5
    weather.model.meter.degrees = 300.0
    again = load(save(weather, tmp_path / "run"))
    assert [meter.degrees for meter in again.meters] == [0.0, 70.5]
    assert (again.model.meter.unit, again.model.meter.degrees) == ("K", 300.0)


def test_adapter_by_name_is_imported_when_needed() -> None:
    """A registry holds names, imports them on first use, and says what to install where that fails."""
    registry: Registry[Any] = Registry("adapter", "no.such.group")
    registry.add("builtins.int", "collections:OrderedDict")
    registry.add("builtins.str", "no_such_package:X", hint="pip install no_such_package")
    assert registry.for_type(bool).__name__ == "OrderedDict"
    with pytest.raises(ImportError, match="pip install no_such_package"):
        registry["builtins.str"]
    with pytest.raises(KeyError, match=r"no adapter 'x'.*builtins\.int"):
        registry["x"]


def test_unknown_kinds_have_no_adapter() -> None:
    """What nobody registered has none, and no record of how it was built."""
    assert adapter_for(object()) is None
    assert schema_of(object()) is None


@pytest.mark.parametrize(
    "config", [BackLink("x"), [{BackLink("")}], {BackLink(""): 1}, [BackLink("x")], ([BackLink("1")],)]
)
def test_links_back_that_nothing_can_fill_are_refused(config: Any) -> None:
    """A link to a container that stands in none, or where no container could be put, is left in no object."""
    with pytest.raises(LinkError):
        close_cycles(config)

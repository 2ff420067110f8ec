"""Random states: each kind of generator goes on where it was, also in another process, and no save can break one."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_process import run_program

from flambe_save import (
    Component,
    LinkError,
    RandomStates,
    RegistrationError,
    Schema,
    StateMismatchError,
    StateMismatchWarning,
    load,
    load_state_from_file,
    save,
    save_state_to_file,
    untrusted,
    yaml,
)
from flambe_save.adapters import adapter_for, get_state, load_state
from flambe_save.classes.tags import TAGS
from flambe_save.testing import AdapterContract, same

BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def numpy_generator(bits: str, seed: int) -> np.random.Generator:
    """Return a generator in the midst of its stream, with half of a word left over."""
    generator = np.random.Generator(getattr(np.random, bits)(seed))
    generator.integers(9, size=3, dtype=np.uint32)
    generator.standard_normal(5)
    return generator


def numpy_draws(generator: np.random.Generator) -> list[Any]:
    """Return the next numbers, of a spawned generator too."""
    return [
        generator.integers(1 << 30, size=3, dtype=np.uint32).tolist(),
        generator.standard_normal(700).tolist(),
        generator.spawn(1)[0].random(3).tolist(),
    ]


class TestTorchGenerator(AdapterContract):
    """torch.Generator."""

    def make_object(self, seed: int) -> torch.Generator:
        """Return one in the midst of its stream."""
        generator = torch.Generator().manual_seed(seed)
        torch.randn(7, generator=generator)
        return generator


class TestNumpyGenerator(AdapterContract):
    """numpy's Generator, over its usual bit generator."""

    def make_object(self, seed: int) -> np.random.Generator:
        """Return one in the midst of its stream."""
        return numpy_generator("PCG64", seed)


class TestMersenneGenerator(AdapterContract):
    """numpy's Generator over one whose state is an array."""

    def make_object(self, seed: int) -> np.random.Generator:
        """Return one in the midst of its stream."""
        return numpy_generator("MT19937", seed)


class TestNumpyRandomState(AdapterContract):
    """numpy's RandomState."""

    def make_object(self, seed: int) -> np.random.RandomState:
        """Return one in the midst of its stream, a normal number left over."""
        state = np.random.RandomState(seed)
        state.randn(3)
        return state


class TestPythonRandom(AdapterContract):
    """Python's Random."""

    def make_object(self, seed: int) -> random.Random:
        """Return one in the midst of its stream, a normal number left over."""
        source = random.Random(seed)
        source.gauss(0, 1)
        return source


# ------------------------------------------------------------------------------------------- streams go on


@pytest.mark.parametrize("drawn", [0, 1, 16, 623, 624, 625])
def test_torch_generator_goes_on(drawn: int, tmp_path: Path) -> None:
    """Wherever in its words it was saved, the next numbers are the same."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(drawn):
        torch.randint(9, (), generator=generator)
    again = load(save(generator, tmp_path / "run"))
    assert again is not generator
    assert torch.equal(torch.randn(700, generator=again), torch.randn(700, generator=generator))


@pytest.mark.parametrize("bits", BIT_GENERATORS)
def test_numpy_generator_goes_on(bits: str, tmp_path: Path) -> None:
    """The next numbers are the same, and so are those of the generators that are spawned from it."""
    generator = numpy_generator(bits, 3)
    generator.spawn(2)
    again = load(save(generator, tmp_path / "run"))
    assert f"!numpy.{bits}" in (tmp_path / "run" / "config.yaml").read_text()
    assert numpy_draws(again) == numpy_draws(generator)


@pytest.mark.parametrize("entropy", [[1, 2**40], np.arange(3), np.uint8(3), 2**200])
def test_any_entropy_is_kept(entropy: Any) -> None:
    """A seed may be numbers of many kinds; what is spawned after a load is the same."""
    generator, again = np.random.default_rng(entropy), np.random.default_rng(0)
    load_state(again, get_state(generator))
    assert numpy_draws(again) == numpy_draws(generator)


def test_odd_entropy_is_left_out() -> None:
    """Of a generator with a seed too large to be believed, the stream alone is kept."""
    for generator in (np.random.default_rng([1] * 2000), np.random.default_rng(2**5000)):
        state = get_state(generator)
        assert state["seed"] is None
        again = np.random.default_rng(0)
        load_state(again, state)
        assert again.random() == generator.random()


@pytest.mark.parametrize("bits", BIT_GENERATORS)
def test_numpy_random_state_goes_on(bits: str, tmp_path: Path) -> None:
    """The next numbers are the same, the left-over normal number first."""
    state = np.random.RandomState(getattr(np.random, bits)(3))
    state.randn(3)
    again = load(save(state, tmp_path / "run"))
    assert again.randn(700).tolist() == state.randn(700).tolist()
    assert again.randint(1 << 30, size=9).tolist() == state.randint(1 << 30, size=9).tolist()


def test_python_random_goes_on(tmp_path: Path) -> None:
    """The next numbers are the same, the left-over normal number first."""
    source = random.Random("a text")
    source.gauss(0, 1)
    again = load(save(source, tmp_path / "run"))
    assert [again.gauss(0, 1) for _ in range(700)] == [source.gauss(0, 1) for _ in range(700)]


class Sampler(Component):
    """Holds generators: one that it is given, one of its own."""

    def __init__(self, generator: torch.Generator, others: Any = ()) -> None:
        self.generator = generator
        self.others = list(others)
        self.own = random.Random(0)


def test_generators_inside_components(tmp_path: Path) -> None:
    """Arguments are built again without trust, and what a component made itself goes on too; what is one stays one."""
    sampler = Sampler(torch.Generator().manual_seed(5), [numpy_generator("PCG64", 2)])
    sampler.others.append(sampler.generator)
    sampler.own.random()
    path = save(Sampler(sampler.generator, sampler.others), tmp_path / "run")
    assert untrusted(path) == []
    again = load(path)
    assert again.others[1] is again.generator
    assert torch.equal(torch.rand(3, generator=again.generator), torch.rand(3, generator=sampler.generator))
    assert numpy_draws(again.others[0]) == numpy_draws(sampler.others[0])

    sampler = Sampler(torch.Generator())
    sampler.own.random()
    assert load(save(sampler, tmp_path / "other")).own.random() == sampler.own.random()


class Loud(random.Random):
    """A subclass with a state of its own making."""

    def getstate(self) -> Any:
        """Return what no adapter knows."""
        return "loud"


def test_what_has_no_known_state_is_left_alone() -> None:
    """SystemRandom has no state, a subclass of Random and a foreign bit generator may have any."""

    class Bits(np.random.PCG64):
        pass

    for source in (random.SystemRandom(), Loud(3), np.random.Generator(Bits(1)), np.random.RandomState(Bits(1))):
        state = get_state(source)
        assert dict(state) == {}
        adapter = adapter_for(source)
        assert adapter is not None
        assert adapter.describe(source) is None
        load_state(source, state)


def test_saves_are_equal_files(tmp_path: Path) -> None:
    """Two saves of one generator are the same bytes."""
    generator = numpy_generator("Philox", 3)
    for name in ("one", "two"):
        save(generator, tmp_path / name)
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


# ------------------------------------------------------------------------------------------- the whole process


@pytest.fixture(autouse=True)
def _same_process_afterwards() -> Iterator[None]:
    """Give the process back its random states."""
    before = get_state(RandomStates())
    yield
    load_state(RandomStates(), before)


def draws() -> list[Any]:
    """Return the process's next numbers, of each kind."""
    return [
        torch.rand(700).tolist(),
        torch.randn(3).tolist(),
        np.random.rand(700).tolist(),
        np.random.randn(3).tolist(),
        [random.random() for _ in range(700)],
        random.gauss(0, 1),
        *(torch.rand(3, device=f"cuda:{index}").tolist() for index in range(torch.cuda.device_count())),
    ]


def test_process_goes_on(tmp_path: Path) -> None:
    """A save has the states of the moment that it is made in; a load brings them back. Saving changes none."""
    states = RandomStates()
    draws()
    before = get_state(RandomStates())
    path = save(states, tmp_path / "run")
    assert same(get_state(states), before)
    expected = draws()
    assert draws() != expected
    again = load(path)
    assert type(again) is RandomStates
    assert draws() == expected
    assert untrusted(path) == []


def test_inside_a_component(tmp_path: Path) -> None:
    """It is a folder of its own, and building the objects around it does not disturb it."""

    class Run(Component):
        def __init__(self, model: torch.nn.Module, states: RandomStates) -> None:
            self.model, self.states = model, states

    path = save(Run(torch.nn.Linear(9, 9), RandomStates()), tmp_path / "run")
    expected = draws()
    load(path)
    assert draws() == expected
    load(path, node="states")
    assert draws() == expected


class Drawing(Component):
    """Draws numbers while it is loaded."""

    def _load_state(self, *args: Any) -> None:
        torch.rand(3)


def test_is_loaded_last(tmp_path: Path) -> None:
    """What draws numbers while it is loaded does not disturb it, wherever it stands."""
    path = save({"states": RandomStates(), "other": Drawing()}, tmp_path / "run")
    expected = draws()
    load(path)
    assert draws() == expected


def test_across_processes(tmp_path: Path) -> None:
    """A new process goes on where this one was saved."""
    path = save(RandomStates(), tmp_path / "run")
    code = (
        "import sys, random, torch, numpy as np, flambe_save; flambe_save.load(sys.argv[1]);"
        "print(torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())"
    )
    assert (
        run_program(code, path).stdout == f"{torch.rand(3).tolist()} {np.random.rand(3).tolist()} {random.random()}\n"
    )


def test_without_numpy(tmp_path: Path) -> None:
    """A process that has no numpy leaves numpy's state out, and says so; its own save has none, which is no error."""
    path = save(RandomStates(), tmp_path / "run")
    code = (
        "import sys, warnings; sys.modules['numpy'] = None; warnings.simplefilter('ignore')\n"
        "import torch, flambe_save\n"
        "warnings.simplefilter('always')\n"
        "states = flambe_save.load(sys.argv[1])\n"
        "print(torch.rand(3).tolist(), states)\n"
        "flambe_save.save(states, sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, path, str(tmp_path / "other")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"{torch.rand(3).tolist()} RandomStates(torch, ")
    assert "numpy" not in done.stdout
    assert "StateMismatchWarning: the save holds random states of numpy, and this machine has none" in done.stderr
    before = np.random.get_state()[1].tolist()
    load(tmp_path / "other")
    assert np.random.get_state()[1].tolist() == before


def test_repr_names_what_there_is() -> None:
    """The repr tells whose states would be saved."""
    assert repr(RandomStates()).startswith("RandomStates(torch, ")
    assert "numpy, python" in repr(RandomStates())


def test_states_of_more_devices_are_left_out(tmp_path: Path) -> None:
    """A save of a machine with more devices loads: what is not here is left out with a warning."""
    state = get_state(RandomStates())
    there = torch.cuda.device_count()
    state["cuda"] = [*state["cuda"], *(torch.zeros(16, dtype=torch.uint8) for _ in range(3))]
    with pytest.warns(StateMismatchWarning, match=f"{there + 3} CUDA devices, and this machine has {there}"):
        load_state(RandomStates(), state)
    state = get_state(RandomStates())
    if torch.backends.mps.is_available():
        pytest.skip("this machine has an mps device")
    state["mps"] = torch.zeros(44, dtype=torch.uint8)
    expected = draws()
    with pytest.warns(StateMismatchWarning, match="an mps device, and this machine has none"):
        load_state(RandomStates(), state)
    assert draws() == expected


@pytest.mark.parametrize("key", ["torch", "cuda", "mps", "numpy", "python"])
def test_a_missing_key_is_reported(key: str) -> None:
    """A state that lacks one of the parts does not load, unless that is allowed."""
    state = get_state(RandomStates())
    del state[key]
    with pytest.raises(StateMismatchError, match=f"missing from the save: {key}"):
        load_state(RandomStates(), state)
    with pytest.warns(StateMismatchWarning, match="missing"):
        load_state(RandomStates(), state, strict=False)


def test_onto_meta(tmp_path: Path) -> None:
    """On the meta device tensors are empty, and there is nothing to set."""
    path = save(Sampler(torch.Generator().manual_seed(3)), tmp_path / "run")
    assert load(path, map_location="meta").generator.initial_seed() != 3
    path = save(RandomStates(), tmp_path / "states")
    expected = torch.rand(3)
    torch.manual_seed(1)
    load(path, map_location="meta")
    assert not torch.equal(torch.rand(3), expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(tmp_path: Path) -> None:
    """A generator of a GPU, and those of all GPUs, go on; wherever map_location puts the tensors."""
    generator = torch.Generator("cuda").manual_seed(3)
    torch.rand(5, device="cuda", generator=generator)
    path, states = save(generator, tmp_path / "run"), save(RandomStates(), tmp_path / "states")
    expected = torch.rand(5, device="cuda", generator=generator)
    of_process = draws()
    for where in (None, "cpu", "cuda"):
        assert torch.equal(torch.rand(5, device="cuda", generator=load(path, where)), expected)
        load(states, where)
        assert draws() == of_process
    assert "cuda:0" in repr(RandomStates())


# ------------------------------------------------------------------------------------------- hostile states


def torch_state(left: int, following: int, seeded: int = 1) -> torch.Tensor:
    """Return a state of torch's CPU generator with another header."""
    state = torch.Generator().get_state()
    state[8:24].view(torch.int64).copy_(torch.tensor([seeded << 32 | left, following]))
    return state


def inside(state: Any, path: tuple[Any, ...]) -> Any:
    """Return what a path leads to in nested containers."""
    for key in path:
        state = state[key]
    return state


def hostile_torch() -> Iterator[Any]:
    """Yield what is no state of torch's CPU generator."""
    good = torch.Generator().get_state()
    yield from (None, 3, "x", [], good.tolist(), good[:-1], good[:0], good.reshape(2, -1), good.int(), good.to_sparse())
    yield torch.zeros_like(good)
    yield torch_state(1, 0, seeded=0)
    for left, following in ((0, 0), (624, 624), (2, 624), (1, -1), (1, 625), (1, 1 << 32), (625, 1), (626, 0)):
        yield torch_state(left, following)


def hostile_python() -> Iterator[Any]:
    """Yield what is no state of a Random."""
    version, words, _ = random.Random(0).getstate()
    yield from (None, 3, [], (), (version,), [version, words, None], (2, words, None), (True, words, None))
    yield from ((version, list(words), None), (version, words[:-1], None), (version, (*words, 1), None))
    for word in (-1, 1 << 32, 1.0, None, True):
        yield (version, (word, *words[1:]), None)
    for position in (-1, 625, 1 << 70, None):
        yield (version, (*words[:-1], position), None)
    yield from ((version, words, 1), (version, words, "x"))


def hostile_numpy(good: Callable[[], Any]) -> Iterator[Any]:
    """Yield what is no state of a source of numpy's: each number and array replaced, keys taken, others added."""
    yield from (None, 3, [], {}, "x", (), np.arange(3))

    def places(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
        for key, item in state.items():
            yield (*path, key), item
            if isinstance(item, dict):
                yield from places(item, (*path, key))
            elif isinstance(item, list):
                yield (*path, key, 0), item[0]

    for path, item in places(good()):
        wrong: list[Any] = [-1, 1 << 128, None, [], {}, (), True, np.zeros(3), torch.zeros(3)]
        if path[-1] in ("pos", "buffer_pos"):
            wrong += [625, 10**6, -(10**6)]
        if isinstance(item, list):
            wrong += [item[:-1], [*item, 0], tuple(item), [-1] * len(item), [1 << 64] * len(item), [0.5] * len(item)]
        if not isinstance(item, float):
            wrong.append(1.0)
        for value in wrong:
            state = good()
            inside(state, path[:-1])[path[-1]] = value
            yield state
        if isinstance(path[-1], str):
            state = good()
            del inside(state, path[:-1])[path[-1]]
            yield state
            state = good()
            inside(state, path[:-1])["more"] = 1
            yield state


def refused(source: Any, key: str, value: Any) -> None:
    """Load a state with one bad value, which must be an error of ours, and change nothing."""
    before = get_state(source)
    state = before.copy()
    state[key] = value
    with pytest.raises(StateMismatchError, match=rf"'{key}' is not a random state that can be set here: \S"):
        load_state(source, state, strict=False)
    assert same(get_state(source), before)


def test_hostile_states_of_torch() -> None:
    """Positions beyond the words, which torch itself believes, and all that is no such state, are errors."""
    values = list(hostile_torch())
    for value in values:
        refused(torch.Generator(), "state", value)
        refused(RandomStates(), "torch", value)
    assert len(values) > 15


def test_hostile_states_of_python() -> None:
    """Whatever is no state of Python's is an error."""
    values = list(hostile_python())
    for value in values:
        refused(random.Random(0), "state", value)
        refused(RandomStates(), "python", value)
    assert len(values) > 15


@pytest.mark.parametrize("bits", BIT_GENERATORS)
def test_hostile_states_of_numpy(bits: str) -> None:
    """Positions beyond the words, which numpy itself believes, and all that is no such state, are errors."""
    other = "PCG64" if bits == "SFC64" else "SFC64"
    for source in (numpy_generator(bits, 3), np.random.RandomState(getattr(np.random, bits)(3))):
        values = list(hostile_numpy(lambda source=source: get_state(source)["state"]))  # type: ignore[misc]
        for value in [*values, get_state(numpy_generator(other, 1))["state"]]:
            refused(source, "state", value)
        assert len(values) > 30


def test_hostile_global_state_of_numpy() -> None:
    """The same of the process's."""
    values = [value for value in hostile_numpy(lambda: get_state(RandomStates())["numpy"]) if value is not None]
    for value in values:
        refused(RandomStates(), "numpy", value)
    assert len(values) > 30


def test_hostile_seeds() -> None:
    """What is spawned from is checked as well: sizes that would take forever, above all."""
    good = get_state(np.random.default_rng(3))["seed"]
    for name, values in {
        "entropy": [-1, 1.5, "x", None, [0] * 2000, [[1]], 1 << 2000],
        "spawn_key": [3, None, [0] * 2000, [-1], (1,)],
        "pool_size": [0, 3, -1, 65, None, 4.0],
        "n_children_spawned": [-1, 1 << 32, None],
        "more": [1],
    }.items():
        for value in values:
            refused(np.random.default_rng(3), "seed", {**good, name: value})
    for value in ({}, [], 3, {"entropy": 1}):
        refused(np.random.default_rng(3), "seed", value)
    assert np.random.default_rng(3).spawn(1)


def test_hostile_states_of_cuda() -> None:
    """What is no list of states is an error, on any machine."""
    for value in (None, 3, torch.zeros(16, dtype=torch.uint8), {}):
        refused(RandomStates(), "cuda", value)
    if torch.cuda.is_available():
        for value in ([3], [torch.zeros(15, dtype=torch.uint8)], [None]):
            refused(RandomStates(), "cuda", value)
    assert get_state(RandomStates())["cuda"] is not None


def test_all_or_nothing() -> None:
    """Where one part is bad, the parts that are good are not set either."""
    state = get_state(RandomStates())
    state["python"] = None
    draws()
    before = get_state(RandomStates())
    with pytest.raises(StateMismatchError):
        load_state(RandomStates(), state)
    assert same(get_state(RandomStates()), before)


def test_a_hostile_save(tmp_path: Path) -> None:
    """From a file too, such a state ends in an error, and the process's states are what they were."""
    state = get_state(RandomStates())
    state["torch"] = next(value for value in hostile_torch() if isinstance(value, torch.Tensor))
    path = save_state_to_file(state, tmp_path / "run")
    before = get_state(RandomStates())
    with pytest.raises(StateMismatchError, match="bytes in a tensor"):
        load(path)
    assert same(get_state(RandomStates()), before)
    assert set(load_state_from_file(path)) == set(state)


# ------------------------------------------------------------------------------------------- tags


def test_nothing_else_becomes_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torch, numpy and random, a config may build these generators, and numpy's only where it is imported."""
    assert TAGS.resolve("torch.Generator") == (torch.Generator, None)
    assert TAGS.resolve("numpy.random.PCG64") == (np.random.PCG64, None)
    assert TAGS.resolve("random.Random") == (random.Random, None)
    names = ["torch.Tensor", "torch._C.Generator2", "random.SystemRandom", "random.seed", "random._os"]
    names += [f"numpy.{name}" for name in dir(np) if not name.startswith("_")]
    names += [
        f"numpy.random.{name}" for name in dir(np.random) if name not in (*BIT_GENERATORS, "Generator", "RandomState")
    ]
    found = [name for name in names if TAGS.knows(name)]
    assert found == []
    monkeypatch.setitem(sys.modules, "numpy.random", None)
    with pytest.raises(RegistrationError, match=r"import numpy"):
        TAGS.resolve("numpy.PCG64")


class Caller(Component):
    """Would call what it is given."""

    def __init__(self, bits: Any, function: Any) -> None:
        self.function = function


@pytest.mark.parametrize("attribute", ["ctypes", "ctypes.next_double", "ctypes.state_address", "random_raw"])
def test_links_give_no_functions_of_c(attribute: str) -> None:
    """A bit generator's C functions would take any number for an address, so that no link may lead to them."""
    schema = yaml.load(f"!Caller\nbits: !numpy.PCG64 {{}}\nfunction: !@ bits.{attribute}\n")
    assert isinstance(schema, Schema)
    with pytest.raises(LinkError, match="never what can be called"):
        schema()

"""Version moves: classes that moved, migrations, saves brought up to date, and packages that changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import textwrap
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import textnet
import torch
from helpers.places import FLAMBE
from other_process import run_program
from torch import nn

from flambe_save import (
    Component,
    CorruptSaveError,
    LoadError,
    Migrated,
    PackageVersionWarning,
    RegistrationError,
    SaveError,
    State,
    UntrustedError,
    VersionMismatchError,
    VersionMismatchWarning,
    load,
    load_state_from_file,
    migrate,
    migration,
    moved_from,
    register,
    save,
    save_state_to_file,
    untrusted,
    verify,
    yaml,
)
from flambe_save.classes.tags import TAGS
from flambe_save.formats.manifest import Manifest, changed_packages
from flambe_save.formats.plan import FileStats
from flambe_save.registry import MOVED

SHAPES: dict[str, dict[str, bool]] = {
    "run": {},
    "run.tar.gz": {"compress": True},
    "run.pkl": {"pickle_only": True},
    "run.pkl.tar.gz": {"compress": True, "pickle_only": True},
}


@pytest.fixture(autouse=True)
def _forget_moves() -> Iterator[None]:
    """Drop what a test declares to have moved."""
    before = dict(MOVED)
    yield
    MOVED.clear()
    MOVED.update(before)


def run(folder: Path, code: str) -> str:
    """Run a program in a process of its own, where every warning is an error, and return what it prints."""
    done = run_program(
        "import sys; sys.dont_write_bytecode = True\n" + textwrap.dedent(code),
        folder=folder,
        warnings=["error::UserWarning"],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(path: Path, code: str) -> None:
    """Write a module."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code))


OLD_MODULE = """
    import torch
    from flambe_save import Component, registrable_factory

    class Words:
        def __init__(self, words):
            self.words = words

        def __reduce__(self):  # so that it is pickled
            return type(self), (self.words,)

    class Part(Component, torch.nn.Module):
        def __init__(self, size=2):
            super().__init__()
            self.linear = torch.nn.Linear(size, size)

    class Plan(Component):
        def __init__(self, steps=3):
            self.steps = steps

        @registrable_factory
        @classmethod
        def short(cls, steps=1):
            return cls(steps)

    class Whole(Component, torch.nn.Module):
        def __init__(self, part, plan, kind=None, words=None):
            super().__init__()
            self.part, self.plan, self.kind, self.words = part, plan, kind, words
"""
NEW_MODULE = """
    import torch
    from flambe_save import Component, alias, moved_from, registrable_factory

    @moved_from("lib.old.Words")
    @alias("words")
    class Vocabulary:
        def __init__(self, words):
            self.words = words

        def __reduce__(self):  # so that it is pickled
            return type(self), (self.words,)

    @moved_from("lib.older.Part")
    @moved_from("lib.old.Part")
    class Piece(Component, torch.nn.Module):
        def __init__(self, size=2):
            super().__init__()
            self.linear = torch.nn.Linear(size, size)

    @moved_from("lib.old.Plan")
    class Plan(Component):
        def __init__(self, steps=3):
            self.steps = steps

        @registrable_factory
        @classmethod
        def short(cls, steps=1):
            return cls(steps)

    class Part(Component):
        '''Has the old name of another, and so its old short tag.'''

    @moved_from("lib.old.Whole")
    class Whole(Component, torch.nn.Module):
        def __init__(self, part, plan, kind=None, words=None):
            super().__init__()
            self.part, self.plan, self.kind, self.words = part, plan, kind, words
"""
MAKE = """
    import lib.old, torch, warnings
    from flambe_save import Schema, save, yaml
    torch.manual_seed(0)
    plan = yaml.load("!lib.Plan.short {steps: 2}")()
    whole = lib.old.Whole(lib.old.Part(3), plan, lib.old.Part)
    for shape in (dict(), dict(compress=True), dict(pickle_only=True), dict(compress=True, pickle_only=True)):
        save(whole, "run", **shape)
    print(float(whole.part.linear.weight.detach().sum()))
"""
LOOK = """
    import lib.new
    from flambe_save import load
    for name in ("run", "run.tar.gz", "run.pkl", "run.pkl.tar.gz"):
        whole = load(name)
        assert type(whole) is lib.new.Whole and type(whole.part) is lib.new.Piece and type(whole.plan) is lib.new.Plan
        assert whole.kind is lib.new.Piece and whole.plan.steps == 2
    print(float(whole.part.linear.weight.detach().sum()))
"""


def library(tmp_path: Path) -> str:
    """Save with the old module, then put the new one in its place; return the sum of the weights."""
    write(tmp_path / "lib" / "__init__.py", "")
    write(tmp_path / "lib" / "old.py", OLD_MODULE)
    total = run(tmp_path, MAKE)
    (tmp_path / "lib" / "old.py").unlink()
    write(tmp_path / "lib" / "new.py", NEW_MODULE)
    return total


# ------------------------------------------------------------------------------------------------ moves


def test_a_class_that_moved_is_built(tmp_path: Path) -> None:
    """Saves of a module that is gone load without a warning by the recorded paths, also where a tag has a new owner.

    The old module is not looked for, even where it is trusted.
    """
    total = library(tmp_path)
    assert run(tmp_path, LOOK) == total
    assert run(tmp_path, LOOK.replace("load(name)", "load(name, trusted=['lib.old'])")) == total


def test_migrate_writes_present_names(tmp_path: Path) -> None:
    """After migrate() each shape loads without any declaration, and no old name is left in a config or manifest."""
    total = library(tmp_path)
    code = f"""
        import lib.new
        from flambe_save import migrate
        for name in {list(SHAPES)}:
            rows = migrate(name)
            assert [tuple(row) for row in rows] == [
                ("", "Whole", "0.0.0", "0.0.0"), ("part", "Piece", "0.0.0", "0.0.0"), ("plan", "Plan", "0.0.0", "0.0.0")
            ], rows
            assert migrate(name) == []
    """
    run(tmp_path, code)
    plain = "\n".join(line for line in NEW_MODULE.split("\n") if "@moved_from" not in line)
    write(tmp_path / "lib" / "new.py", plain)
    assert run(tmp_path, LOOK) == total
    configs = "".join(file.read_text() for file in (tmp_path / "run").rglob("config.yaml"))
    assert "!lib.Piece" in configs
    assert "!type lib.Piece" in configs
    assert "!lib.Plan.short" in configs
    manifest = Manifest.from_json((tmp_path / "run" / "manifest.json").read_bytes())
    assert not any("lib.old" in path for path in manifest.tags.values())
    assert "lib.old" not in configs
    assert manifest.nodes["part"]["class"] == "Piece"
    assert "class Piece" in (tmp_path / "run" / "part" / "source.py").read_text()


def test_a_pickled_global_that_moved_needs_trust_as_before(tmp_path: Path) -> None:
    """A stash of a class that moved is refused, and opens with trust in either name; for migrate() it is the same."""
    write(tmp_path / "lib" / "__init__.py", "")
    write(tmp_path / "lib" / "old.py", OLD_MODULE)
    make = """
        import lib.old, warnings
        from flambe_save import save
        warnings.simplefilter("ignore")
        for single in (False, True):
            words = lib.old.Words(["a"])
            save(lib.old.Whole(lib.old.Part(), lib.old.Plan(), words=words), "run", pickle_only=single)
    """
    run(tmp_path, make)
    (tmp_path / "lib" / "old.py").unlink()
    write(tmp_path / "lib" / "new.py", NEW_MODULE)
    code = """
        import lib.new, warnings
        from flambe_save import UntrustedError, load, migrate, untrusted
        warnings.filterwarnings("ignore", message=".*more than data")
        for name in ("run", "run.pkl"):
            for act in (load, migrate):
                try:
                    act(name)
                except UntrustedError as error:
                    assert act.__name__ + "(..., trusted=['lib.old.Words'])" in str(error), error
                else:
                    raise SystemExit("opened without trust")
            assert {row.argument for row in untrusted(name)} == {"trusted=['lib.old.Words']"}
            for trusted in ("lib.old.Words", "lib.new", "lib.old", ""):
                arguments = dict(trusted=[trusted]) if trusted else dict(weights_only=False)
                words = load(name, **arguments).words
                assert type(words) is lib.new.Vocabulary and words.words == ["a"]
                out = "out" + trusted + name.removeprefix("run")
                assert len(migrate(name, out, **arguments)) == 3
                assert {row.argument for row in untrusted(out)} == {"trusted=['lib.new.Vocabulary']"}
                assert load(out, trusted=["lib.new.Vocabulary"]).words.words == ["a"]
        print("done")
    """
    assert run(tmp_path, code) == "done"


def test_old_tags_without_a_record() -> None:
    """The old dotted path, the old short tag and a factory under it are read; the present name is written."""

    @moved_from("somewhere.else_.Before")
    class After(Component):
        def __init__(self, size: int = 1) -> None:
            self.size = size

    found = [yaml.load(f"!{tag} {{size: 2}}") for tag in ("somewhere.else_.Before", "somewhere.Before")]
    assert [schema.component_subclass for schema in found] == [After, After]
    assert "somewhere" not in str(yaml.dump(found[0]()))


def test_a_present_class_goes_before_an_old_name() -> None:
    """A tag that a registered class has now is that class's, though another was called so."""

    class Here(Component):
        pass

    register(Here, "place.Thing")

    @moved_from("place.inner.Thing")
    class There(Component):
        pass

    assert TAGS.resolve("place.Thing")[0] is Here
    assert TAGS.resolve("place.Thing", "place.inner.Thing")[0] is There


def test_an_old_path_is_of_one_class_only() -> None:
    """An error where another class is at the old path, comes there later, or claims it too; and where there is none."""

    class First(Component):
        pass

    path = f"{First.__module__}.{First.__qualname__}".replace(".<locals>", "")
    with pytest.raises(RegistrationError, match="where there is another class"):

        @moved_from(path)
        class Second(Component):
            pass

    with pytest.raises(RegistrationError, match="not a dotted path"):
        moved_from("Name")(First)
    with pytest.raises(RegistrationError, match="is not registered"):
        moved_from("a.B")(type("Plain", (), {}))
    moved_from("a.B")(First)
    with pytest.raises(RegistrationError, match="both"):
        moved_from("a.B")(Second_())
    with pytest.raises(RegistrationError, match="another class now"):
        type("B", (Component,), {"__module__": "a"})
    assert moved_from("a.B")(First) is First


def Second_() -> type:
    """Make one more registered class."""
    return type("Third", (Component,), {})


# ------------------------------------------------------------------------------------------------ migrations


class Inner(Component, nn.Module):
    """A part whose weights are called anew in 1.1.0, and turned in 2.0.0."""

    _flambe_version = "1.0.0"

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(float(size)))


class Outer(Component, nn.Module):
    """Two parts, tied tensors, and an attribute."""

    _flambe_version = "1.0.0"

    def __init__(self, left: Inner, right: Inner) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.steps = 1
        self.register_attrs("steps")


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """Saves of an Outer at 1.0.0, in every shape; the classes are put back afterwards."""
    before = {cls: dict(vars(cls)) for cls in (Inner, Outer)}
    model = Outer(Inner(), Inner(3))
    model.steps = 7
    for shape in SHAPES.values():
        save(model, tmp_path / "run", **shape, digest="sha256")
    yield tmp_path
    for cls, members in before.items():
        for name in set(vars(cls)) - set(members):
            delattr(cls, name)
        for name in ("_flambe_version", "__init__", "_load_state"):
            if name in members:
                setattr(cls, name, members[name])


def advance(cls: Any, version: str, *migrations: Any) -> None:
    """Make a class what its author would have made of it by a version."""
    cls._flambe_version = version
    for function in migrations:
        setattr(cls, function.__func__.__name__, function)


@migration("1.0.0", "1.1.0")
def rename(state: State) -> State:
    """Call the weight a scale: in a new State, without metadata."""
    return State((key.replace("weight", "scale"), value) for key, value in state.items())


@migration("1.1.0", "2.0.0")
def turn(state: State) -> State:
    """Turn the scale around, in the State that is given."""
    state["scale"] = state["scale"].flip(0)
    return state


def inner_init(self: Any, size: int = 2) -> None:
    """Build an Inner of 2.0.0."""
    nn.Module.__init__(self)
    self.scale = nn.Parameter(torch.zeros(size))


@migration("1.0.0", "3.0.0")
def outer_to_3(state: State) -> State:
    """Rename what is the component's own, and look at what it is given."""
    assert state.components == ["", "left", "right"]
    assert state._metadata[""]["_flambe_class"] == "Outer"
    assert state._metadata["left"]["_flambe_version"] == "1.0.0"
    assert {"steps", "first.weight", "left.weight"} <= state.keys()
    state._metadata["left"]["seen"] = True
    state["count"] = state.pop("steps") * 10
    for key in [key for key in state if key.startswith("second.")]:
        state[key.replace("second", "last")] = state.pop(key)
    return state


def outer_init(self: Any, left: Inner, right: Inner) -> None:
    """Build an Outer of 3.0.0, which ties nothing itself."""
    nn.Module.__init__(self)
    self.left, self.right = left, right
    self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
    self.count = 0
    self.register_attrs("count")


def advance_both() -> None:
    """Bring both classes to their newest versions."""
    Inner.__init__ = inner_init  # type: ignore[method-assign]
    Outer.__init__ = outer_init  # type: ignore[method-assign]
    advance(Inner, "2.0.0", rename, turn)
    advance(Outer, "3.0.0", outer_to_3)


def check(model: Any) -> None:
    """Compare a loaded Outer with the one that was saved."""
    assert model.left.scale.tolist() == [1.0, 0.0]
    assert model.right.scale.tolist() == [2.0, 1.0, 0.0]
    assert model.count == 70
    assert model.first.weight is model.last.weight


@pytest.mark.parametrize("name", SHAPES)
def test_chains_of_nested_components(name: str, old: Path) -> None:
    """Each component is carried on by its own chain, in silence; what was tied is tied under its new name."""
    advance_both()
    check(load(old / name))


@pytest.mark.parametrize("name", SHAPES)
def test_migrate_needs_no_migration_afterwards(name: str, old: Path) -> None:
    """migrate() keeps shape, requirements, digests, ties and values; then the save loads without the declarations."""
    advance_both()
    is_folder = (old / name).is_dir()
    requirements = old / "run" / "requirements.txt"
    manifest = old / "run" / "manifest.json"
    edited = Manifest.from_json(manifest.read_bytes())
    if is_folder:
        requirements.write_text(requirements.read_text() + "some-package==1.0\n")
        data = requirements.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        edited.add_files({"requirements.txt": FileStats(len(data), zlib.crc32(data), digest)})
        edited.packages["torch"] = torch.__version__ + "+saved"
        manifest.write_bytes(edited.to_json())
    kept = {path: path.stat().st_mtime_ns for path in old.iterdir() if path.name != name}
    before = load_state_from_file(old / name)
    planned = migrate(old / name, dry_run=True)
    assert load_state_from_file(old / name).keys() == before.keys()
    rows = migrate(old / name)
    assert (
        rows
        == planned
        == [
            Migrated("", "Outer", "1.0.0", "3.0.0"),
            Migrated("left", "Inner", "1.0.0", "2.0.0"),
            Migrated("right", "Inner", "1.0.0", "2.0.0"),
        ]
    )
    for cls, names in ((Inner, ("rename", "turn")), (Outer, ("outer_to_3",))):
        for function in names:
            delattr(cls, function)
    check(load(old / name))
    assert (old / name).is_dir() == is_folder
    assert {path: path.stat().st_mtime_ns for path in old.iterdir() if path.name != name} == kept
    assert verify(old / name) == []
    assert untrusted(old / name) == []
    if is_folder:
        assert "some-package==1.0" in requirements.read_text()
        written = Manifest.from_json(manifest.read_bytes())
        assert all("sha256" in entry for entry in written.files.values())
        assert (written.ties, written.packages) == ([["first.weight", "last.weight"]], edited.packages)
    elif name == "run.pkl":
        assert b" sha256 " in (old / name).read_bytes()[-200:]
    assert migrate(old / name) == []


def test_migrate_to_another_place(old: Path) -> None:
    """With out= the save itself stays, and nothing that is there is replaced; with nothing to do nothing is written."""
    assert migrate(old / "run", old / "copy") == []
    assert not (old / "copy").exists()
    advance_both()
    before = (old / "run" / "manifest.json").read_bytes()
    assert len(migrate(old / "run.tar.gz", old / "copy")) == 3
    check(load(old / "copy.tar.gz"))
    with pytest.raises(FileExistsError):
        migrate(old / "run", old / "run.pkl")
    with pytest.raises(SaveError, match="is a save itself"):
        migrate(old / "run" / "left")
    assert [row.node for row in migrate(old / "run" / "left", old / "part")] == [""]
    assert load(old / "part").scale.tolist() == [1.0, 0.0]
    assert (old / "run" / "manifest.json").read_bytes() == before


def test_migrate_refuses_a_damaged_save(old: Path) -> None:
    """Damage is not written again under a new checksum."""
    advance_both()
    file = old / "run" / "requirements.txt"
    file.write_text(file.read_text() + "more==1\n")
    before = (old / "run" / "manifest.json").read_bytes()
    with pytest.raises(CorruptSaveError, match="requirements"):
        migrate(old / "run")
    assert (old / "run" / "manifest.json").read_bytes() == before


def test_migrate_keeps_the_save_where_it_cannot_finish(old: Path) -> None:
    """A migration that raises, or a chain that stops short, leaves the save as it was, in a dry run too."""
    advance(Inner, "2.0.0", rename)
    before = {path: path.read_bytes() for path in (old / "run").rglob("*") if path.is_file()}
    for dry_run in (False, True):
        with pytest.raises(VersionMismatchError, match=r"from '1\.1\.0' to '2\.0\.0' is missing"):
            migrate(old / "run", dry_run=dry_run)
    assert {path: path.read_bytes() for path in (old / "run").rglob("*") if path.is_file()} == before


def test_a_genuine_flambe_save_can_be_migrated(tmp_path: Path) -> None:
    """A save by Flambe becomes one with a manifest, and keeps its requirements."""
    shutil.copytree(FLAMBE / "classifier", tmp_path / "classifier")
    requirements = (tmp_path / "classifier" / "requirements.txt").read_text()
    assert migrate(tmp_path / "classifier") == []
    for path in (tmp_path / "classifier").rglob("config.yaml"):
        path.write_text(path.read_text().replace("!textnet.Encoder", "!textnet.Recoder"))
    moved_from("textnet.Recoder")(textnet.Encoder)
    assert [row.node for row in migrate(tmp_path / "classifier")] == ["", "encoder"]
    MOVED.clear()
    assert type(load(tmp_path / "classifier").encoder) is textnet.Encoder
    assert requirements in (tmp_path / "classifier" / "requirements.txt").read_text()


def test_the_migration_that_goes_furthest_is_taken(old: Path) -> None:
    """Where several begin at a version, one goes furthest; none leads past the class's own version."""
    took = []

    def step(since: str, until: str) -> Any:
        def go(state: State) -> State:
            took.append((since, until))
            return state

        go.__name__ = f"from_{since}_to_{until}"
        return migration(since, until)(go)

    ways = [("1.0.0", "1.1.0"), ("1.0", "1.5"), ("1.0.0", "9.0.0"), ("1.1.0", "2.0.0"), ("1.5.0", "2.1.0")]
    advance(Outer, "2.1.0", *(step(*way) for way in ways))
    load(old / "run")
    assert took == [("1.0", "1.5"), ("1.5.0", "2.1.0")]


def test_where_the_chain_stops_versions_are_compared(old: Path) -> None:
    """A minor version that is not reached is a warning, a major one an error that tells what is missing."""
    advance(Inner, "1.2.0", rename)
    Inner.__init__ = inner_init  # type: ignore[method-assign]
    with pytest.warns(VersionMismatchWarning, match=r"1\.2\.0 here and 1\.0\.0 in the save, which .* to 1\.1\.0"):
        load(old / "run")
    advance(Inner, "2.0.0")
    with pytest.raises(VersionMismatchError, match=r"@migration from '1\.1\.0' to '2\.0\.0' is missing") as caught:
        load(old / "run")
    assert caught.value.node == "left"


def test_migrations_are_inherited_and_overridden(tmp_path: Path) -> None:
    """A subclass has its base's migrations; one of the same name, or the same versions, is the subclass's."""

    class Base(Component):
        _flambe_version = "1.0.0"

        def __init__(self) -> None:
            self.value = 1
            self.register_attrs("value")

    class Derived(Base):
        pass

    save(Derived(), tmp_path / "run")

    def adding(number: int, name: str, since: str, until: str) -> Any:
        def add(state: State) -> State:
            state["value"] = state["value"] * 10 + number
            return state

        add.__name__ = name
        return migration(since, until)(add)

    advance(Base, "3.0.0", adding(2, "one", "1.0.0", "2.0.0"), adding(3, "two", "2.0.0", "3.0.0"))
    inherited = load(tmp_path / "run").value
    advance(Derived, "3.0.0", adding(4, "one", "1.0.0", "2.0.0"))
    overridden = load(tmp_path / "run").value
    advance(Derived, "3.0.0", adding(5, "other", "2.0.0", "3.0.0"))
    assert (inherited, overridden, load(tmp_path / "run").value) == (123, 143, 145)


@pytest.mark.parametrize("act", [load, migrate])
def test_a_failing_migration_says_which(act: Any, old: Path) -> None:
    """What a migration raises, or returns in place of a State, is an error that names node, class and migration."""

    @migration("1.0.0", "2.0.0")
    def broken(state: State) -> State:
        return state["nothing"]  # type: ignore[no-any-return]

    advance(Inner, "2.0.0", broken)
    with pytest.raises(
        LoadError, match=r"migration broken of Inner, from 1\.0\.0 to 2\.0\.0, raised KeyError"
    ) as caught:
        act(old / "run")
    assert caught.value.node == "left"

    @migration("1.0.0", "2.0.0")
    def forgetful(state: State) -> None:
        state["a"] = 1

    del Inner.broken
    advance(Inner, "2.0.0", forgetful)
    with pytest.raises(LoadError, match=r"forgetful of Inner.*returned a NoneType"):
        act(old / "run")
    assert load_state_from_file(old / "run")._metadata["left"]["_flambe_version"] == "1.0.0"


def test_a_state_in_memory_is_migrated_and_left_alone(old: Path) -> None:
    """load_state migrates a State of an older version, and does not change the State that it is given."""
    state = load_state_from_file(old / "run")
    advance_both()
    model: Any = Outer(Inner(2), Inner(3))
    model.load_state(state, strict=True)
    assert "steps" in state
    assert "seen" not in state._metadata["left"]
    assert state._metadata["left"]["_flambe_version"] == "1.0.0"
    assert model.left.scale.tolist() == [1.0, 0.0]
    assert model.count == 70


def test_a_parent_may_move_a_component(tmp_path: Path) -> None:
    """Parents come first, and what they rename is then migrated where it is."""

    class Leaf(Component):
        _flambe_version = "1.0.0"

        def __init__(self) -> None:
            self.value = 1
            self.register_attrs("value")

    class Root(Component):
        _flambe_version = "1.0.0"

        def __init__(self) -> None:
            self.leaf = Leaf()

    save(Root(), tmp_path / "run")

    @migration("1.0.0", "2.0.0")
    def double(state: State) -> State:
        state["value"] *= 2
        return state

    @migration("1.0.0", "2.0.0")
    def move(state: State) -> State:
        state["twig.value"] = state.pop("leaf.value")
        state._metadata["twig"] = state._metadata.pop("leaf")
        state._metadata["_flambe_directories"] = {"", "twig"}
        return state

    advance(Leaf, "2.0.0", double)
    advance(Root, "2.0.0", move)
    Root.__init__ = lambda self: setattr(self, "twig", Leaf())  # type: ignore[method-assign]
    assert load(tmp_path / "run").twig.value == 2
    assert [row.node for row in migrate(tmp_path / "run")] == ["", "twig"]
    del Leaf.double, Root.move
    assert load(tmp_path / "run").twig.value == 2
    assert (tmp_path / "run" / "twig").is_dir()
    assert not (tmp_path / "run" / "leaf").exists()


def test_a_bare_state_dict_is_not_migrated(tmp_path: Path) -> None:
    """What tells no version is of the present one."""

    class Bare(Component, nn.Module):
        _flambe_version = "1.0.0"

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        @migration("0.0.0", "1.0.0")
        def zero(state: State) -> State:
            return State({key: torch.zeros_like(value) for key, value in state.items()})

    bare = Bare()
    path = save_state_to_file(bare.state_dict(), tmp_path / "weights")
    bare.load_state(State(bare.state_dict()))
    assert float(bare.weight.detach()) == 1.0
    assert verify(path) == []
    assert float(Bare.zero(State(a=torch.ones(1)))["a"]) == 0.0


def test_declarations_that_make_no_sense() -> None:
    """Versions that are none, or that lead back, are an error where they are written."""
    bad = [("1.0.0", "1.0.0"), ("2.0.0", "1.0.0"), ("a", "1.0.0"), ("1.0.0", "1.0.0rc1"), ("1.0.0", "")]
    for since, until in bad:
        with pytest.raises(RegistrationError):
            migration(since, until)
    assert isinstance(migration("1", "1.0.1")(lambda state: state), staticmethod)


# ------------------------------------------------------------------------------------------------ packages


class Tiny(Component):
    """As small as a save can be."""


def with_packages(path: Path, **packages: str) -> None:
    """Write other package versions into a manifest."""
    manifest = Manifest.from_json(path.read_bytes())
    manifest.packages.update(packages)
    path.write_bytes(manifest.to_json())


def test_packages_that_changed_are_named_once(tmp_path: Path) -> None:
    """One warning names each package whose major or minor version differs or that is gone, and no other."""
    save(Tiny(), tmp_path / "run")
    major, minor = torch.__version__.split(".")[:2]
    packages = {"torch": "1.4.0+cu92", "PyYAML": "0.1rc1", "gone-package": "3.1", "dill": "x" * 100}
    with_packages(tmp_path / "run" / "manifest.json", **packages)
    with pytest.warns(PackageVersionWarning) as caught:
        load(tmp_path / "run")
    text = str(caught[0].message)
    assert len(caught) == 1
    assert f"torch 1.4.0+cu92 when saved, {torch.__version__} here" in text
    assert "gone-package 3.1 when saved, not installed here" in text
    assert "PyYAML 0.1rc1 when" in text
    assert "python" not in text
    assert "x" * 41 not in text
    with_packages(
        tmp_path / "run" / "manifest.json",
        torch=f"{major}.{minor}.99rc1+abc",
        python=f"{sys.version_info[0]}.{sys.version_info[1]}",
    )
    assert changed_packages({"torch": f"{major}.{minor}.99rc1+abc"}) == []
    assert changed_packages({"python": "2.7.18"})[0].startswith("python 2.7.18 when saved, 3.")


def test_only_a_load_warns_of_packages(tmp_path: Path) -> None:
    """An audit, a verification and a save without a manifest say nothing; a part of a save does."""
    save(nn.Sequential(nn.Linear(1, 1)), tmp_path / "run")
    with_packages(tmp_path / "run" / "manifest.json", torch="1.4.0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert untrusted(tmp_path / "run") == verify(tmp_path / "run") == []
    with pytest.warns(PackageVersionWarning):
        load(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    (tmp_path / "run" / "requirements.txt").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(load(tmp_path / "run"), nn.Sequential)


def test_packages_of_the_classes_are_recorded(tmp_path: Path) -> None:
    """The manifest lists what installs the top-level modules of the tags, where it is called the same."""

    class Foreign(Component):
        __module__ = "pytest.somewhere"

    class Homeless(Component):
        __module__ = "no_such_distribution.inner"

    class Both(Component):
        def __init__(self, one: Any, other: Any) -> None:
            self.one, self.other = one, other

    register(Foreign, "foreign")
    register(Homeless, "homeless")
    save(Both(Foreign(), Homeless()), tmp_path / "run")
    listed = json.loads((tmp_path / "run" / "manifest.json").read_text())["packages"]
    assert listed["pytest"] == pytest.__version__
    assert set(listed) <= {"python", "torch", "dill", "PyYAML", "numpy", "pytest"}


def test_hostile_package_names_are_passed_over() -> None:
    """Names that are no package's are not looked up, and no more than a hundred are."""
    names = {"": "1", "../x": "1", "a" * 200: "1", "a b": "1"}
    assert changed_packages(names) == []
    assert len(changed_packages({f"package-{number}": "1" for number in range(1000)})) == 100


def test_refused_trust_names_the_argument_of_migrate(tmp_path: Path) -> None:
    """A stash that is more than data is not dropped: migrate() refuses, and with trust it is kept."""

    class Holder(Component):
        _flambe_version = "1.0.0"

        def __init__(self, thing: Any) -> None:
            self.thing = thing

        @migration("1.0.0", "2.0.0")
        def same(state: State) -> State:
            return state

    with pytest.warns(UserWarning, match="more than data"):
        save(Holder(Plain(3)), tmp_path / "run")
    Holder._flambe_version = "2.0.0"
    name = f"{Plain.__module__}.Plain"
    with pytest.raises(UntrustedError, match=r"migrate\(\.\.\., trusted="):
        migrate(tmp_path / "run")
    assert len(migrate(tmp_path / "run", trusted=[name])) == 1  # what needs trust was said when it was saved
    del Holder.same
    assert load(tmp_path / "run", trusted=[name]).thing.number == 3


class Plain:
    """No component, and pickled, because it says itself what it is made of."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return Plain, (self.number,)

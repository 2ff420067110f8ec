"""Schemas and how Components are made: what a call records, builds and refuses."""

from __future__ import annotations

import copy
import enum
import functools
import gc
import inspect
import pickle
import weakref
from abc import abstractmethod
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flambe_save import (
    CompilationError,
    Component,
    ConfigError,
    FlambeSaveError,
    Link,
    Schema,
    UnpreparedLinkError,
    UnsupportedObjectError,
    registrable_factory,
    yaml,
)


class Layer(Component, tag_namespace="sch"):
    """Keeps its arguments."""

    def __init__(self, size: Any = 2, inner: Any = None) -> None:
        self.size = size
        self.inner = inner


class Color(enum.Enum):
    RED = 1


def rebuild(obj: Any) -> Any:
    """Write an object's config and stash, and build it from them."""
    stash: dict[str, Any] = {}
    return yaml.load(yaml.dump(obj, stash=stash))(stash)


# ---------------------------------------------------------------------------------------------------- mapping


def test_a_schema_is_a_mapping_over_its_keywords() -> None:
    """Everything that a dict can do with the keywords."""
    schema = Schema(Layer, size=1)
    schema["inner"] = 2
    schema.update(size=3)
    popped = schema.pop("inner")
    assert (dict(schema), {**schema}, len(schema), "size" in schema, popped) == ({"size": 3}, {"size": 3}, 1, True, 2)


def test_keywords_are_read_and_set_with_a_dot() -> None:
    """Dots reach nested Schemas; unknown names are AttributeErrors."""
    schema = Schema(Layer, inner=Schema(Layer, size=1))
    schema.inner.size = 5
    assert (schema.inner.size, schema["inner"]["size"], hasattr(schema, "nope")) == (5, 5, False)


def test_keywords_named_like_methods_stay_reachable() -> None:
    """A keyword may have a method's name: the method stays, and brackets give the keyword."""
    schema = Schema(Layer, keys=1, items=2, stash=3)
    schema.values = 4
    assert (schema["keys"], schema["values"], sorted(schema.keys())) == (1, 4, ["items", "keys", "stash", "values"])


def test_schemas_compare_by_class_factory_and_keywords() -> None:
    """Equal Schemas are equal mappings of one class and factory; they cannot be hashed."""
    assert Schema(Layer, size=1) == Schema(Layer, size=1)
    assert Schema(Layer, size=1) not in (Schema(Layer, size=2), Schema(Layer, "make", size=1), {"size": 1})
    with pytest.raises(TypeError, match="unhashable"):
        hash(Schema(Layer))


def test_a_schema_is_of_a_class() -> None:
    """Anything but a class is refused at once."""
    with pytest.raises(TypeError, match="a Schema is of a class"):
        Schema("Layer")


def test_repr_shows_class_factory_and_keywords() -> None:
    """repr is what one would type, and stands recursion."""
    schema = Schema(Layer, "make", size=1, inner=Schema(Layer))
    schema.inner["inner"] = schema
    assert repr(schema) == "Schema(Layer.make, size=1, inner=Schema(Layer, inner=...))"


# ---------------------------------------------------------------------------------------------------- copies

COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda schema: pickle.loads(pickle.dumps(schema))}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_equal_and_independent(way: str) -> None:
    """Setting a keyword of a copy leaves the original as it is."""
    schema = Schema(Layer, size=1)
    copied = COPIES[way](schema)
    assert copied == schema
    copied.size = 9
    assert schema.size == 1


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_built_schema_builds_another_object(way: str) -> None:
    """As the error for late overrides advises, a copy can be built anew, with other arguments."""
    schema = Schema(Layer, size=1, inner=Schema(Layer))
    built = schema()
    other = COPIES[way](schema)(size=5)
    assert (built.size, other.size) == (1, 5)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_keep_shared_parts_and_links(way: str) -> None:
    """What is one Schema in the original is one in the copy, and links lead inside the copy."""
    schema = yaml.load("!sch.Layer {size: &s !sch.Layer {size: 7}, inner: [*s, !@ size.size]}")
    copied = COPIES[way](schema)()
    assert (copied.inner[0] is copied.size, copied.inner[1]) == (True, 7)
    assert schema().size is not copied.size


# ---------------------------------------------------------------------------------------------------- calling


def test_a_schema_builds_one_object() -> None:
    """Calling again gives the object that is there; a shared Schema is built once."""
    shared = Schema(Layer)
    schema = Schema(Layer, size=shared, inner=[shared, (shared,), {"k": shared}, OrderedDict(k=shared)])
    built = schema()
    found = [built.inner[0], built.inner[1][0], built.inner[2]["k"], built.inner[3]["k"]]
    assert schema() is built
    assert all(item is built.size for item in found)


def test_overrides_are_used_and_not_kept() -> None:
    """Keywords of the call win over the Schema's own, which stay what they were."""
    schema = Schema(Layer, size=1)
    assert (schema(size=4, inner="new").size, schema.size, yaml.dump(schema())) == (
        4,
        1,
        "!sch.Layer\nsize: 4\ninner: new\n",
    )


def test_overrides_come_too_late_for_a_built_schema() -> None:
    """They would be without effect, so they are an error."""
    schema = Schema(Layer, size=1)
    schema()
    with pytest.raises(CompilationError, match=r"built already, so size cannot change\n.*copy the Schema"):
        schema(size=2)


def test_hooks_are_called_in_order() -> None:
    """setup_dependencies may add keywords, precompile sees links followed and Schemas unbuilt, then comes __init__."""
    events: list[Any] = []

    class Hooked(Component):
        @classmethod
        def setup_dependencies(cls, kwargs: dict[str, Any]) -> None:
            events.append(("setup", sorted(kwargs)))
            kwargs["size"] = Link(["inner"], ["size"], target=kwargs["inner"])

        @classmethod
        def precompile(cls, **kwargs: Any) -> None:
            events.append(("precompile", type(kwargs["inner"]), type(kwargs["size"]), kwargs["plain"]))

        def __init__(self, plain: int, inner: Any, size: int) -> None:
            events.append(("init", plain, type(inner), size))

    schema = Schema(Hooked, plain=Link(["x"], target=1), inner=Schema(Layer, size=6))
    schema()
    assert events == [
        ("setup", ["inner", "plain"]),
        ("precompile", Schema, Link, 1),
        ("init", 1, Layer, 6),
    ]
    assert sorted(schema) == ["inner", "plain"]


def test_precompile_may_build_early() -> None:
    """What precompile builds itself is the object that the constructor gets, and links to it are followed."""

    class Early(Component):
        @classmethod
        def precompile(cls, **kwargs: Any) -> None:
            kwargs["last"]().size = 10

        def __init__(self, first: int, last: Any) -> None:
            self.first, self.last = first, last

    built = yaml.load("!test_config_schema.Early {first: !@ last.size, last: !sch.Layer {size: 1}}")()
    assert (built.first, built.last.size) == (10, 10)


def test_what_the_constructor_raises_is_told_with_class_and_node() -> None:
    """An exception inside a constructor becomes a CompilationError that names class and place, and keeps the cause."""

    class Picky(Component):
        def __init__(self, size: int) -> None:
            raise ValueError(f"size {size} is odd")

    schema = Schema(Layer, inner=[Schema(Picky, size=3)])
    with pytest.raises(CompilationError, match=r"Picky raised ValueError: size 3 is odd \(node 'inner\.0'\)") as caught:
        schema()
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"sise": 1, "outer": 2},
            r"outer.*sise.*do not fit .*Layer\(size.*\n.*class has changed.*@migration renames the keys",
        ),
        ({"size": Schema(Layer, depth=1)}, r"\['depth'\] do not fit .*node 'size'"),
    ],
)
def test_a_config_that_no_longer_fits_lists_its_arguments(keywords: dict[str, Any], message: str) -> None:
    """Wrong names are listed, together with the signature, the node and what to do."""
    with pytest.raises(CompilationError, match=message):
        Schema(Layer, **keywords)()


def test_missing_arguments_are_told() -> None:
    """A required argument that the config lacks is named."""
    with pytest.raises(CompilationError, match=r"torch\.nn\..*Linear.*'out_features'"):
        yaml.load("!torch.Linear {in_features: 2}")()


def test_abstract_classes_are_refused() -> None:
    """An abstract Component cannot be built, neither by its Schema nor by hand; the methods it lacks are named."""

    class Partial(Component):
        @abstractmethod
        def area(self) -> float: ...

    with pytest.raises(CompilationError, match=r"Partial is abstract.*\nDefine area"):
        Schema(Partial)()
    with pytest.raises(TypeError, match="abstract"):
        Partial()


def test_a_schema_inside_itself_is_refused() -> None:
    """Neither building nor writing such a Schema ends in a RecursionError."""
    schema = Schema(Layer)
    schema.inner = [schema]
    with pytest.raises(CompilationError, match="an argument of itself"):
        schema()
    with pytest.raises(FlambeSaveError, match=r"itself|nested"):
        yaml.dump(schema)


# ---------------------------------------------------------------------------------------------------- looking inside


def test_contains_gives_the_keys() -> None:
    """contains tells whether, and where, a Schema or its object is inside, down to where a link stands."""
    inner, link = Schema(Layer, size=1), Link(["inner"], ["size"])
    schema = Schema(Layer, size=link, inner=Schema(Layer, inner=[0, inner]))
    assert schema.contains(schema) == (True, [])
    assert schema.contains(inner) == (True, ["inner", "inner", "1"])
    assert schema.contains(inner()) == (True, ["inner", "inner", "1"])
    assert schema.contains(inner, link) == schema.contains(Schema(Layer)) == (False, [])


def test_serialize_and_deserialize_are_inverses() -> None:
    """Text and extensions bring the same Schemas back, for one Schema and for a mapping of them."""
    schema = yaml.load("!sch.Layer {size: 1, inner: !sch.Layer {size: !@ size}}")
    schema.add_extensions_metadata({"test_config_schema": "./here", "other": "./there"})
    data = Schema.serialize({"a": schema})
    again = Schema.deserialize(data)["a"]
    assert data["extensions"] == again.aggregate_extensions_metadata() == {"test_config_schema": "./here"}
    assert (type(again), again.inner.component_subclass, Schema.serialize({"a": again})) == (Schema, Layer, data)


# ---------------------------------------------------------------------------------------------------- recording calls


class Recorder(Component, tag_namespace="sch"):
    """Takes arguments of every kind."""

    def __init__(self, a: Any, /, b: Any = 2, *rest: Any, c: Any, d: Any = 4, **others: Any) -> None:
        self.received = (a, b, rest, c, d, others)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {"c": 3}),
        ((1, 5), {"c": 3, "d": None}),
        ((1,), {"b": 5, "c": 3, "e": 6}),
        ((1, 2, 3, 4), {"c": 3, "e": [1, {"f": 2}]}),
        (([],), {"c": {}}),
        ((1, 2, [3]), {"c": (1, 2)}),
        ((1,), {"c": 3, "self": 8, "cls": 9}),
    ],
    ids=str,
)
def test_any_call_can_be_made_again(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Positional, keyword, variadic and defaulted arguments all come back as they were given."""
    built = Recorder(*args, **kwargs)
    assert rebuild(built).received == built.received


class Optional(Component, tag_namespace="sch"):
    def __init__(self, a: Any = 1, /, **others: Any) -> None:
        self.received = (a, others)


@pytest.mark.parametrize(
    ("cls", "args", "kwargs"),
    [
        (Recorder, (1,), {"c": 3, "a": 5}),
        (Recorder, (1,), {"c": 3, "rest": 7}),
        (Recorder, (1,), {"c": 3, "rest": [7]}),
        (Optional, (), {"a": 5}),
    ],
)
def test_an_object_whose_call_a_mapping_cannot_hold_is_its_parts(cls: Any, args: Any, kwargs: Any) -> None:
    """A keyword among ``**others`` named like a parameter without a keyword works in Python; a config cannot say it."""
    built = cls(*args, **kwargs)
    assert built.received[-1] == {name: value for name, value in kwargs.items() if name != "c"}
    text = yaml.dump(built)
    assert text.split("\n")[0].endswith(f"{cls.__name__}.parts")
    assert yaml.load(text)().received == built.received


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
argument_names = st.text("xyz", min_size=1, max_size=2)


@given(st.lists(values, min_size=2, max_size=4), values, st.dictionaries(argument_names, values, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_plain_call_can_be_made_again(args: list[Any], c: Any, others: dict[str, Any]) -> None:
    """The same for random arguments."""
    built = Recorder(*args, c=c, **others)
    assert rebuild(built).received == built.received


@pytest.mark.parametrize("name", ["cls", "stash", "path", "schema", "keywords", "args", "kwargs", "given", "obj"])
def test_parameters_may_have_any_name(name: str) -> None:
    """Names that the machinery uses itself are free for constructors, called by hand or by a Schema."""
    scope: dict[str, Any] = {"Component": Component}
    exec(f"class Named(Component):\n    def __init__(self, {name}=0):\n        self.value = {name}\n", scope)
    cls = scope["Named"]
    assert (cls(**{name: 3}).value, Schema(cls, **{name: 3})().value, rebuild(cls(**{name: 3})).value) == (3, 3, 3)


def test_wrong_calls_by_hand_are_pythons_type_errors() -> None:
    """Calling a class as it cannot be called fails as for any class."""
    for call in (lambda: Layer(1, 2, 3), lambda: Layer(depth=1), Recorder):
        with pytest.raises(TypeError, match="argument"):
            call()


def test_a_class_without_constructor_takes_no_arguments() -> None:
    """As for any class; without arguments it is built and written."""

    class Empty(Component, tag_namespace="sch"):
        pass

    with pytest.raises(TypeError, match="takes no arguments"):
        Empty(1)
    assert yaml.dump(Empty()) == "!sch.Empty {}\n"


@pytest.mark.parametrize("make", [lambda words: Grower(words), lambda words: Schema(Grower, words=words)()])
@pytest.mark.parametrize("words", [["a"], {"a": 1}, OrderedDict(a=1), {"a"}], ids=lambda words: type(words).__name__)
def test_what_the_constructor_does_to_a_container_is_not_recorded(make: Any, words: Any) -> None:
    """A constructor that adds to the list, dict or set it is given would add twice when it is built again."""
    assert yaml.load(yaml.dump(make(copy.copy(words))))["words"] == words


class Grower(Component, tag_namespace="sch"):
    """Adds to what it is given, at every depth."""

    def __init__(self, words: Any) -> None:
        if isinstance(words, list):
            words.append("more")
        elif isinstance(words, set):
            words.add("more")
        else:
            words["more"] = 1
        self.words = words


def test_nested_containers_are_recorded_as_they_were() -> None:
    """The same for a list inside a dict inside a tuple."""

    class Deep(Component):
        def __init__(self, nested: Any) -> None:
            nested[0]["k"].append(1)

    assert yaml.load(yaml.dump(Deep(({"k": []},))))["nested"] == ({"k": []},)


def test_a_list_that_holds_itself_can_be_an_argument() -> None:
    """Python builds the object; it is writing it down that is refused."""
    endless: list[Any] = []
    endless.append(endless)
    built = Layer(endless)
    assert built.size is endless
    with pytest.raises(FlambeSaveError, match=r"itself|nested|Layer"):
        yaml.dump(built)


def test_recording_keeps_no_object_alive() -> None:
    """A Component goes when its last user lets go, without waiting for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        direct, built = Layer(Layer()), Schema(Layer, inner=Schema(Layer))()
        seen = [weakref.ref(direct), weakref.ref(direct.size), weakref.ref(built)]
        del direct, built
        alive = [ref() for ref in seen]
    finally:
        gc.enable()
    assert alive == [None, None, None]


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_components_can_be_written(way: str) -> None:
    """A copied or unpickled Component still knows how it was built."""
    part = Layer([1, 2], Layer(3))
    again = yaml.load(yaml.dump(COPIES[way](part)))()
    assert (again.size, again.inner.size) == ([1, 2], 3)
    assert (yaml.dump(COPIES[way](part)) == yaml.dump(part)) is (way != "pickle")  # that may have changed before


# ---------------------------------------------------------------------------------------------------- kinds of values


def test_components_and_torch_modules_as_arguments() -> None:
    """Components, torch.nn built-ins and containers of both are written by their tags and built again."""
    net = nn.Sequential(nn.Linear(2, 3), nn.GRU(3, 4, batch_first=True), nn.Dropout(0.3))
    again = rebuild(Layer([Layer(1), {"net": net}], (nn.ReLU(), nn.ModuleList([nn.LayerNorm(2)]))))
    assert (type(again.size[0]), again.size[0].size) == (Layer, 1)
    assert repr([again.size[1]["net"], again.inner]) == repr([net, (nn.ReLU(), nn.ModuleList([nn.LayerNorm(2)]))])


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.append(nn.ReLU()),
        lambda net: setattr(net[0], "p", 0.5),
        lambda net: setattr(net[0], "inplace", True),
        lambda net: setattr(net[1], "bias", None),
    ],
    ids=["append", "p", "inplace", "bias"],
)
def test_torch_modules_are_written_as_they_are_now(change: Any) -> None:
    """A built-in module that was built from a config and changed since is not written as it was."""
    text = "!torch.Sequential {args: [!torch.Dropout {p: 0.1}, !torch.Linear {in_features: 2, out_features: 2}]}"
    net = yaml.load(text)()
    change(net)
    assert repr(rebuild(net)) == repr(net)


def test_links_among_the_arguments_of_torch_modules_are_kept() -> None:
    """A built-in module that was not changed is written with the links that it was built with."""
    text = "size: 3\ninner: !torch.Linear\n  in_features: !@ size\n  out_features: !@ size\n"
    assert rebuild(yaml.load(f"!sch.Layer\n{text}")()).inner.out_features == 3


def test_what_yaml_cannot_hold_goes_to_the_stash_once() -> None:
    """A tensor is written as a reference; the same tensor twice as the same reference."""
    tensor, stash = torch.arange(3), {}
    text = yaml.dump(Layer(tensor, [tensor, Color.RED]), stash=stash)
    assert text == "!sch.Layer\nsize: !$ 0\ninner:\n- !$ 0\n- !test_config_schema.Color\n  name: RED\n"
    built = yaml.load(text)(stash)
    assert (list(stash), built.size is built.inner[0] is tensor, built.inner[1]) == (["0"], True, Color.RED)


@pytest.mark.parametrize(
    "value",
    [{Color.RED}, frozenset([Color.RED]), (Color.RED,), {"k": Color.RED}, {Color.RED: 1}, OrderedDict({Color.RED: 1})],
    ids=lambda value: type(value).__name__,
)
def test_stashed_values_come_back_inside_any_container(value: Any) -> None:
    """No reference to the stash is left where the object was, whatever holds it."""
    assert rebuild(Layer(value)).size == value


def test_an_object_built_from_a_stash_can_be_written_again() -> None:
    """The second stash holds the object itself, and not a reference to the first stash."""
    tensor = torch.ones(2)
    stash: dict[str, Any] = {}
    yaml.dump(rebuild(Layer([tensor])), stash=stash)
    assert stash["0"] is tensor


def test_without_a_stash_they_are_an_error_with_their_place() -> None:
    """Writing a config alone, a value that it cannot hold is named by its path in the object."""
    with pytest.raises(UnsupportedObjectError, match=r"inner\[1\]\.size, a Tensor"):
        yaml.dump(Layer(1, [0, Layer(torch.ones(1))]))


def test_a_stash_that_lacks_an_object_is_an_error() -> None:
    """Building names the id that is missing."""
    with pytest.raises(UnpreparedLinkError, match="the stash holds no object '3'"):
        yaml.load("!sch.Layer {size: [!$ 3]}")({"0": 1})


# ---------------------------------------------------------------------------------------------------- compile, factory


class Words(Component, tag_namespace="sch"):
    def __init__(self, words: list[str]) -> None:
        self.words = words

    @registrable_factory
    @classmethod
    def from_text(cls, text: str, sep: str | None = None) -> Words:
        return cls(text.split(sep))


def test_compile_builds_with_schemas_among_the_arguments() -> None:
    """Component.compile takes what a Schema takes."""
    built = Layer.compile(size=3, inner=Schema(Layer, size=4))
    assert (type(built), built.size, built.inner.size) == (Layer, 3, 4)


def test_an_object_from_a_factory_is_written_as_a_schema_was_or_as_it_was_constructed() -> None:
    """Through a Schema the factory is recorded, with its defaults; by hand, the constructor's arguments are."""
    assert yaml.dump(Schema(Words, "from_text", text="a b")()) == "!sch.Words.from_text\ntext: a b\nsep: null\n"
    assert yaml.dump(Words.from_text("a b")) == "!sch.Words\nwords: [a, b]\n"


# ---------------------------------------------------------------------------------------------------- nn.Module


class First(Component, nn.Module, tag_namespace="sch"):
    def __init__(self, size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Last(nn.Module, Component, tag_namespace="sch"):
    def __init__(self, size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Forgetful(Component, nn.Module, tag_namespace="sch"):
    def __init__(self, size: int) -> None:
        self.linear = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


@pytest.mark.parametrize("cls", [First, Last, Forgetful])
def test_modules_work_in_either_base_order(cls: type) -> None:
    """Built by hand or from a config it is a module like any other, also when super().__init__() was forgotten."""
    by_hand, from_config = cls(2), yaml.load(f"!sch.{cls.__name__} {{size: 2}}")()
    from_config.load_state_dict(by_hand.state_dict())
    assert list(by_hand.state_dict()) == ["linear.weight", "linear.bias"]
    assert torch.equal(by_hand(torch.ones(1, 2)), from_config(torch.ones(1, 2)))


@pytest.mark.parametrize("cls", [First, Last])
def test_compile_is_ours_on_the_class_and_torchs_on_the_object(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class.compile(...) builds; model.compile() is torch.nn.Module.compile."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: asked.append(options) or call)
    model = cls.compile(size=2)
    model.compile(backend="eager")
    assert (type(model), asked) == (cls, [{"backend": "eager"}])
    assert model(torch.ones(1, 2)).shape == (1, 2)


@pytest.mark.parametrize("cls", [Layer, Recorder, First, Last])
def test_signatures_are_those_of_the_constructor(cls: type) -> None:
    """inspect.signature of a class, and of a subclass that inherits or replaces __init__, is what help should show."""

    class Heir(cls):  # type: ignore[misc, valid-type]
        pass

    class Other(cls):  # type: ignore[misc, valid-type]
        def __init__(self, only: int) -> None: ...

    expected = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    assert inspect.signature(cls).parameters == inspect.signature(Heir).parameters == expected
    assert list(inspect.signature(Other).parameters) == ["only"]


def test_the_signature_of_an_object_is_that_of_its_call() -> None:
    """Tools that inspect a module object see what can be called, as for every nn.Module, not its constructor."""
    assert inspect.signature(First(2)) == inspect.signature(nn.Linear(2, 2))


def test_classes_may_wrap_their_constructor() -> None:
    """A decorated __init__ that keeps its signature records as before."""

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
            function(self, *args, **kwargs)

        return wrapper

    class Wrapped(Component, tag_namespace="sch"):
        @logged
        def __init__(self, size: int) -> None:
            self.size = size

    assert yaml.dump(Wrapped(3)) == "!sch.Wrapped\nsize: 3\n"


def test_components_read_like_any_config_when_their_class_changed() -> None:
    """An argument that the class no longer has is an error on building, not on reading."""
    schema = yaml.load("!sch.Words {vocabulary: [a]}")
    assert schema.vocabulary == ["a"]
    with pytest.raises(ConfigError, match=r"\['vocabulary'\] do not fit .*Words\(words"):
        schema()

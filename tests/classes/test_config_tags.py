"""Tags: which class a ``!tag`` means, which tag a class is written with, and that no class wins in silence."""

from __future__ import annotations

import inspect
import itertools
from abc import abstractmethod
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flambe_save import (
    CompilationError,
    Component,
    ConfigError,
    MappedRegistrable,
    Registrable,
    RegistrationError,
    Schema,
    UnsupportedObjectError,
    alias,
    all_subclasses,
    dynamic_component,
    make_component,
    register,
    registrable_factory,
    registration_context,
    yaml,
)
from flambe_save.classes.tags import TAGS, Tags


def fake(module: str, name: str = "Model", *bases: type, **attributes: Any) -> type:
    """A class that says it was defined in some module."""
    return type(name, bases, {"__module__": module, **attributes})


def registry(*classes: type) -> Tags:
    tags = Tags()
    for cls in classes:
        tags.add(cls)
    return tags


# ---------------------------------------------------------------------------------------------------- namespaces


@pytest.mark.parametrize(
    ("module", "tag"),
    [
        ("textnet", "textnet.Model"),
        ("textnet.layers.deep", "textnet.Model"),
        ("__main__", "Model"),
        ("tests.unit.test_x", "Model"),
        ("flambe_save.component", "Model"),
        ("testsuite", "testsuite.Model"),
    ],
)
def test_the_namespace_is_the_top_level_module(module: str, tag: str) -> None:
    """The tag is the top-level module and the name; three modules have no namespace."""
    cls = fake(module)
    tags = registry(cls)
    assert (tags.tag_of(cls), tags.resolve(tag)) == (tag, (cls, None))


def test_inner_classes_have_their_own_name() -> None:
    """A class inside a class or a function is tagged by its own name, and found by its outer names too."""
    cls = fake("pkg.mod", "Inner", __qualname__="make.<locals>.Outer.Inner")
    tags = registry(cls)
    found = {tags.resolve(tag)[0] for tag in ("pkg.Inner", "Outer.Inner", "pkg.mod.make.Outer.Inner")}
    assert (tags.tag_of(cls), found) == ("pkg.Inner", {cls})


@pytest.mark.parametrize("tag", ["Model", "net.Model", "deep.net.Model", "textnet.deep.net.Model", "textnet.Model"])
def test_any_suffix_of_the_dotted_path_resolves(tag: str) -> None:
    """A tag may leave out leading parts of the path, or all but the first and the last."""
    cls = fake("textnet.deep.net")
    assert registry(cls, fake("textnet", "Other")).resolve(tag) == (cls, None)


@pytest.mark.parametrize("tag", ["odel", "et.Model", "textnet.deep.Model", "textnet.net.Model", "other.Model", "", "."])
def test_other_parts_of_the_path_do_not_resolve(tag: str) -> None:
    """Parts are whole names, and none is skipped."""
    with pytest.raises(RegistrationError, match="no imported class has the tag"):
        registry(fake("textnet.deep.net")).resolve(tag)


# ---------------------------------------------------------------------------------------------------- collisions


def test_classes_that_share_a_tag_are_written_with_their_full_path() -> None:
    """Two classes of one name in one package get their dotted paths, whichever came first."""
    one, two = fake("pkg.one"), fake("pkg.two")
    for tags in (registry(one, two), registry(two, one)):
        assert (tags.tag_of(one), tags.tag_of(two)) == ("pkg.one.Model", "pkg.two.Model")


def test_an_ambiguous_tag_is_an_error_that_names_all() -> None:
    """A tag that fits two classes names both, and says what to write."""
    tags = registry(fake("pkg.two"), fake("pkg.one"))
    with pytest.raises(RegistrationError, match=r"pkg\.one\.Model, pkg\.two\.Model.*\n.*'!pkg\.one\.Model'.*@alias"):
        tags.resolve("pkg.Model")


def test_an_ambiguous_class_of_a_factory_is_an_error_that_names_all() -> None:
    """The same holds where the tag goes on with a factory's name."""
    factory = registrable_factory(lambda cls: cls())
    tags = registry(fake("pkg.one", make=factory), fake("pkg.two", make=factory))
    with pytest.raises(RegistrationError, match=r"pkg\.one\.Model.*pkg\.two\.Model"):
        tags.resolve("pkg.Model.make")


def test_what_a_save_recorded_settles_an_ambiguous_tag() -> None:
    """The dotted path that a save recorded chooses among the classes that a tag fits, factories included."""
    factory = registrable_factory(lambda cls: cls())
    one, two = fake("pkg.one", make=factory), fake("pkg.two", make=factory)
    tags = registry(one, two)
    found = tags.resolve("pkg.Model", "pkg.two.Model"), tags.resolve("pkg.Model.make", "pkg.one.Model")
    assert found == ((two, None), (one, "make"))


def test_what_a_save_recorded_wins_over_a_class_that_came_later() -> None:
    """A save made when only pkg.sub.Model existed does not become the pkg.Model that was added since."""
    old, new = fake("pkg.sub"), fake("pkg")
    tags = registry(old, new)
    assert tags.resolve("pkg.Model", "pkg.sub.Model") == (old, None)


def test_an_alias_does_not_hide_a_class_of_that_very_path() -> None:
    """One class's alias and another's dotted path may be the same text: then neither wins in silence."""
    other, owner = fake("elsewhere", "Other"), fake("pkg")
    tags = registry(owner)
    tags.add(other, "pkg.Model")
    with pytest.raises(RegistrationError, match=r"several classes|cannot be told apart"):
        tags.resolve(tags.tag_of(owner))


def test_an_alias_of_two_classes_is_ambiguous() -> None:
    """Two classes under one alias are written otherwise, and the alias alone is an error."""
    one, two = fake("pkg.one", "One"), fake("pkg.two", "Two")
    tags = Tags()
    tags.add(one, "net")
    tags.add(two, "net")
    assert (tags.tag_of(one), tags.tag_of(two)) == ("pkg.One", "pkg.Two")
    with pytest.raises(RegistrationError, match="several classes"):
        tags.resolve("net")


def test_defining_a_class_again_replaces_it() -> None:
    """In a notebook, a class of the same path is the new one, and the old one's alias goes with it."""
    old, new = fake("__main__"), fake("__main__")
    old.size = 3  # type: ignore[attr-defined]  # else it would count as the new one
    tags = Tags()
    tags.add(old, "net")
    tags.add(new)
    assert (tags.resolve("Model"), old in tags, new in tags) == ((new, None), False, True)
    with pytest.raises(RegistrationError, match="no imported class"):
        tags.resolve("net")


@pytest.mark.parametrize("tag", ["tuple", "set", "path", "type", "torch.dtype"])
def test_an_alias_cannot_shadow_a_value(tag: str) -> None:
    """A tag that the dialect itself uses for values is refused, or configs of the class could not be read."""
    with pytest.raises(RegistrationError, match=tag):
        register(fake("shadowing", "Shadow"), tag)


names, modules = st.sampled_from(["A", "B"]), st.lists(st.sampled_from(["p", "q", "tests"]), min_size=1, max_size=3)


@given(st.lists(st.tuples(modules.map(".".join), names), unique=True, min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_every_class_is_read_back_from_its_own_tag(paths: list[tuple[str, str]]) -> None:
    """However classes share names and packages, each is written with a tag that means it alone."""
    classes = [fake(module, name) for module, name in paths]
    tags = registry(*classes)
    assert [tags.resolve(tags.tag_of(cls)) for cls in classes] == [(cls, None) for cls in classes]


@given(
    st.lists(st.tuples(modules.map(".".join), names), unique=True, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.sampled_from(["p", "q", "A", "B"]), min_size=1, max_size=3))),
)
@example([("p", "A"), ("q", "B")], [(0, ["q", "B"])])
@settings(max_examples=200, deadline=None)
def test_aliases_never_make_a_class_read_as_another(
    paths: list[tuple[str, str]], aliases: list[tuple[int, list[str]]]
) -> None:
    """With aliases of any shape, a class's own tag means it, or is refused, and never means another class."""
    classes = [fake(module, name) for module, name in paths]
    tags = registry(*classes)
    for index, parts in aliases:
        tags.add(classes[index % len(classes)], ".".join(parts))
    wrong = []
    for cls in classes:
        try:
            found = tags.resolve(tags.tag_of(cls))[0]
        except RegistrationError:
            found = cls
        wrong += [found] if found is not cls else []
    assert wrong == []


# ---------------------------------------------------------------------------------------------------- unknown tags


def test_an_unknown_tag_names_what_the_save_recorded() -> None:
    """The error says which class the save recorded, and which module to import."""
    with pytest.raises(RegistrationError, match=r"recorded pkg\.nets\.Model\nimport pkg\.nets first.*@moved_from\('"):
        Tags().resolve("pkg.Model", "pkg.nets.Model")


def test_an_unknown_tag_without_a_record_names_its_namespace() -> None:
    """Without a record, the tag's own namespace is what to import."""
    with pytest.raises(RegistrationError, match=r"no imported class has the tag '!pkg\.Model'\nimport pkg first"):
        Tags().resolve("pkg.Model")


def test_an_unknown_tag_suggests_classes_of_that_name() -> None:
    """A class of the same or nearly the same name is suggested."""
    for tag in ("pkg.Model", "textnet.Modell"):
        with pytest.raises(RegistrationError, match=r"[Dd]id you mean .*Model"):
            registry(fake("textnet.nets")).resolve(tag)


def test_a_class_of_a_script_cannot_be_imported() -> None:
    """What a save recorded of __main__ is no module to import, so the advice is another."""
    with pytest.raises(RegistrationError, match=r"recorded __main__\.Model\n(?!import)"):
        Tags().resolve("Model", "__main__.Model")


def test_a_class_without_a_tag_says_how_to_get_one() -> None:
    """Writing a class that was never registered names both ways of registering."""
    with pytest.raises(RegistrationError, match=r"pkg\.Model has no tag\n.*Component.*register"):
        Tags().tag_of(fake("pkg"))


# ---------------------------------------------------------------------------------------------------- registering


def test_the_topmost_alias_is_written_and_all_are_read() -> None:
    """Aliases add up, the class's own name stays."""

    @alias("tagtest.top")
    @alias("tagtest.low")
    class Aliased(Component):
        pass

    texts = ["!tagtest.top {}", "!tagtest.low {}", "!test_config_tags.Aliased {}"]
    assert yaml.dump(Schema(Aliased)) == "!tagtest.top {}\n"
    assert {yaml.load(text).component_subclass for text in texts} == {Aliased}


def test_a_config_keeps_the_alias_that_it_was_written_with() -> None:
    """Reading and writing a config does not change which alias it uses, also when it was built between."""

    @alias("tagtest.new")
    @alias("tagtest.old")
    class Renamed(Component):
        pass

    schema = yaml.load("!tagtest.old {}")
    assert schema.component_subclass is Renamed
    assert yaml.dump(schema) == yaml.dump(schema()) == "!tagtest.old {}\n"


def test_an_alias_may_have_a_namespace() -> None:
    """The namespace goes before the tag."""

    @alias("short", tag_namespace="tagtest_ns")
    class Spaced(Component):
        pass

    assert yaml.load("!tagtest_ns.short").component_subclass is Spaced


def test_register_gives_a_tag_to_any_class() -> None:
    """A class that is no Component can be named in configs, and is returned."""

    class Plain:
        def __init__(self, size: int = 1) -> None:
            self.size = size

    assert register(Plain, "tagtest.plain") is Plain
    built = yaml.load("!tagtest.plain {size: 3}")()
    assert (built.size, yaml.dump(built)) == (3, "!tagtest.plain\nsize: 3\n")


def test_registration_context_as_with_and_as_decorator() -> None:
    """Classes defined in the with, or in a decorated function, have its namespace; nested, the inner one."""

    @registration_context("tagtest_deco")
    def define() -> type:
        class InFunction(Component):
            pass

        return InFunction

    with registration_context("tagtest_with"):
        function_class = define()

        class InWith(Component):
            pass

    class Outside(Component):
        pass

    written = [TAGS.tag_of(cls) for cls in (function_class, InWith, Outside)]
    assert written == ["tagtest_deco.InFunction", "tagtest_with.InWith", "test_config_tags.Outside"]


def test_registration_context_ends_with_an_error() -> None:
    """An exception inside does not leave the namespace behind."""
    with pytest.raises(KeyError, match="stop"), registration_context("tagtest_left"):
        raise KeyError("stop")

    class AfterError(Component):
        pass

    assert TAGS.tag_of(AfterError) == "test_config_tags.AfterError"


def test_class_arguments_choose_the_tag_or_none() -> None:
    """tag_override, tag_namespace and should_register are class arguments."""

    class Long(Component, tag_override="Lg", tag_namespace="tagtest_args"):
        pass

    class Hidden(Component, should_register=False):
        pass

    assert (TAGS.tag_of(Long), Hidden in TAGS) == ("tagtest_args.Lg", False)


def test_class_names_may_be_any_python_name() -> None:
    """A class whose name is no ASCII is written and read."""
    cls = fake("tagtest_mod", "Größe", Component)
    assert yaml.load(yaml.dump(Schema(cls))).component_subclass is cls


def test_all_subclasses_goes_all_the_way_down() -> None:
    """Each subclass is there once, through diamonds too; the class itself is not."""
    top = fake("m", "Top")
    left, right = fake("m", "Left", top), fake("m", "Right", top)
    bottom = fake("m", "Bottom", left, right)
    assert all_subclasses(top) == {left, right, bottom}
    assert all_subclasses(bottom) == set()


# ---------------------------------------------------------------------------------------------------- factories


class TagWords(Component, tag_namespace="tagtest"):
    """Has factories of all kinds."""

    def __init__(self, words: list[str] | None = None) -> None:
        self.words = words

    @registrable_factory
    @classmethod
    def above(cls, text: str) -> TagWords:
        return cls(text.split())

    @classmethod
    @registrable_factory
    def below(cls, text: str) -> TagWords:
        return cls(text.split())

    @registrable_factory
    def bare(cls, text: str) -> TagWords:
        return cls(text.split())

    @classmethod
    def undeclared(cls) -> TagWords:
        return cls()


class MoreTagWords(TagWords, tag_namespace="tagtest"):
    @classmethod
    def above(cls, text: str) -> TagWords:
        return cls([*text.split(), "more"])


@pytest.mark.parametrize("name", ["above", "below", "bare"])
@pytest.mark.parametrize("tag", ["tagtest.TagWords", "test_config_tags.TagWords", "TagWords", "tagtest.MoreTagWords"])
def test_factories_are_called_and_written(tag: str, name: str) -> None:
    """A factory is found under every tag of its class, in subclasses too, and is written again."""
    text = f"!{tag}.{name}\ntext: a b\n"
    built = yaml.load(text)()
    assert (built.words[:2], yaml.dump(built)) == (["a", "b"], text)


def test_an_overridden_factory_is_the_one_called() -> None:
    """A subclass that overrides a factory need not declare it again."""
    assert yaml.load("!tagtest.MoreTagWords.above {text: a}")().words == ["a", "more"]


def test_methods_that_are_no_factories_cannot_be_called() -> None:
    """A config, and a Schema, only call what was declared."""
    with pytest.raises(RegistrationError, match=r"no imported class has the tag '!tagtest\.TagWords\.undeclared'"):
        yaml.load("!tagtest.TagWords.undeclared {}")
    with pytest.raises(CompilationError, match="declares no factory 'undeclared'"):
        Schema(TagWords, "undeclared")()


# ---------------------------------------------------------------------------------------------------- torch's classes


@pytest.mark.parametrize(
    ("tag", "cls"),
    [
        ("torch.Linear", torch.nn.Linear),
        ("torch.TransformerEncoder", torch.nn.TransformerEncoder),
        ("torch.CrossEntropyLoss", torch.nn.CrossEntropyLoss),
        ("torch.Adam", torch.optim.Adam),
        ("torch.StepLR", torch.optim.lr_scheduler.StepLR),
    ],
)
def test_torchs_classes_have_tags_without_being_registered(tag: str, cls: type) -> None:
    """Modules, losses, optimizers and schedulers are found when first named, and are written with the same tag."""
    assert (TAGS.resolve(tag), TAGS.tag_of(cls), cls in TAGS) == ((cls, None), tag, False)


@pytest.mark.parametrize(
    "name", ["load", "Tensor", "hub", "_LRScheduler", "Parameter", "nn", "Lambda", "os", "__class__", "functional"]
)
def test_nothing_else_of_torch_has_a_tag(name: str) -> None:
    """Functions, modules, private names and classes of other kinds are not to be had by a tag."""
    with pytest.raises(ConfigError, match="no imported class has the tag"):
        yaml.load(f"!torch.{name} {{}}")


def test_torchs_modules_build_from_a_config() -> None:
    """A torch.nn module nested in a config is built, with its positional arguments under ``args``."""
    built = yaml.load("!torch.Sequential {args: [!torch.Linear {in_features: 2, out_features: 3}, !torch.ReLU ]}")()
    assert [type(part) for part in built] == [torch.nn.Linear, torch.nn.ReLU]


# ---------------------------------------------------------------------------------------------------- made components


class Shape:
    """A class that knows nothing of flambe_save."""

    def __init__(self, size: int, *, color: str = "red") -> None:
        self.size, self.color = size, color


class Square(Shape):
    """One more."""


class Abstract(Shape, Registrable, should_register=False):
    @abstractmethod
    def area(self) -> float: ...


def test_dynamic_component_leaves_the_class_as_it_is() -> None:
    """The result is a Component and a subclass; it builds, records and tells the signature of the class."""
    made = dynamic_component(Shape, "shape", "tagtest")
    built = yaml.load("!tagtest.shape {size: 2}")()
    assert issubclass(made, Component)
    assert type(built) is made
    assert isinstance(built, Shape)
    assert not issubclass(Shape, Component)
    assert inspect.signature(made).parameters == inspect.signature(Shape).parameters
    assert yaml.dump(built) == "!tagtest.shape\nsize: 2\ncolor: red\n"


def test_dynamic_component_of_a_component_is_that_component() -> None:
    """There is nothing to make of a class that is a Component already."""
    assert dynamic_component(TagWords, "anything") is TagWords


def test_dynamic_component_takes_a_parent_of_ones_own() -> None:
    """The parent may be any subclass of Component."""

    class Parent(Component):
        def hello(self) -> str:
            return "hello"

    made = dynamic_component(Square, "square", "tagtest_parent", Parent)
    assert made(1).hello() == "hello"


def test_make_component_makes_subclasses_usable() -> None:
    """A class and its subclasses build as Components under the namespace; the classes themselves stay theirs."""
    make_component(Shape, "tagtest_made")
    built = [yaml.load(f"!tagtest_made.{name} {{size: 2}}")() for name in ("Shape", "Square")]
    assert all(isinstance(item, Component) for item in built)
    assert not issubclass(Square, Component)
    assert yaml.dump(built[1]).startswith("!tagtest_made.Square\nsize: 2\n")


def test_make_component_finds_classes_that_come_later() -> None:
    """A subclass defined after its tag was asked for in vain is found all the same."""
    base = fake("tagtest_late", "Late")
    make_component(base, "tagtest_late_ns")
    with pytest.raises(RegistrationError, match="no imported class"):
        TAGS.resolve("tagtest_late_ns.Later")
    later = fake("tagtest_late", "Later", base)
    assert issubclass(TAGS.resolve("tagtest_late_ns.Later")[0], later)


def test_make_component_can_be_kept_to_one_module() -> None:
    """only_module leaves out classes of other modules."""
    base = fake("tagtest_in.a", "Base")
    kept, left_out = fake("tagtest_in.b", "Kept", base), fake("tagtest_out", "LeftOut", base)
    make_component(base, "tagtest_only", only_module="tagtest_in")
    assert issubclass(TAGS.resolve("tagtest_only.Kept")[0], kept)
    with pytest.raises(RegistrationError, match="LeftOut"):
        TAGS.resolve(f"tagtest_only.{left_out.__name__}")


# ---------------------------------------------------------------------------------------------------- custom YAML


class Options(MappedRegistrable, tag_namespace="tagtest"):
    """Plain options."""

    def __init__(self, lr: float = 0.1, steps: int = 1) -> None:
        self.lr, self.steps = lr, steps

    @registrable_factory
    @classmethod
    def quick(cls, factor: int) -> Options:
        return cls(steps=2 * factor)


@pytest.mark.parametrize("text", ["!tagtest.Options\nlr: 0.5\n", "!tagtest.Options.quick\nfactor: 3\n"])
def test_mapped_registrables_are_built_at_once_and_written_as_they_were_read(text: str) -> None:
    """A MappedRegistrable is an object as soon as the config is read; a factory's tag is kept."""
    built = yaml.load(text)
    assert isinstance(built, Options)
    assert yaml.dump(built) == text


def test_a_mapped_registrable_needs_no_arguments() -> None:
    """The tag alone builds it with its defaults."""
    assert yaml.load("a: !tagtest.Options")["a"].lr == 0.1


def test_a_mapped_registrable_made_by_hand_is_written_with_its_arguments() -> None:
    """Arguments given in Python are not lost: they are written, or the object is refused."""
    try:
        written = yaml.load(yaml.dump(Options(lr=0.7))).lr
    except UnsupportedObjectError:
        written = 0.7
    assert written == 0.7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: !tagtest.Options {speed: 2}", r"line 2: .*speed.*Options\(lr"),
        ("a: 1\nb: !tagtest.Options {1: 2}", "line 2: .*names"),
        ("a: 1\nb: !tagtest.Options [1]", "line 2: .*mapping"),
    ],
)
def test_a_mapped_registrable_that_does_not_fit_is_an_error_with_its_line(text: str, message: str) -> None:
    """Wrong arguments are told when the config is read."""
    with pytest.raises(ConfigError, match=message):
        yaml.load(text)


def test_an_abstract_mapped_registrable_is_refused() -> None:
    """An abstract class cannot be built by its tag."""

    class AbstractOptions(MappedRegistrable, tag_namespace="tagtest"):
        area = Abstract.area
        __abstractmethods__ = frozenset(["area"])

    AbstractOptions.__abstractmethods__ = frozenset(["area"])
    with pytest.raises(CompilationError, match=r"AbstractOptions is abstract.*\nDefine area"):
        yaml.load("!tagtest.AbstractOptions {}")


counter = itertools.count()


def flambe_style(*bases: type, aliases: tuple[str, ...] = ()) -> tuple[type, str]:
    """A class with to_yaml and from_yaml as Flambe 0.4's own tests write them, and its tag."""

    class Custom(*bases, **({"should_register": False} if bases else {})):  # type: ignore[misc]
        def __init__(self, size: int = 0) -> None:
            self.size = size

        @registrable_factory
        @classmethod
        def double(cls, size: int) -> Any:
            return cls(2 * size)

        @classmethod
        def to_yaml(cls, representer: Any, node: Any, tag: str) -> Any:
            return representer.represent_mapping(tag, {"size": node.size})

        @classmethod
        def from_yaml(cls, constructor: Any, node: Any, factory_name: str | None) -> Any:
            arguments = constructor.construct_mapping(node)
            return getattr(cls, factory_name)(**arguments) if factory_name else cls(**arguments)

    tag = f"tagtest.Custom{next(counter)}"
    return register(Custom, tag), tag


def test_custom_to_yaml_and_from_yaml_are_used() -> None:
    """A Registrable that writes and reads itself does so, also inside other values."""
    cls, tag = flambe_style(Registrable)
    text = f"a: !{tag}\n  size: 3\n"
    loaded = yaml.load(text)
    assert (type(loaded["a"]), yaml.dump(loaded), yaml.dump({"a": cls(3)})) == (cls, text, text)


def test_custom_from_yaml_is_told_the_factory() -> None:
    """from_yaml gets the factory that the tag names."""
    _, tag = flambe_style(Registrable)
    assert yaml.load(f"!{tag}.double {{size: 3}}").size == 6


def test_custom_yaml_of_a_registered_class_is_used() -> None:
    """The same for a class that is no Registrable and was given a tag with register()."""
    _, tag = flambe_style()
    text = f"!{tag}\nsize: 3\n"
    assert yaml.dump(yaml.load(text)) == text


def test_custom_yaml_keeps_the_tag_that_it_was_read_with() -> None:
    """As in Flambe, an older alias stays what it is through load and dump."""
    cls, tag = flambe_style(Registrable)
    alias(f"{tag}_newer")(cls)
    text = f"a: !{tag}\n  size: 3\n"
    assert yaml.dump(yaml.load(text)) == text


def test_custom_scalars_and_sequences() -> None:
    """to_yaml may write a scalar or a list, and from_yaml read it."""

    class Version(Registrable, tag_namespace="tagtest"):
        def __init__(self, *parts: int) -> None:
            self.parts = parts

        @classmethod
        def to_yaml(cls, representer: Any, node: Any, tag: str) -> Any:
            if len(node.parts) == 1:
                return representer.represent_scalar(tag, str(node.parts[0]))
            return representer.represent_sequence(tag, node.parts)

        @classmethod
        def from_yaml(cls, constructor: Any, node: Any, factory_name: str | None) -> Any:
            if hasattr(node.value, "split"):
                return cls(int(constructor.construct_scalar(node)))
            return cls(*constructor.construct_sequence(node))

    text = yaml.dump([Version(1), Version(2, 3)])
    assert text == "- !tagtest.Version 1\n- !tagtest.Version [2, 3]\n"
    assert [item.parts for item in yaml.load(text)] == [(1,), (2, 3)]


def test_from_yaml_written_for_flambe_works() -> None:
    """Flambe's own idiom, ``list(constructor.construct_yaml_map(node))``, gives the arguments."""

    class FromFlambe(Registrable, tag_namespace="tagtest"):
        def __init__(self, size: int) -> None:
            self.size = size

        @classmethod
        def from_yaml(cls, constructor: Any, node: Any, factory_name: str | None) -> Any:
            (arguments,) = list(constructor.construct_yaml_map(node))
            return cls(**arguments)

    assert yaml.load("!tagtest.FromFlambe {size: 4}").size == 4

"""Links: their grammar, what they stand for when an object is built, and how they are written again."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.places import FLAMBE
from hypothesis import given, settings
from hypothesis import strategies as st

from flambe_save import (
    CompilationError,
    Component,
    ConfigError,
    FunctionCallLink,
    Link,
    LinkError,
    MalformedLinkError,
    PickledDataLink,
    Schema,
    UnpreparedLinkError,
    create_link_str,
    load,
    parse_link_str,
    save,
    yaml,
)


class Part(Component, tag_namespace="lnk"):
    """Knows a size, and can be asked for twice that."""

    def __init__(self, size: Any = 1, inner: Any = None) -> None:
        self.size = size
        self.inner = inner

    def doubled(self) -> int:
        return 2 * self.size

    def itself(self) -> Part:
        return self

    @property
    def fails(self) -> int:
        raise AttributeError("not today")


class Net(Component, tag_namespace="lnk"):
    """Takes three arguments, built in the order of the config."""

    def __init__(self, first: Any = None, second: Any = None, third: Any = None) -> None:
        self.first, self.second, self.third = first, second, third


def build(text: str) -> Any:
    return yaml.load(text)()


# ---------------------------------------------------------------------------------------------------- the grammar


@pytest.mark.parametrize(
    ("text", "keys", "attributes"),
    [
        ("model", ["model"], []),
        ("model.size", ["model"], ["size"]),
        ("model[encoder].rnn.hidden_size", ["model", "encoder"], ["rnn", "hidden_size"]),
        ("layers[0][a b].x_1", ["layers", "0", "a b"], ["x_1"]),
        ("a-b[c.d]", ["a-b", "c.d"], []),
    ],
)
def test_links_have_keys_and_attributes(text: str, keys: list[str], attributes: list[str]) -> None:
    """Brackets hold keys, dots come before attributes; writing gives the text back."""
    assert parse_link_str(text) == (keys, attributes)
    assert create_link_str(keys, attributes) == text


public = re.compile(r"(?!__)")  # keys that begin with two underscores are private, and refused
first_key = st.from_regex(r"[^\[\].\s]+", fullmatch=True).filter(public.match)
other_keys = st.lists(st.from_regex(r"[^\[\]]+", fullmatch=True).filter(public.match), max_size=3)
attribute_lists = st.lists(st.from_regex(r"[A-Za-z][A-Za-z0-9_]*", fullmatch=True), max_size=3)


@given(first_key, other_keys, attribute_lists)
@settings(max_examples=150, deadline=None)
def test_writing_and_parsing_are_inverses(first: str, others: list[str], attributes: list[str]) -> None:
    """Any keys and public attributes survive as text, and as a link in YAML."""
    keys = [first, *others]
    assert parse_link_str(create_link_str(keys, attributes)) == (keys, attributes)
    link = yaml.load(yaml.dump(Link(keys, attributes)))
    assert (type(link), link.schematic_path, link.attr_path) == (Link, keys, attributes)


@given(st.text("ab[]. _0", max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_link_that_can_be_written_or_is_malformed(text: str) -> None:
    """What parses is written as it was; what does not is a MalformedLinkError."""
    try:
        written = create_link_str(*parse_link_str(text))
    except MalformedLinkError:
        written = text
    assert written == text


@given(st.lists(st.text("ab[]. _", max_size=3), max_size=3), st.lists(st.text("ab[]. _", max_size=3), max_size=2))
@settings(max_examples=200, deadline=None)
def test_any_parts_are_written_so_that_they_are_read_or_refused(keys: list[str], attributes: list[str]) -> None:
    """create_link_str never writes a link that means something else."""
    try:
        read = parse_link_str(create_link_str(keys, attributes))
    except MalformedLinkError:
        read = (keys, attributes)
    assert read == (keys, attributes)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "[a]", "a[", "a]", "a[]", "a[b", "a[b]c", "a[[b]]", ".a", "a.", "a..b", "a.b[c]", "a.1", "a.b()"],
)
def test_bad_grammar_is_a_malformed_link_with_its_line(text: str) -> None:
    """A link that cannot be parsed is told when the config is read, with the line and the grammar."""
    with pytest.raises(MalformedLinkError, match=r"line 2: .* is not a link\nWrite root\[key\]"):
        yaml.load(f"- 1\n- !@ '{text}'")


@pytest.mark.parametrize("text", ["a._b", "a.__class__", "a.b.__globals__", "a[b]._c"])
def test_private_attributes_are_refused(text: str) -> None:
    """Neither a text nor a list of attributes names what begins with an underscore."""
    keys, attributes = text.split(".")[:1], text.split(".")[1:]
    for refused in (
        lambda: parse_link_str(text),
        lambda: yaml.load(f"!@ {text}"),
        lambda: create_link_str(keys, attributes),
    ):
        with pytest.raises(MalformedLinkError, match="is not a link"):
            refused()


def test_private_attributes_are_refused_in_links_made_by_hand() -> None:
    """A Link made in Python follows the same rule, and can be shown in the error."""
    with pytest.raises(MalformedLinkError, match="__class__"):
        Link(["a"], ["__class__"], target=Part())()


def test_an_empty_path_is_malformed() -> None:
    """A link starts from a key."""
    with pytest.raises(MalformedLinkError, match="at least the key"):
        create_link_str([])


# ---------------------------------------------------------------------------------------------------- following


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ("!lnk.Net {first: !lnk.Part {size: 3}, second: !@ first.size}", 3),
        ("!lnk.Net {first: 5, second: !@ first}", 5),
        ("!lnk.Net {first: [!lnk.Part {size: 3}, !lnk.Part {size: 4}], second: !@ 'first[1].size'}", 4),
        ("!lnk.Net {first: {a b: !lnk.Part {size: 3}}, second: !@ 'first[a b].size'}", 3),
        ("!lnk.Net {first: !tuple [!lnk.Part {size: 3}], second: !@ 'first[0].size'}", 3),
        ("!lnk.Net {first: !lnk.Part {inner: !lnk.Part {size: 6}}, second: !@ 'first[inner].size'}", 6),
        ("!lnk.Net {first: !lnk.Part {inner: !lnk.Part {size: 6}}, second: !@ first.inner.size}", 6),
        ("!lnk.Net {first: !lnk.Part {size: 3}, second: {k: [!@ first.size]}}", {"k": [3]}),
        ("!lnk.Net {first: !lnk.Part {size: 3}, second: !tuple [!@ first.size]}", (3,)),
        ("!lnk.Net {first: !lnk.Part {size: 3}, second: !link first.size}", 3),
        ("!lnk.Net {first: !lnk.Part {size: 3}, second: !call first.doubled}", 6),
        ("!lnk.Net {first: !lnk.Part {size: null}, second: !@ first.size}", None),
    ],
)
def test_a_link_stands_for_what_was_built_before_it(config: str, value: Any) -> None:
    """Links reach siblings, items of lists and mappings, inner objects and attributes, from any depth."""
    assert build(config).second == value


def test_a_link_to_an_object_is_that_object() -> None:
    """Without attributes the object itself is passed, also through a link from deep inside."""
    net = build("!lnk.Net {first: !lnk.Part {}, second: !@ first, third: !lnk.Net {first: [!@ first]}}")
    assert net.second is net.third.first[0] is net.first


@pytest.mark.parametrize("third", ["!@ second.size", "!@ 'second[size]'"])
def test_links_may_be_chained(third: str) -> None:
    """A link may start from another link, or lead through one."""
    assert build(f"!lnk.Net {{first: !lnk.Part {{size: 3}}, second: !@ first, third: {third}}}").third == 3


def test_links_start_from_the_whole_document() -> None:
    """In a mapping or a list of Schemas, the first key is one of theirs."""
    mapping = yaml.load("a: !lnk.Part {size: 3}\nb: !lnk.Part {size: !@ a.size}")
    items = yaml.load("- !lnk.Part {size: 3}\n- !lnk.Part {size: !@ '0.size'}")
    sizes = [[schema().size for schema in schemas] for schemas in (mapping.values(), items)]
    assert sizes == [[3, 3], [3, 3]]


def test_documents_do_not_see_each_other() -> None:
    """A link's keys are looked up in its own document."""
    first, second = yaml.load_all("!lnk.Net {a: 1, first: !@ a}\n---\n!lnk.Net {second: !@ a}")
    assert first.first.resolve({}) == 1
    with pytest.raises(MalformedLinkError, match="there is no 'a' in the config"):
        second()


@pytest.mark.parametrize(
    "config",
    [
        "!lnk.Net {first: !@ second.size, second: !lnk.Part {size: 3}}",
        "!lnk.Net {first: !lnk.Net {first: !@ second.size}, second: !lnk.Part {size: 3}}",
        "!lnk.Net {first: !lnk.Net {second: 1, first: !lnk.Part {size: !@ first.second}}}",
    ],
    ids=["sibling", "from-inside", "parent"],
)
def test_links_to_what_is_not_built_yet_are_unprepared(config: str) -> None:
    """A later sibling or a parent cannot be followed; the error says to what a link can point."""
    with pytest.raises(UnpreparedLinkError, match=r"Link\(.*not built.*\n.*not to a parent or a later sibling"):
        build(config)


@pytest.mark.parametrize("config", ["{first: !@ first}", "{first: !@ second, second: !@ first}"])
def test_links_that_lead_back_to_themselves_are_errors(config: str) -> None:
    """A circle of links is told, and does not end in a RecursionError."""
    with pytest.raises(LinkError, match=r"Link\(.*leads back to itself"):
        build(f"!lnk.Net {config}")


def test_a_link_without_a_config_is_unprepared() -> None:
    """A Link made by hand needs a target; with one it works."""
    with pytest.raises(UnpreparedLinkError, match=r"does not know the config.*\n.*set its target"):
        Schema(Part, size=Link(["a"], ["size"]))()
    assert Schema(Part, size=Link(["a"], ["size"], target=Part(8)))().size == 8


@pytest.mark.parametrize("link", ["nope", "first[nope]", "first[9]", "second[9].size", "second[x]", "third[x]"])
def test_keys_that_name_nothing_are_malformed(link: str) -> None:
    """A key that the config does not have is told, with the link and the node."""
    with pytest.raises(MalformedLinkError, match=r"Link\(.*there is no '(nope|9|x)' in the config .*node 'third"):
        build(f"!lnk.Net {{first: !lnk.Part {{}}, second: [!lnk.Part {{}}], third: !lnk.Part {{size: !@ '{link}'}}}}")


@pytest.mark.parametrize("link", ["first.nope", "first.size.nope", "first.fails"])
def test_attributes_that_are_not_there_are_link_errors(link: str) -> None:
    """A missing attribute, and a property that fails, are errors of the link."""
    with pytest.raises(LinkError, match=rf"Link\({link}\): .*(nope|not today)"):
        build(f"!lnk.Net {{first: !lnk.Part {{}}, second: !@ {link}}}")


def test_calls_that_cannot_be_made_are_errors_of_ours() -> None:
    """Calling what is not callable, or what raises, is a ConfigError that names the link."""
    with pytest.raises(ConfigError, match=r"first\.size"):
        build("!lnk.Net {first: !lnk.Part {size: 3}, second: !call first.size}")


def test_a_link_is_followed_once() -> None:
    """A function behind a link is called one time."""
    calls = []
    link = FunctionCallLink(["a"], target=lambda: calls.append(1))
    assert (link(), link(), calls) == (None, None, [1])


def test_links_see_overrides() -> None:
    """An override takes the place of the keyword for links too."""
    schema = yaml.load("!lnk.Net {first: 2, second: !@ first}")
    assert schema(first=5).second == 5


def test_links_see_schemas_among_overrides() -> None:
    """The same where the override is a Schema that is built in place of the config's."""
    schema = yaml.load("!lnk.Net {first: !lnk.Part {size: 2}, second: !@ first.size}")
    assert schema(first=Schema(Part, size=7)).second == 7


def test_links_inside_sets_are_followed() -> None:
    """A set is a container like a list or a tuple."""
    assert build("!lnk.Net {first: !lnk.Part {size: 3}, second: !set [!@ first.size, 4]}").second == {3, 4}


# ---------------------------------------------------------------------------------------------------- writing

NESTED = """!lnk.Net
first: !lnk.Part
  size: 3
  inner: null
second: !lnk.Net
  first: !lnk.Part
    size: 4
    inner: !@ first
  second: !lnk.Part
    size: !@ second[first].size
    inner: !@ first.size
  third: null
third: !@ second[second].size
"""


def test_links_are_written_as_links_again() -> None:
    """A built object gives the config that it was read from; so does a Schema that was not built."""
    assert yaml.dump(yaml.load(NESTED)) == yaml.dump(build(NESTED)) == NESTED


def test_the_links_of_a_sub_object_start_from_it() -> None:
    """In a part's own config, links inside it are shortened and those that lead out become what they stand for."""
    part = build(NESTED).second
    assert yaml.dump(part) == (
        "!lnk.Net\n"
        "first: !lnk.Part\n  size: 4\n  inner: !lnk.Part\n    size: 3\n    inner: null\n"
        "second: !lnk.Part\n  size: !@ first.size\n  inner: 3\n"
        "third: null\n"
    )
    assert yaml.load(yaml.dump(part))().second.size == 4


def test_the_links_of_a_sub_schema_start_from_it() -> None:
    """A Schema inside a config that was not built is written so that it can be read alone."""
    part = yaml.load("!lnk.Net {first: !lnk.Net {first: !lnk.Part {size: 3}, second: !@ 'first[first].size'}}").first
    assert yaml.load(yaml.dump(part))().second == 3


def test_objects_that_links_share_stay_shared() -> None:
    """Two links that lead out of a part to one object become one object in the part's own config."""
    part = build("!lnk.Net {first: !lnk.Part {}, second: !lnk.Net {first: !@ first, second: [!@ first]}}").second
    again = yaml.load(yaml.dump(part))()
    assert again.first is again.second[0]


def test_a_link_to_an_object_in_a_list_is_written_with_its_index() -> None:
    """Positions in lists are keys."""
    text = "!lnk.Net\nfirst:\n- !lnk.Part\n  size: 3\n  inner: null\nsecond: !@ first[0].size\nthird: !@ first[0]\n"
    assert yaml.dump(build(text)) == text


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda schema: pickle.loads(pickle.dumps(schema))])
def test_links_of_a_copy_are_followed_anew(way: Callable[[Schema], Schema]) -> None:
    """A copy of a Schema that was built follows its links for its own arguments, and leaves the first object alone."""
    schema = yaml.load("!lnk.Net {first: !lnk.Part {size: 2}, second: !@ first.size}")
    built = schema()
    assert way(schema)(first=Part(5)).second == 5
    assert yaml.load(yaml.dump(built))().second == built.second == 2


def test_links_are_followed_anew_after_an_error() -> None:
    """What a link stood for in a call that failed is forgotten in the next call."""
    schema = yaml.load("!lnk.Net {first: 2, second: !@ first, third: !torch.Linear {}}")
    with pytest.raises(CompilationError, match="do not fit"):
        schema(first=5)
    assert schema(first=7, third=None).second == 7


def test_a_link_to_an_object_in_a_mapping_of_numbers_can_be_read_again() -> None:
    """Where the way to an object leads through a key that is no string, what is written still means the object."""
    net = build("!lnk.Net {first: {0: &p !lnk.Part {size: 3}}, second: *p, third: !@ second.size}")
    assert yaml.load(yaml.dump(net))().third == 3


def test_a_link_through_a_key_that_no_link_can_hold_becomes_its_value() -> None:
    """Where the way to an object cannot be written, the value is."""
    net = build("!lnk.Net {first: {'a]': &p !lnk.Part {size: 3}}, second: *p}")
    link = Link(["x"], ["size"], target=net.first["a]"])
    again = yaml.load(yaml.dump(Schema(Net, first=net.first, second=link)()))()
    assert again.second == 3


@pytest.mark.parametrize(("call", "written"), [("first.doubled", "6"), ("first.itself", "!call first.itself")])
def test_a_call_is_written_as_its_result_where_that_is_plain(call: str, written: str) -> None:
    """A plain result spares the reader the call; another one is called for again."""
    text = yaml.dump(build(f"!lnk.Net {{first: !lnk.Part {{size: 3}}, second: !call {call}}}"))
    assert f"second: {written}\n" in text


def test_an_object_that_records_a_link_keeps_no_state_of_the_save(tmp_path: Path) -> None:
    """The link forgets the save's values once it was followed, so that no second copy of them stays in memory."""
    net = build("!lnk.Net {first: !lnk.Part {size: 4}, second: !@ first.size}")
    loaded = load(save(net, tmp_path / "save"))
    assert (loaded.second, loaded._schema["second"].sources) == (4, None)
    assert b"Sources" not in pickle.dumps(loaded)


def test_flambes_linked_save_builds() -> None:
    """The config of a genuine Flambe save with links gives the values that its parts recorded."""
    import textnet

    model = yaml.load(FLAMBE / "linked" / "config.yaml")()
    assert isinstance(model, textnet.Classifier)
    parts = {name: (FLAMBE / "linked" / name / "config.yaml").read_text() for name in ("embedder", "encoder", "head")}
    assert {name: yaml.dump(getattr(model, name)) for name in parts} == parts


def test_stash_references_are_read_and_written() -> None:
    """``!$`` names an object of the stash by its id, which stays a string."""
    schema = yaml.load("!lnk.Part {size: !$ 0, inner: !$ abc}")
    assert (type(schema.size), schema.size.obj_id, schema.size({"0": 1})) == (PickledDataLink, "0", 1)
    assert yaml.dump(schema) == "!lnk.Part\nsize: !$ 0\ninner: !$ abc\n"


def test_repr_shows_the_link() -> None:
    """repr shows kind and path."""
    shown = [repr(yaml.load(text)) for text in ("!@ a[b].c", "!call a.b", "!$ 7")]
    assert shown == ["Link(a[b].c)", "FunctionCallLink(a.b)", "PickledDataLink('7')"]

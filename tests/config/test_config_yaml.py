"""The YAML dialect: what is read, what is written, what is refused, and that other users of PyYAML see none of it."""

from __future__ import annotations

import datetime
import io
import json
import math
import pathlib
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml as pyyaml
from helpers.places import FLAMBE
from hypothesis import given, settings
from hypothesis import strategies as st

from flambe_save import Component, ConfigError, FlambeSaveError, Schema, UnsupportedObjectError, yaml
from flambe_save.config import nodes
from flambe_save.config.dialect import MAX_DEPTH
from flambe_save.describing.documents import serialize
from flambe_save.schema.schema import visit


class Pair(Component, tag_namespace="yml"):
    """Holds two arguments as they come."""

    def __init__(self, left: Any = None, right: Any = None) -> None:
        self.left = left
        self.right = right


def round_trip(value: Any) -> Any:
    return yaml.load(yaml.dump(value))


def alike(a: Any, b: Any) -> bool:
    """Whether two plain values are equal in type, order and bits; unlike ``==``, nan is nan and 1 is not True."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return alike(list(a.items()), list(b.items()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, (set, frozenset)):
        return {(type(item), item) for item in a} == {(type(item), item) for item in b}
    return repr(a) == repr(b)


# ---------------------------------------------------------------------------------------------------- other YAML users


def test_pyyaml_refuses_our_tags() -> None:
    """A tagged config is still nothing that yaml.safe_load reads."""
    text = yaml.dump(Pair(1))
    with pytest.raises(pyyaml.constructor.ConstructorError, match=r"yml\.Pair"):
        pyyaml.safe_load(text)


def test_pyyaml_classes_are_untouched() -> None:
    """PyYAML's own loaders and dumpers have the constructors, representers and resolvers of a fresh interpreter."""
    program = """
import json, yaml
names = ["SafeLoader", "CSafeLoader", "Loader", "FullLoader", "SafeDumper", "CSafeDumper", "Dumper"]
def facts(cls):
    tables = ("yaml_constructors", "yaml_multi_constructors", "yaml_representers", "yaml_multi_representers")
    resolvers = {str(key): [(tag, regexp.pattern) for tag, regexp in rows]
                 for key, rows in cls.yaml_implicit_resolvers.items()}
    return [resolvers, [sorted(map(str, getattr(cls, name, ()))) for name in tables]]
print(json.dumps([facts(getattr(yaml, name)) for name in names if hasattr(yaml, name)]))
"""
    fresh = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    here = io.StringIO()
    exec(program, {"print": here.write})
    assert json.loads(here.getvalue()) == json.loads(fresh)


# ---------------------------------------------------------------------------------------------------- scalars

SCALARS = [
    ("yes", "yes"),
    ("on", "on"),
    ("No", "No"),
    ("true", True),
    ("FALSE", False),
    ("~", None),
    ("null", None),
    ("", None),
    ("7", 7),
    ("-12", -12),
    ("010", 10),
    ("0o17", 15),
    ("0x1F", 31),
    ("1_000", "1_000"),
    ("12:30:45", "12:30:45"),
    ("1e-5", 1e-5),
    ("1E5", 1e5),
    ("1.", 1.0),
    (".5", 0.5),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    ("infinity", "infinity"),
    ("=", "="),
    ("<<", "<<"),
    ("'7'", "7"),
    ("!!str 7", "7"),
    ("!!float 7", 7.0),
    ("!!binary aGk=", b"hi"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_plain_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    """Each plain scalar means what YAML 1.2's core schema says, alone and as a value."""
    assert alike([yaml.load(f"- {text}\n- x")[0], yaml.load(f"k: {text}")["k"]], [value, value])


def test_nan_is_read() -> None:
    """`.nan` and `.NaN` are not-a-number."""
    assert all(math.isnan(value) for value in yaml.load("[.nan, .NaN]"))


AWKWARD = [
    *("on", "yes", "n", "NO", "true", "null", "~", "", " ", "1e5", "1e-5", "1.5", "0o7", "0x1", "010", "1_000", "="),
    *("12:30:45", "2020-01-01", "2020-01-01 10:00:00", "<<", "!tag", "&a", "*a", "- a", "a: b", "# no", "a #b"),
    *("---", "...", "%YAML", "@", "`", "'", '"', "a\nb", "\n", "\n a\n", "  a\n b", "a\n\n\n", "a\r\nb", "a\tb"),
    *("\x00", "\x07", "\x85", "\u2028", "\ufeff", "naïve", "日本", "😀", "a\n..", "[", "{", "]", "?", ".inf", ".nan"),
    "x" * 5000,
]


@pytest.mark.parametrize("text", AWKWARD, ids=lambda text: ascii(text)[:20])
def test_awkward_strings_survive_in_both_yaml_versions(text: str) -> None:
    """A string that looks like something else stays a string: alone, as key, and in a list; for PyYAML too."""
    values = [text, {text: [text]}]
    written = [yaml.dump(value) for value in values]
    assert [yaml.load(item) for item in written] == values == [pyyaml.safe_load(item) for item in written]


@pytest.mark.parametrize("text", ["a\n...\n", "a\n...", "...\n", "\n...\n"])
def test_a_string_that_ends_like_a_document(text: str) -> None:
    """Three dots on the last line of a string are part of it."""
    assert round_trip(text) == text


@given(st.text())
@settings(max_examples=150, deadline=None)
def test_any_string_survives_in_both_yaml_versions(text: str) -> None:
    """Whatever a string holds, both languages read it back."""
    written = yaml.dump([text, {text: 1}])
    assert yaml.load(written) == [text, {text: 1}] == pyyaml.safe_load(written)


UNTAGGED = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
HASHABLE = st.integers() | st.text(max_size=4) | st.binary(max_size=4) | st.booleans() | st.none()
KEYS = st.text(max_size=4) | st.integers()


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
    )


@given(nested(UNTAGGED))
@settings(max_examples=150, deadline=None)
def test_untagged_values_read_the_same_under_yaml_1_1(value: Any) -> None:
    """What is written without tags means the same to PyYAML's safe loader."""
    assert alike(pyyaml.safe_load(yaml.dump(value)), value)


@given(
    nested(
        UNTAGGED
        | st.complex_numbers()
        | st.tuples(UNTAGGED, st.tuples(UNTAGGED))
        | st.sets(HASHABLE, max_size=3)
        | st.frozensets(HASHABLE, max_size=3)
        | st.dictionaries(KEYS, UNTAGGED, max_size=3).map(OrderedDict)
    )
)
@settings(max_examples=150, deadline=None)
def test_plain_values_round_trip(value: Any) -> None:
    """Nested plain values come back equal in type, order and bits."""
    assert alike(round_trip(value), value)


@pytest.mark.parametrize(
    "value",
    [
        range(1, 10, 3),
        slice(None, 5, 2),
        (),
        set(),
        frozenset(),
        {frozenset([1]), (1, (2,))},
        complex(math.nan, -math.inf),
        pathlib.Path("a b/c"),
        pathlib.Path("~"),
        torch.float16,
        torch.device("cpu"),
        torch.Size([2, 0]),
        torch.nn.Linear,
        Pair,
        b"",
        2**200,
        5e-324,
        -0.0,
    ],
    ids=repr,
)
def test_values_with_a_tag_of_their_own_round_trip(value: Any) -> None:
    """Python's and torch's plain values come back as what they were."""
    assert alike(round_trip([value]), [value])


@pytest.mark.parametrize("text", ["2020-01-01", "2020-01-01 10:20:30", "2020-01-01T10:20:30.5Z"])
def test_dates_that_can_be_read_can_be_written(text: str) -> None:
    """A date in a config does not keep the config from being written again."""
    value = yaml.load(text)
    assert round_trip(value) == value


ZONES = [datetime.timezone.utc, datetime.timezone(datetime.timedelta(minutes=-90))]


@given(st.dates() | st.datetimes() | st.datetimes(timezones=st.sampled_from(ZONES)))
@settings(max_examples=100, deadline=None)
def test_dates_survive_in_both_yaml_versions(value: datetime.date) -> None:
    """Dates and times come back, with microseconds and offsets, and are the same instant for PyYAML."""
    assert [round_trip(value), pyyaml.safe_load(yaml.dump(value))] == [value, value]


def test_a_time_that_yaml_cannot_say_is_not_written_wrong() -> None:
    """An offset with seconds has no place in a timestamp: it comes back whole, or is refused when it is written."""
    odd = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(seconds=3661)))
    try:
        back = round_trip(odd)
    except UnsupportedObjectError:
        back = odd
    assert back == odd


# ---------------------------------------------------------------------------------------------------- texts and files


def test_load_takes_text_streams_and_paths(tmp_path: Path) -> None:
    """Text, an open file and a path give the same config."""
    path = tmp_path / "config.yaml"
    path.write_text("name: naïve", encoding="utf-8")
    with path.open(encoding="utf-8") as stream:
        assert yaml.load("name: naïve") == yaml.load(stream) == yaml.load(path) == {"name": "naïve"}


def test_dump_takes_streams_and_paths(tmp_path: Path) -> None:
    """Without a target the text is returned; a stream or a path gets the same text."""
    stream, path = io.StringIO(), tmp_path / "config.yaml"
    assert yaml.dump({"é": 1}, stream) is None
    assert yaml.dump({"é": 1}, path) is None
    assert yaml.dump({"é": 1}) == stream.getvalue() == path.read_text(encoding="utf-8") == "é: 1\n"


@pytest.mark.parametrize("documents", [[], [1], [[1], "x", None], ["a\n...", {"k": (1, 2)}]])
def test_several_documents_round_trip(documents: list[Any], tmp_path: Path) -> None:
    """dump_all and load_all are inverses, through text and through files."""
    yaml.dump_all(documents, tmp_path / "all.yaml")
    assert yaml.load_all(yaml.dump_all(documents)) == yaml.load_all(tmp_path / "all.yaml") == documents


def test_load_wants_one_document() -> None:
    """An empty text and several configs are errors that name load_all."""
    for text in ("", "# only a comment", "- 1\n---\n- 2\n---\n- 3"):
        with pytest.raises(ConfigError, match=r"one config is needed.*\n.*load_all"):
            yaml.load(text)


# ---------------------------------------------------------------------------------------------------- what is written


def test_key_order_is_kept() -> None:
    """Keys are written in the order they have."""
    assert yaml.dump({"b": 1, "a": 2, "c": {"z": 1, "y": 2}}) == "b: 1\na: 2\nc:\n  z: 1\n  y: 2\n"


def test_defaults_are_filled_in_for_objects_and_not_for_schemas() -> None:
    """A built object's config tells all its arguments; a Schema is written as it is."""
    schema = Schema(Pair, left=1)
    assert (yaml.dump(schema), yaml.dump(schema())) == ("!yml.Pair\nleft: 1\n", "!yml.Pair\nleft: 1\nright: null\n")


@pytest.mark.parametrize("name", ["classifier", "linked", "shared"])
def test_flambes_own_configs_are_written_as_flambe_wrote_them(name: str) -> None:
    """A config of Flambe 0.4, built and dumped, is the same text."""
    import textnet

    text = (FLAMBE / name / "config.yaml").read_text(encoding="utf-8")
    built = yaml.load(text)()
    assert isinstance(built, textnet.Component)
    assert yaml.dump(built) == text


def test_equal_sets_are_written_alike() -> None:
    """The order in which sets were filled does not show: small integers that collide would betray it."""
    one, two = {frozenset([0, 8]), frozenset([1])}, {frozenset([8, 0]), frozenset([1])}
    assert one == two
    assert yaml.dump([one, {"b", "a"}]) == yaml.dump([two, {"a", "b"}])


def test_unsupported_values_name_their_place() -> None:
    """Without a stash, a value that YAML cannot hold is an error that says where it is."""
    with pytest.raises(UnsupportedObjectError, match=r"a\[1\]\.x, a Tensor"):
        yaml.dump({"a": [1, {"x": torch.ones(1)}]})


def test_a_list_that_holds_itself_is_refused() -> None:
    """Writing a recursive value is an error of ours."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(FlambeSaveError, match=r"itself|nested"):
        yaml.dump(value)


# ---------------------------------------------------------------------------------------------------- identity


def test_one_node_is_one_object() -> None:
    """An alias gives the very value of its anchor: a list, a Schema, and the object that it builds."""
    config = yaml.load("a: &l [1]\nb: *l\nc: &s !yml.Pair {left: 1}\nd: !yml.Pair {left: *s, right: [*s]}")
    built = config["d"]()
    assert config["a"] is config["b"]
    assert built.left is built.right[0] is config["c"]()


def test_shared_objects_are_written_with_an_anchor() -> None:
    """What is one object is one node, and is one object again."""
    part = Pair(1)
    built = yaml.load(yaml.dump(Pair(part, [part])))()
    assert built.left is built.right[0]


def test_equal_objects_stay_two() -> None:
    """Equal values that are not one object get no anchor."""
    assert "&" not in yaml.dump({"a": [1], "b": [1], "c": Pair(1), "d": Pair(1)})


def test_a_shared_list_reaches_the_constructor_as_one_list() -> None:
    """An anchor on a list among arguments keeps its meaning when the object is built."""
    built = yaml.load("!yml.Pair {left: &l [1], right: *l}")()
    assert built.left is built.right


def test_a_shared_list_is_recorded_as_one_list() -> None:
    """One list given twice to a constructor is written with an anchor, and is one list again."""
    shared = [1]
    built = yaml.load(yaml.dump(Pair(shared, shared)))()
    assert built.left is built.right


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' comes twice"),
        ("x:\n- {a: 1, 'a': 2}", "line 2: the key 'a' comes twice"),
        ("{16: a, 0x10: b}", "line 1: the key .* comes twice"),
        ("!yml.Pair {left: 1,\n left: 2}", "line 2: the key 'left' comes twice"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "line 3: merge keys"),
        ("a: &a\n- *a", r"line 2: \*a has no finished anchor"),
        ("- 1\n- *nope", r"line 2: \*nope has no finished anchor"),
        ("a: [1, 2", r"line \d: this is not YAML"),
        ("a:\n\t- b", "line 2: this is not YAML"),
        ("a: b: c", "line 1: this is not YAML"),
        ("a\x00", "this is not YAML"),
        ("a: \ud800", "this is not YAML"),
        ("x: 1\ny: !!python/object:os.getcwd {}", "line 2: the tag .*python/object:os.getcwd"),
        ("!!python/object/apply:os.getcwd []", "line 1: the tag .*python/object/apply:os.getcwd"),
        ("!!python/name:os.getcwd ''", "line 1: the tag .*python/name:os.getcwd"),
        ("!!set {a, b}", "line 1: the tag '?.*set.* is not part of this dialect|line 1: the tag .* takes"),
        ("!<tag:elsewhere.org,2000:x> 1", "line 1: the tag 'tag:elsewhere.org,2000:x' is not part of this dialect"),
        ("- 1\n- !yml.Pair [1]", "line 2: the tag '!yml.Pair' takes a mapping"),
        ("- 1\n- !yml.Pair {1: 2}", "line 2: the arguments of !yml.Pair must have names"),
        ("- 1\n- !yml.Nope {}", "line 2: no imported class has the tag '!yml.Nope'"),
        ("!!int abc", "line 1: 'abc' is not a valid int"),
        ("!!bool yes", "line 1: 'yes' is not a valid bool"),
        ("!!bool maybe", "line 1: 'maybe' is not a valid bool"),
        ("!!null something", "line 1: 'something' is not a valid null"),
        ("!!binary abc", "line 1: 'abc' is not a valid binary"),
        ("2020-13-45", "line 1: '2020-13-45' is not a valid timestamp"),
        ("- 1\n- {[a]: 2}", "line 2: a list cannot be a key"),
        ("!set [[1]]", "line 1: !set cannot hold"),
        ("!tuple abc", "line 1: a list is needed"),
        ("!range [1, 2, 0]", "line 1: !range cannot hold"),
        ("!torch.dtype load", "line 1: 'load' is not a torch dtype"),
        ("!torch.device nowhere", "line 1: !torch.device cannot hold"),
        ("!torch.Size [a]", "line 1: !torch.Size cannot hold"),
        ("!@ [a]", "line 1: the tag '!@' takes a scalar"),
        ("!type yml.Nope", "line 1: no imported class has the tag '!yml.Nope'"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_bad_input_is_an_error_with_its_line(text: str, message: str) -> None:
    """Each kind of bad input is a ConfigError that says what is wrong, and in which line."""
    with pytest.raises(ConfigError, match=message):
        yaml.load(text)


def test_all_unknown_tags_are_listed() -> None:
    """One error names every unknown tag with its line."""
    with pytest.raises(ConfigError, match=r"line 1: .*'!nope.A'.*line 3: .*'!nope.B'"):
        yaml.load("a: !nope.A {}\nb: 1\nc: !nope.B {}")


def test_a_file_that_is_no_text_is_an_error_of_ours(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are a ConfigError, not a UnicodeDecodeError alone."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: \xff\xfe\x00")
    with pytest.raises(ConfigError, match="not YAML"):
        yaml.load(path)


def test_a_string_that_no_file_can_hold_is_an_error_of_ours() -> None:
    """A lone surrogate cannot be written as UTF-8."""
    with pytest.raises(FlambeSaveError, match=r"surrogate|YAML cannot hold"):
        yaml.dump({"a": "\ud800"})


DEEP = MAX_DEPTH + 1


@pytest.mark.parametrize(
    "text",
    ["[" * DEEP, "[" * DEEP + "]" * DEEP, "{a: " * DEEP + "}" * DEEP, "- " * DEEP, "? " * DEEP],
    ids=["open", "lists", "mappings", "block", "keys"],
)
def test_deep_nesting_is_an_error_of_ours(text: str) -> None:
    """One level more than may be is an error."""
    with pytest.raises(ConfigError, match="nested deeper"):
        yaml.load(text)


@pytest.mark.parametrize(
    "text",
    ["!yml.Pair {left: " + "[" * 5000 + "]" * 5000 + "}", "!yml.Pair {left: " * 5000 + "1" + "}" * 5000],
    ids=["lists", "schemas"],
)
def test_what_is_deep_but_can_be_read_builds_and_dumps_or_is_an_error_of_ours(text: str) -> None:
    """Within the limit on nesting, later steps do not end in a RecursionError either."""
    schema, done = yaml.load(text), []
    for step in (schema, lambda: yaml.dump(schema), lambda: yaml.dump(schema())):
        try:
            step()
        except FlambeSaveError as error:
            done.append(type(error).__name__)
        except RecursionError:
            done.append("RecursionError")
    assert "RecursionError" not in done


def test_what_is_too_deep_to_be_read_is_not_written() -> None:
    """A hundred thousand levels do not end the process, and no config is written that nothing reads."""
    value: Any = 1
    node: Any = pyyaml.ScalarNode("tag:yaml.org,2002:int", "1")
    for _ in range(100_000):
        value, node = [value], pyyaml.SequenceNode("tag:yaml.org,2002:seq", [node], flow_style=True)
    with pytest.raises(ConfigError, match="nested deeper"):
        yaml.dump(value)
    with pytest.raises(ConfigError, match="nested deeper"):
        serialize([node])
    while isinstance(value, list):
        value = value[0]


def doubled(levels: int, tag: str = "") -> str:
    """Return lists of which each holds the one before it twice."""
    lines = [f"a{level}: &a{level} {tag} [*a{level - 1}, *a{level - 1}]" for level in range(1, levels)]
    return "\n".join([f"a0: &a0 {tag} [1, 1]", *lines, ""])


def test_doubled_anchors_stay_cheap() -> None:
    """Anchors that double at every level cost what they hold once, not what they would unfold to."""
    assert sum(1 for _ in visit(yaml.load(doubled(15)))) < 1000


def test_anchors_that_unfold_to_too_much_are_refused() -> None:
    """Whoever walks through such values walks through each part as often as it stands there."""
    with pytest.raises(ConfigError, match="line 19: with its anchors unfolded"):
        yaml.load(doubled(20))


def test_an_error_does_not_unfold_anchors() -> None:
    """A message about a value shows a part of it, and does not make the rest."""
    text = doubled(17) + "b: !range [*a16]"
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="!range cannot hold"):
            yaml.load(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("use", ["b: !set [*a13]", "? *a13\n: 1"], ids=["set", "key"])
def test_what_is_hashed_is_measured(use: str) -> None:
    """A tuple's hash visits all that it unfolds to, so one of more than 10,000 values is refused where it is hashed."""
    with pytest.raises(ConfigError, match="of more than 10000 values"):
        yaml.load(doubled(14, "!tuple") + use)


def test_limits_are_errors_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config that is too large is refused before it is parsed, one of too many values while it is."""
    monkeypatch.setattr(nodes, "_MAX_CHARS", 100)
    monkeypatch.setattr(nodes, "_MAX_NODES", 10)
    with pytest.raises(ConfigError, match="101 characters; the limit is 100"):
        yaml.load("x" * 101)
    with pytest.raises(ConfigError, match="more than 10 values"):
        yaml.load(str(list(range(11))))


PIECES = [
    *("a", "1", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ", ", "&x ", "*x", "'", '"', "---\n", "...", "|\n", "? "),
    *("!yml.Pair ", "!@ ", "!$ ", "!call ", "!tuple ", "!set ", "!odict ", "!type ", "!!int ", "!!map ", "!", "%", "#"),
    *("!range ", "!slice ", "!complex ", "!path ", "!torch.Size ", "!torch.dtype ", "!torch.Linear ", "<<", "1e999"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=20))
@settings(max_examples=400, deadline=None)
def test_whatever_is_read_is_a_config_or_an_error_of_ours(text: str) -> None:
    """No text, however odd, ends in an exception of someone else."""
    try:
        documents = yaml.load_all(text)
    except FlambeSaveError as error:
        documents = [error]
    assert isinstance(documents, list)

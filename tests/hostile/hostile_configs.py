"""Configs that would import, call, reach into or outgrow the program: each is refused before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml as pyyaml
from casebook import Case, add, case, holder, marker, with_config

from flambe_save import (
    CompilationError,
    ConfigError,
    FlambeSaveError,
    LinkError,
    LoadError,
    MalformedLinkError,
    MissingExtensionError,
    RegistrationError,
    UnpreparedLinkError,
    UntrustedError,
)


def config(
    name: str,
    content: str | bytes,
    errors: type[BaseException] | tuple[type[BaseException], ...],
    message: str,
    rule: str,
) -> None:
    """Put a config into the table; the state alone asks nothing of it."""
    kinds = errors if isinstance(errors, tuple) else (errors,)
    add(Case(name, lambda folder: with_config(folder, content), kinds, message, rule, False))


def value(content: str) -> str:
    """Return a config that gives a value to a holder."""
    return f"!casebook.Holder\nvalue: {content}\n"


class Unsafe(pyyaml.UnsafeLoader):
    """PyYAML's unsafe loader, which takes our own tags for mappings."""


Unsafe.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_mapping(node, deep=True))


def unsafe(path: Path) -> None:
    """Read a config as PyYAML's unsafe loader does."""
    pyyaml.load((path / "config.yaml").read_text(), Unsafe)


# ------------------------------------------------------------------------------------------------ YAML

PYTHON_TAGS = {
    "object_apply": "!!python/object/apply:os.system ['touch {}']",
    "object_new": "!!python/object/new:casebook.Trap ['{}']",
    "object_exec": "!!python/object/apply:builtins.exec [\"open('{}', 'w')\"]",
    "object": "!!python/object:casebook.Trap {{}}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:antigravity",
    "tuple": "!!python/tuple [1, 2]",
    "verbatim": "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {}']",
}
for kind, content in PYTHON_TAGS.items():

    def make_tagged(folder: Path, content: str = content) -> Path:
        return with_config(folder, value(content.format(marker(folder))))

    RULE = "YAML's tags for Python objects are none of the dialect"
    executes = unsafe if "{}" in content and kind != "object" else None
    add(Case(f"python_{kind}", make_tagged, (ConfigError,), "python|dialect|tag", RULE, False, executes))

LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 10)}]\n" for level in range(40)
)
TUPLES = "  a0: &a0 !tuple [1]\n" + "".join(
    f"  a{level + 1}: &a{level + 1} !tuple [*a{level}, *a{level}]\n" for level in range(60)
)
BOMB = "!casebook.Anything\nuse:\n" + TUPLES

config(
    "billion_laughs_as_a_key", BOMB + "  ? *a60\n  : 1\n", ConfigError, "", "keys are measured before they are hashed"
)
config(
    "billion_laughs_in_a_set", BOMB + "  s: !set [*a60]\n", ConfigError, "", "items are measured before they are hashed"
)
config("billion_laughs_in_an_odict", BOMB + "  s: !odict [[*a60, 1]]\n", ConfigError, "", "keys are measured")
config("billion_laughs_in_a_frozenset", BOMB + "  s: !frozenset [*a60]\n", ConfigError, "", "items are measured")
config(
    "billion_laughs_as_an_argument",
    BOMB + "  s: !torch.Conv2d {in_channels: 1, out_channels: 1, kernel_size: 1, padding_mode: *a60}\n",
    FlambeSaveError,
    "",
    "a constructor gets no value that stands for more than the text could",
)
config(
    "billion_laughs_in_a_message",
    BOMB + "  s: !torch.Sequential {args: {a: *a60}}\n",
    FlambeSaveError,
    "",
    "a message cuts a value before it writes it",
)
config("billion_laughs_of_lists", LAUGHS, (ConfigError, LoadError), "", "the root is no object, or too large")
config("billion_laughs_in_a_range", BOMB + "  s: !range [*a60]\n", ConfigError, "", "a message cuts a value first")
config("nested_lists", value("[" * 100_000 + "]" * 100_000), ConfigError, "deep|nested", "nesting is limited")
config("nested_maps", value("{a: " * 100_000 + "}" * 100_000), ConfigError, "deep|nested", "nesting is limited")
config("nested_blocks", value("- " * 100_000), ConfigError, "deep|nested|YAML", "nesting is limited")
config(
    "nested_objects",
    "!casebook.Anything {a: " * 3_000 + "}" * 3_000,
    FlambeSaveError,
    "",
    "building uses no more than Python's stack",
)
config("nested_unfinished", value("[" * 100_000), ConfigError, "", "what does not end is no YAML")
config("huge_int", value("9" * 100_000), ConfigError, "int", "Python limits the digits of an int")
config("huge_hex_tag", value("!!int '" + "9" * 10_000 + "'"), ConfigError, "int", "Python limits the digits of an int")
config("int_of_words", value("!!int abc"), ConfigError, "int", "a tag's value is written as the tag says")
config("float_of_words", value("!!float __import__"), ConfigError, "float", "a tag's value is written as the tag says")
config("date_of_month_99", value("2020-99-99"), ConfigError, "", "a date is a date")
config("bad_base64", value("!!binary '%%%'") + "more: 1\n", ConfigError, "", "an argument that a class does not take")
config("merge_key", "!casebook.Holder\n<<: {value: 1}\n", ConfigError, "merge", "merge keys are left out")
config("duplicate_key", "!casebook.Holder\nvalue: 1\nvalue: 2\n", ConfigError, "twice", "a key comes once")
config("duplicate_key_alike", value("{1: a, 0x1: b}"), ConfigError, "twice", "a key comes once, however it is written")
config("self_containing_list", value("&a [*a]"), ConfigError, "anchor", "an anchor is finished before it is used")
config("self_containing_map", value("&a {b: *a}"), ConfigError, "anchor", "an anchor is finished before it is used")
config("self_containing_root", "&a !casebook.Holder\nvalue: *a\n", ConfigError, "anchor", "an anchor is finished first")
config("unknown_alias", value("*nothing"), ConfigError, "anchor|nothing", "an alias has an anchor")
config(
    "unknown_directive", "%TAG ! tag:yaml.org,2002:python/\n---\n!object/apply:os.system ['x']\n", ConfigError, "", "no"
)
config("unhashable_key", value("{[1]: 2}"), ConfigError, "key", "a key can be hashed")
config("three_documents", "a: b\n---\n!casebook.Holder {}\n---\n1\n", ConfigError, "", "a config is one document")
config("no_document", "# nothing\n", (ConfigError, LoadError), "", "a config is one document")
config(
    "other_object", "[1, 2]\n", LoadError, "not wanted", "a state that the config's object does not want is an error"
)
config("a_link_alone", "!@ a\n", (ConfigError, LoadError), "", "a save's config builds an object")
config("no_text", b"\xff\xfe\x00value", (LoadError, ConfigError), "UTF-8|text", "a config is UTF-8")
config("null_bytes", value("a\0b"), ConfigError, "YAML", "YAML has no such characters")
config("lone_surrogate", b"!casebook.Holder {value: \xed\xa0\x80}", (LoadError, ConfigError), "", "a config is UTF-8")
config("colour", value('!"\x1b[31m" 1'), ConfigError, "", "what a message quotes is quoted")
config("colour_escaped", value("!casebook.%1B[31mred {}"), ConfigError, "", "what a message quotes is quoted")
config("colour_in_a_key", '!casebook.Holder {"\\e[31m\\nred": 1}\n', ConfigError, "", "what a message quotes is quoted")
config("colour_in_a_twin", '{"\\e[31m": 1, "\\e[31m": 2}\n', ConfigError, "twice", "what a message quotes is quoted")
config("colour_in_a_value", value('!torch.dtype "\\e[31m"'), ConfigError, "", "what a message quotes is quoted")
config("colour_in_a_device", value('!torch.device "\\e[31m\\n"'), ConfigError, "", "what a message quotes is quoted")
config("colour_in_a_link", value('!@ "\\e[31m\\n"'), ConfigError, "", "what a message quotes is quoted")
config("colour_in_a_stash_id", value('!$ "\\e[31m\\n"'), ConfigError, "stash", "what a message quotes is quoted")
config(
    "colour_in_an_error", value('!torch.Dropout {p: "\\e[31m\\n"}'), ConfigError, "", "what a message quotes is quoted"
)
config("flood_in_a_key", "!casebook.Holder {" + "x" * 1000 + ": 1}\n", ConfigError, "", "what a message quotes is cut")
config(
    "flood_of_keys",
    "!casebook.Holder {" + ", ".join(f"k{index}: 1" for index in range(10_000)) + "}\n",
    ConfigError,
    "",
    "what a message quotes is cut",
)
config(
    "flood_of_tags",
    value("[" + ", ".join(f"!unknown.Tag{index} {{}}" for index in range(2_000)) + "]"),
    ConfigError,
    "unknown",
    "what a message lists is cut",
)
config("flood_in_a_tag", value("!" + "x" * 100_000 + " {}"), ConfigError, "", "what a message quotes is cut")
config("flood_in_a_link", value("!@ " + "a[b]" * 100_000), ConfigError, "", "what a message quotes is cut")

# ------------------------------------------------------------------------------------------------ tags and arguments

for plumbing in (
    "_flambe_custom_factory_name",
    "_schema",
    "_registered_attributes",
    "_created_with_tag",
    "__class__",
    "__init__",
    "__dict__",
    "self",
    "cls",
    "keywords",
    "stash",
):
    config(
        f"plumbing_{plumbing}",
        f"!casebook.Holder\n{plumbing}: x\n",
        CompilationError,
        "fit|argument",
        "an argument that a class does not name is refused",
    )
for name in ("self", "cls"):
    config(
        f"plumbing_to_all_keywords_{name}",
        f"!casebook.Anything\n{name}: x\n1: 2\n",
        ConfigError,
        "",
        "keywords are names, and not the object itself",
    )
config("unknown_tag", "!nowhere.Nothing {}\n", RegistrationError, "nowhere", "a tag is of a class that is imported")
config(
    "unknown_module", "!os.system {command: ls}\n", RegistrationError, "os", "a tag is of a class that is registered"
)
config("builtin_class", "!subprocess.Popen {args: ls}\n", UntrustedError, "subprocess", "as before")
config("plain_class", "!casebook.Trap {path: x}\n", UntrustedError, "Trap", "a class is registered, not only imported")
# What a config may hand to an object, put together without a constructor, or point to
HANDED = "what an object is handed to call was registered, or is torch's"
PARTS = "objects are made of parts only where using them runs nothing, and of parts that fit"
POINT = "a link leads to what the state or the config holds"
PARTIAL = "!functools.partial {{func: {}, args: [x], keywords: {{}}}}"
LINEAR = "!torch.Linear {in_features: 1, out_features: 1}"
ANY: tuple[type[BaseException], ...] = (ConfigError, UntrustedError)
for _name, _content, _errors, _message, _rule in (
    ("class_as_a_value", "!type subprocess.Popen", UntrustedError, "Popen", HANDED),
    ("class_of_a_link", "!type call", ANY, "all", HANDED),
    ("class_of_a_stash_link", "!type $", ANY, "", HANDED),
    ("class_of_parts", "!type casebook.Record", UntrustedError, "Record", HANDED),
    ("class_of_an_enum", "!type casebook.Mood", UntrustedError, "Mood", HANDED),
    ("function", "!function os.system", UntrustedError, "os.system", HANDED),
    ("function_of_torch", "!function torch.load", UntrustedError, "torch.load", HANDED),
    ("function_imported", "!function casebook.os.system", UntrustedError, "system", HANDED),
    ("function_that_is_none", "!function os.nothing", UntrustedError, "nothing", HANDED),
    ("function_in_a_partial", PARTIAL.format("!function os.system"), UntrustedError, "os.system", HANDED),
    ("class_in_a_partial", PARTIAL.format("!type subprocess.Popen"), UntrustedError, "Popen", HANDED),
    ("object_in_a_partial", PARTIAL.format("!casebook.Record {x: 1}"), ConfigError, "neither a function", HANDED),
    ("call_in_a_partial", PARTIAL.format("!casebook.Caller {x: 1}"), UntrustedError, "Caller", HANDED),
    (
        *("object_as_a_factory", "!collections.defaultdict {default_factory: !casebook.Record {}, items: []}"),
        *(ConfigError, "neither a function", HANDED),
    ),
    ("function_in_a_namespace", "!types.SimpleNamespace {a: !function os.system}", UntrustedError, "system", HANDED),
    ("reduce_in_a_namespace", "!types.SimpleNamespace {__reduce__: 1}", ConfigError, "__reduce__", PARTS),
    ("dataclass_that_is_called", "!casebook.Caller {x: 1}", UntrustedError, "Caller", PARTS),
    ("dataclass_with_a_new_field", "!casebook.Grown {}", ConfigError, "only code of the class", PARTS),
    ("dunder_field", "!casebook.Record {x: 1, __class__: 2}", ConfigError, "__class__", PARTS),
    ("enum_that_looks_members_up", "!casebook.Finder {value: 7}", UntrustedError, "Finder", PARTS),
    ("enum_of_no_member", "!casebook.Mood {name: __class__}", ConfigError, "parts", PARTS),
    ("unhashable", "!builtins.set {items: [[1]]}", ConfigError, "parts", PARTS),
    ("parts_missing", "!collections.deque {}", ConfigError, "parts", PARTS),
    ("deque_of_nothing", "!collections.deque {items: 5, maxlen: -1}", ConfigError, "parts", PARTS),
    ("decimal_of_a_list", "!decimal.Decimal {value: [1]}", ConfigError, "parts", PARTS),
    ("pattern_of_nothing", "!re.Pattern {pattern: '(', flags: 0}", ConfigError, "parts", PARTS),
    ("fraction_of_a_text", "!fractions.Fraction {numerator: '1e9', denominator: 1}", ConfigError, "is no int", PARTS),
    ("long_pattern", f"!re.Pattern {{pattern: '{'[a-z]' * 300}', flags: 2}}", ConfigError, "long to compile", PARTS),
    ("key_twice", "!builtins.dict {items: [[1, 2], [1, 3]]}", ConfigError, "twice", PARTS),
    ("class_of_a_namespace", "&x !types.SimpleNamespace {__class__: 1}", ConfigError, "__class__", PARTS),
    ("class_of_a_dict", "!torch.ParameterDict {parameters: {__class__: 1}}", ConfigError, "no name", PARTS),
    ("tables_of_a_dict", "!torch.ParameterDict {parameters: !odict [[_modules, 1]]}", ConfigError, "no name", PARTS),
    ("method_of_a_dict", "!torch.ParameterDict {parameters: {state_dict: 1}}", ConfigError, "no name", PARTS),
    ("private_key", "[1, !@ 'value[0][__globals__]']", ConfigError, "no link", POINT),
    ("capsule", "[!numpy.PCG64 {}, !@ 'value[0].capsule']", UntrustedError, "", POINT),
    ("back_to_nowhere", "[!back a.b]", (LinkError, LoadError), "BackLink", POINT),
    ("tensor_of_nowhere", "!tensor nothing", LinkError, "nothing", POINT),
    ("parameter_of_nowhere", "!parameter nothing:weight", LinkError, "nothing", POINT),
    ("parameter_of_itself", "!parameter value:weight", LinkError, "", POINT),
    ("parameter_private", f"[{LINEAR}, !parameter 'value.0:__dict__']", LinkError, "no such parameter", POINT),
):
    config(_name, value(_content), _errors, _message, _rule)
config(
    "program_of_parts",
    "!torch.AveragedModel\nmodel: !types.SimpleNamespace {__reduce_ex__: null, __reduce__: "
    + PARTIAL.format("!type builtins.tuple")
    + "}\n",
    ConfigError,
    "__reduce",
    "copying an object of parts runs nothing that a config names",
)
config(
    "schedule_that_constructs",
    f"!casebook.Anything\nl: {LINEAR}\no: !torch.SGD {{params: [!parameter 'l:weight'], lr: 0.1}}\n"
    f"s: !torch.LambdaLR {{optimizer: !@ o, lr_lambda: {PARTIAL.format('!type casebook.Record')}}}\n",
    UntrustedError,
    "Record",
    HANDED,
)
for _kind, _hidden in {
    "turned": "\\u202e",
    "tags": "\\U000e0041\\U000e007f",
    "filler": "\\u3164",
    "selector": "\\ufe0f",
}.items():
    config(
        f"hidden_characters_{_kind}",
        f'a: !@ "value{_hidden}"\n',
        ConfigError,
        r"\\u|\\U",
        "what a reader does not see is written out",
    )
config("torch_function", "!torch.load {f: x}\n", RegistrationError, "load", "torch's tags are classes of modules")
config("torch_path", "!torch.hub.load {f: x}\n", RegistrationError, "load", "torch's tags are classes of modules")
config("torch_private", "!torch._C {f: x}\n", RegistrationError, "_C", "torch's tags are classes of modules")
config("torch_tensor", "!torch.Tensor {f: x}\n", UntrustedError, "Tensor", "torch's tags are classes of modules")
config("torch_lazy", "!torch.onnx {f: x}\n", RegistrationError, "onnx", "torch's tags are classes of modules")
config("own_module", "!flambe_save.api.load {path: x}\n", RegistrationError, "load", "tags are classes")
config("schema", "!Schema {component_subclass: x}\n", RegistrationError, "Schema", "Schemas are no objects of configs")
config("type_of_a_builtin", value("!type builtins.exec"), RegistrationError, "exec", "a type is a registered class")
config(
    "type_of_a_factory",
    value("!type casebook.Holder.load_from_path"),
    ConfigError,
    "",
    "a type is no factory, or trusted",
)
config(
    "torch_dtype_of_a_module",
    value("!torch.dtype onnx"),
    ConfigError,
    "onnx",
    "a dtype is looked up without asking torch",
)
config(
    "torch_device_of_nothing", value("!torch.device nothing"), ConfigError, "device", "a device is one that torch knows"
)
config("abstract", "!Component {}\n", (RegistrationError, CompilationError), "", "the base itself is no tag")
for factory in (
    "method",
    "get_state",
    "save",
    "load_state",
    "compile",
    "run",
    "register_attrs",
    "__init__",
    "__new__",
    "__reduce__",
    "__init_subclass__",
    "__subclasshook__",
    "_load_state",
    "setup_dependencies",
    "precompile",
    "load_state_dict",
    "from_yaml",
    "mro",
):
    config(
        f"undeclared_factory_{factory}",
        f"!casebook.Outer.{factory} {{}}\n",
        RegistrationError,
        "",
        "a factory is declared to be one",
    )
config(
    "torch_factory",
    "!torch.Embedding.from_pretrained {embeddings: 1}\n",
    RegistrationError,
    "",
    "a factory is declared",
)
config(
    "reading_factory",
    "!casebook.Holder.load_from_path {path: /etc/hostname}\n",
    UntrustedError,
    "load_from_path",
    "a factory that reads needs trust",
)
config(
    "reading_factory_inside",
    value("[!casebook.Outer.load_from_path {path: /etc/hostname}]"),
    UntrustedError,
    "load_from_path",
    "a factory that reads needs trust, wherever it stands",
)
config(
    "reading_factory_unused",
    "!casebook.Anything {a: {b: [!casebook.Anything.load_from_path {path: /etc/hostname}]}}\n",
    UntrustedError,
    "load_from_path",
    "a factory that reads needs trust, wherever it stands",
)
config("call", value("!call value.get_state"), UntrustedError, "call", "a call needs trust")
config(
    "call_inside",
    "!casebook.Anything {a: !casebook.Holder {}, b: !call a.get_state}\n",
    UntrustedError,
    "call",
    "a call needs trust",
)
config(
    "call_by_its_path",
    "!casebook.Anything {a: !FunctionCallLink a.b}\n",
    (UntrustedError, RegistrationError),
    "",
    "a call needs trust under each of its names",
)
config(
    "call_by_its_full_path",
    "!casebook.Anything {a: !flambe_save.config.link.FunctionCallLink a.b}\n",
    (UntrustedError, RegistrationError),
    "",
    "a call needs trust under each of its names",
)
config(
    "positional_arguments_of_a_text",
    "!torch.Sequential {args: abc}\n",
    CompilationError,
    "list",
    "arguments are a list",
)
config("number_as_argument", "!casebook.Holder {1: 2}\n", ConfigError, "names", "arguments have names")
config("sequence_of_arguments", "!casebook.Holder [1]\n", ConfigError, "mapping", "arguments have names")
config("scalar_of_arguments", "!casebook.Holder abc\n", ConfigError, "mapping", "arguments have names")

# ------------------------------------------------------------------------------------------------ links

LINKS: dict[str, tuple[str, type[BaseException]]] = {
    "private": ("a._private", MalformedLinkError),
    "dunder": ("a.__class__", MalformedLinkError),
    "dunder_key": ("a[__class__]", LinkError),
    "globals": ("a.get_state.__globals__", MalformedLinkError),
    "method": ("a.get_state", LinkError),
    "class_method": ("a.load_from_path", LinkError),
    "partial": ("a.compile", LinkError),
    "module_call": ("l.forward", LinkError),
    "tensor_method": ("l.weight.untyped_storage", LinkError),
    "nothing": ("a.nothing", LinkError),
    "no_key": ("nothing", MalformedLinkError),
    "no_index": ("a[7]", MalformedLinkError),
    "itself": ("use", LinkError),
    "itself_inside": ("use[x]", LinkError),
    "later": ("later.value", UnpreparedLinkError),
    "empty": ("''", MalformedLinkError),
    "dots": ("a..b", MalformedLinkError),
    "open": ("'a[b'", MalformedLinkError),
    "empty_key": ("'a[]'", MalformedLinkError),
    "spaces": ("'a b'", MalformedLinkError),
    "expression": ('"a.get_state()"', MalformedLinkError),
    "import": ("\"__import__('os').system('ls')\"", LinkError),
    "list": ("[a]", ConfigError),
    "map": ("{a: b}", ConfigError),
    "newline": ('"a\\n.b"', LinkError),
    "long": ("a" + ".b" * 50_000, LinkError),
}
for kind, (target, error) in LINKS.items():
    config(
        f"link_{kind}",
        "!casebook.Anything\na: !casebook.Holder {value: 1}\nl: !torch.Linear {in_features: 1, out_features: 1}\n"
        f"use: !@ {target}\nlater: !casebook.Holder {{}}\n",
        error,
        "",
        "a link follows its grammar to public values of what stands before it",
    )
for kind, content in {
    "parent": "a: {b: !@ a}\n",
    "own_list": "a: [!@ a, 1]\n",
    "two_parents": "a: {b: [!@ c]}\nc: [!@ a]\n",
    "parent_of_an_object": "a: [1, !torch.Sequential {args: [!torch.ReLU {}, !@ a]}]\n",
}.items():
    config(f"link_to_{kind}", content, ConfigError, "", "a link leads to no container that it is inside of")
config(
    "links_in_a_circle", "!casebook.Anything\na: !@ b\nb: !@ a\n", LinkError, "", "a link does not lead back to itself"
)
config(
    "links_in_a_long_row",
    "!casebook.Anything\n" + "".join(f"a{i}: !@ a{i + 1}\n" for i in range(3000)) + "a3000: 1\n",
    ConfigError,
    "",
    "a row of links is no deeper than Python's stack",
)
config("stash_id_that_is_not_there", value("!$ '9'"), ConfigError, "stash", "a stash id is in the stash")

# ------------------------------------------------------------------------------------------------ extensions

EXTENSIONS = {
    "plain": "not_imported_at_all: not-imported-at-all>=1",
    "dotted": "not_imported_at_all.inside: x",
    "option": "not_imported_at_all: --index-url=http://localhost/",
    "option_first": "not_imported_at_all: '-r /etc/hostname'",
    "address": "not_imported_at_all: git+https://localhost/evil.git",
    "direct": "not_imported_at_all: 'evil @ http://localhost/evil.zip'",
    "path": "not_imported_at_all: /tmp",
    "two": "not_imported_at_all: x\nneither_is_this: y",
    "no_name": "'os; system': x",
    "relative": "..evil: x",
    "standard_library": "antigravity: x",
    "torch_inside": "torch.utils.benchmark.examples.blas_compare: x",
    "colour": '"\\e[31mevil": "\\e[31m\\n"',
    "long": "x" * 1000 + ": " + "y" * 100_000,
}
for kind, content in EXTENSIONS.items():
    config(
        f"extension_{kind}",
        f"---\n{content}\n---\n!casebook.Holder {{}}\n",
        MissingExtensionError,
        "",
        "no module is imported or looked for because a config names it",
    )
config("extensions_of_numbers", "---\n1: 2\n---\n!casebook.Holder {}\n", ConfigError, "", "extensions are texts")
config(
    "extensions_with_tags", "---\na: !casebook.Holder {}\n---\n!casebook.Holder {}\n", ConfigError, "", "texts alone"
)


@case(MissingExtensionError, "imported_by_a_config", "no package runs to look for a module inside it", state=False)
def extension_in_reach(folder: Path) -> Path:
    """The parent package of an extension could be imported, and would run."""
    package = folder / "imported_by_a_config"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(marker(folder))!r}, 'w').close()\n")
    (package / "inside.py").touch()
    sys.path.insert(0, str(folder))
    return with_config(folder, "---\nimported_by_a_config.inside: x\n---\n!casebook.Holder {}\n")


@case(RegistrationError, "imported_by_a_tag", "nothing is imported because a tag names it", state=False)
def tag_in_reach(folder: Path) -> Path:
    """The module of a tag could be imported, and would run; the manifest names it too."""
    from casebook import listed

    (folder / "imported_by_a_tag.py").write_text(f"open({str(marker(folder))!r}, 'w').close()\n")
    sys.path.insert(0, str(folder))
    path = holder(folder)
    (path / "config.yaml").write_text("!imported_by_a_tag.Thing {}\n")
    return listed(
        path, lambda document: document["tags"].update({"imported_by_a_tag.Thing": "imported_by_a_tag.Thing"})
    )


# ------------------------------------------------------------------------------------------------ size

HUGE = {
    "linear": "!torch.Linear {in_features: 1000000, out_features: 1000000}",
    "linear_more": "!torch.Linear {in_features: 100000000000, out_features: 100000000000}",
    "linear_meta": "!torch.Linear {in_features: 100000, out_features: 100000}",
    "linear_some": "!torch.Linear {in_features: 30000, out_features: 30000}",
    "embedding": "!torch.Embedding {num_embeddings: 10000000000, embedding_dim: 100}",
    "bilinear": "!torch.Bilinear {in1_features: 10000, in2_features: 10000, out_features: 10000}",
    "conv": "!torch.Conv3d {in_channels: 10000, out_channels: 10000, kernel_size: 100}",
    "norm": "!torch.LayerNorm {normalized_shape: [100000, 100000, 100]}",
    "batch_norm": "!torch.BatchNorm1d {num_features: 1000000000000}",
    "lstm": "!torch.LSTM {input_size: 100000, hidden_size: 1000000}",
    "lstm_of_many_layers": "!torch.LSTM {input_size: 1, hidden_size: 1, num_layers: 1000000000}",
    "gru_of_many_layers": "!torch.GRU {input_size: 64, hidden_size: 64, num_layers: 100000000}",
    "transformer": "!torch.Transformer {d_model: 1048576, nhead: 1, num_encoder_layers: 1, num_decoder_layers: 1}",
    "transformer_of_many_layers": "!torch.Transformer {num_encoder_layers: 1000000000, num_decoder_layers: 1}",
    "transformer_of_small_layers": (
        "!torch.Transformer {d_model: 1, nhead: 1, dim_feedforward: 1, num_encoder_layers: 1000000000}"
    ),
    "attention": "!torch.MultiheadAttention {embed_dim: 1000000, num_heads: 1}",
    "adaptive": "!torch.AdaptiveLogSoftmaxWithLoss {in_features: 100000, n_classes: 10000000, cutoffs: [10]}",
    "prelu": "!torch.PReLU {num_parameters: 1000000000000}",
    "list_of_a_range": "!torch.ParameterList {values: !range [0, 1000000000000, 1]}",
    "copies_without_tensors": "!torch.TransformerEncoder {encoder_layer: !torch.ReLU {}, num_layers: 30000}",
    "endless_copies": "!torch.TransformerDecoder {decoder_layer: !torch.ReLU {}, num_layers: 1000000000}",
    "copies_of_copies": (
        "!torch.TransformerEncoder {num_layers: 1000, encoder_layer: "
        "!torch.TransformerEncoder {num_layers: 1000, encoder_layer: !torch.ReLU {}}}"
    ),
    "ranges": "[" + ", ".join(["!collections.deque {items: !range [0, 1000000], maxlen: null}"] * 6) + "]",
    "range_named_often": (
        "[&r !range [0, 1000000], " + ", ".join(["!collections.deque {items: *r, maxlen: null}"] * 6) + "]"
    ),
    "list_named_often": (
        "[["
        + "0, " * 20_000
        + "0], "
        + ", ".join(["!collections.deque {items: !@ 'value[0]', maxlen: null}"] * 80)
        + "]"
    ),
    "seeds": "[" + ", ".join(["!numpy.PCG64 {seed: !range [0, 1000000]}"] * 4) + "]",
    "seeds_in_lists": "[!numpy.PCG64 {seed: [!range [0, 1000000], !range [0, 1000000]]}]",
    "links_of_links": (
        "{a0: [1], " + ", ".join(f"a{i}: [!@ 'value[a{i - 1}]', !@ 'value[a{i - 1}]']" for i in range(1, 60)) + "}"
    ),
    "modules_of_links": (
        "{a0: !torch.ReLU {}, "
        + ", ".join(
            f"a{i}: !torch.Sequential {{args: [!@ 'value[a{i - 1}]', !@ 'value[a{i - 1}]']}}" for i in range(1, 60)
        )
        + "}"
    ),
    "many_linears": "[" + ", ".join(["!torch.Linear {in_features: 4000, out_features: 4000}"] * 100) + "]",
}
for kind, content in HUGE.items():
    config(
        f"huge_{kind}",
        value(content),
        FlambeSaveError,
        "",
        "constructors may allocate little more than the state's own size",
    )
config(
    "huge_range_as_arguments",
    "!torch.Sequential {args: !range [0, 1000000000000, 1]}\n",
    ConfigError,
    "",
    "arguments are a list",
)
config(
    "huge_range_of_milestones",
    "!casebook.Anything\nl: !torch.Linear {in_features: 1, out_features: 1}\n"
    "w: !torch.ParameterList {values: [!@ l.weight]}\no: !torch.SGD {params: !@ w, lr: 0.1}\n"
    "s: !torch.MultiStepLR {optimizer: !@ o, milestones: !range [0, 1000000000000, 1]}\n",
    FlambeSaveError,
    "",
    "a range of that length is no value of a config",
)


@case((ConfigError, LoadError), "characters|many", "a config is no larger than its limit", state=False)
def huge_scalar(folder: Path) -> Path:
    """A text of 70 million letters."""
    return with_config(folder, value("x" * (70 << 20)))


@case(LoadError, "config", "an object is built from its config", state=False)
def empty_config(folder: Path) -> Path:
    """No config at all."""
    return with_config(folder, "")

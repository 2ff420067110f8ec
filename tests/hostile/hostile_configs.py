"""Configs that would import, call, reach into or outgrow the program: each is refused before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path

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


# ------------------------------------------------------------------------------------------------ YAML

PYTHON_TAGS = {
    "object_apply": "!!python/object/apply:casebook.touched ['{}']",
    "object_new": "!!python/object/new:casebook.Trap ['{}']",
    "object": "!!python/object:casebook.Trap {{}}",
    "name": "!!python/name:casebook.touched",
    "module": "!!python/module:casebook",
    "tuple": "!!python/tuple [1, 2]",
    "verbatim": "!<tag:yaml.org,2002:python/object/apply:casebook.touched> ['{}']",
}
for kind, content in PYTHON_TAGS.items():

    def make_tagged(folder: Path, content: str = content) -> Path:
        return with_config(folder, value(content.format(marker(folder))))

    RULE = "YAML's tags for Python objects are none of the dialect"
    add(Case(f"python_{kind}", make_tagged, (ConfigError,), "python|dialect|tag", RULE, False))


def doubled(levels: int) -> str:
    """Return a tuple of two tuples of two tuples: as a key it may have 10,000 parts, as any value a million."""
    rows = (f"  a{level + 1}: &a{level + 1} !tuple [*a{level}, *a{level}]\n" for level in range(levels))
    return "!casebook.Anything\nuse:\n  a0: &a0 !tuple [1]\n" + "".join(rows)


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 10)}]\n" for level in range(6)
)
KEY, VALUE = doubled(13), doubled(19)
HASHED, UNFOLDED = "a key or a set's item of more than 10000 values", "too many values"

for kind, content, rule in (
    ("as_a_key", "? *a13\n  : 1", "keys are measured before they are hashed"),
    ("in_a_set", "s: !set [*a13]", "items are measured before they are hashed"),
    ("in_an_odict", "s: !odict [[*a13, 1]]", "keys are measured before they are hashed"),
    ("in_a_frozenset", "s: !frozenset [*a13]", "items are measured before they are hashed"),
):
    config(f"doubled_{kind}", f"{KEY}  {content}\n", ConfigError, HASHED, rule)
for kind, content, rule in (
    (
        "as_an_argument",
        "s: !torch.Conv2d {in_channels: 1, out_channels: 1, kernel_size: 1, padding_mode: *a19}",
        "a constructor gets no value that stands for more than the text could",
    ),
    ("in_a_message", "s: !torch.Sequential {args: {a: *a19}}", "a message cuts a value before it writes it"),
    ("in_a_range", "s: !range [*a19]", "a message cuts a value first"),
):
    config(f"doubled_{kind}", f"{VALUE}  {content}\n", ConfigError, UNFOLDED, rule)
config("lists_of_lists", LAUGHS, ConfigError, UNFOLDED, "what anchors unfold to is counted")
DEEP = 10_001  # levels; 10,000 may be
config("nested_lists", value("[" * DEEP + "]" * DEEP), ConfigError, "nested deeper", "nesting is limited")
config("nested_maps", value("{a: " * DEEP + "}" * DEEP), ConfigError, "nested deeper", "nesting is limited")
config("nested_blocks", value("\n" + "- " * DEEP), ConfigError, "nested deeper", "nesting is limited")
config(
    "nested_objects",
    "!casebook.Anything {a: " * 3_000 + "}" * 3_000,
    FlambeSaveError,
    "",
    "building uses no more than Python's stack",
)
config("nested_unfinished", value("[" * 100), ConfigError, "not YAML", "what does not end is not YAML")
config("huge_int", value("9" * 5_000), ConfigError, "int", "Python limits the digits of an int")
config("huge_hex_tag", value("!!int '" + "9" * 5_000 + "'"), ConfigError, "int", "Python limits the digits of an int")
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
    "unknown_directive",
    "%TAG ! tag:yaml.org,2002:python/\n---\n!object/apply:casebook.touched ['x']\n",
    ConfigError,
    "python|dialect|tag",
    "YAML's tags for Python objects are none of the dialect, however they are abbreviated",
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
config("unknown_module", "!os.getcwd {}\n", RegistrationError, "os", "a tag is of a class that is registered")
config("builtin_class", "!logging.Logger {name: x}\n", UntrustedError, "logging", "as before")
config("plain_class", "!casebook.Trap {path: x}\n", UntrustedError, "Trap", "a class is registered, not only imported")
# What a config may hand to an object, put together without a constructor, or point to
HANDED = "what an object is handed to call was registered, or is torch's"
PARTS = "objects are made of parts only where using them runs nothing, and of parts that fit"
POINT = "a link leads to what the state or the config holds"
PARTIAL = "!functools.partial {{func: {}, args: [x], keywords: {{}}}}"
LINEAR = "!torch.Linear {in_features: 1, out_features: 1}"
ANY: tuple[type[BaseException], ...] = (ConfigError, UntrustedError)
for _name, _content, _errors, _message, _rule in (
    ("class_as_a_value", "!type logging.Logger", UntrustedError, "Logger", HANDED),
    ("class_of_a_link", "!type call", ANY, "all", HANDED),
    ("class_of_a_stash_link", "!type $", ANY, "", HANDED),
    ("class_of_parts", "!type casebook.Record", UntrustedError, "Record", HANDED),
    ("class_of_an_enum", "!type casebook.Mood", UntrustedError, "Mood", HANDED),
    ("function", "!function os.getcwd", UntrustedError, "os.getcwd", HANDED),
    ("function_of_torch", "!function torch.get_num_threads", UntrustedError, "torch.get_num_threads", HANDED),
    ("function_imported", "!function casebook.json.dumps", UntrustedError, "dumps", HANDED),
    ("function_that_is_none", "!function os.nothing", UntrustedError, "nothing", HANDED),
    ("function_in_a_partial", PARTIAL.format("!function os.getcwd"), UntrustedError, "os.getcwd", HANDED),
    ("class_in_a_partial", PARTIAL.format("!type logging.Logger"), UntrustedError, "Logger", HANDED),
    ("object_in_a_partial", PARTIAL.format("!casebook.Record {x: 1}"), ConfigError, "neither a function", HANDED),
    ("call_in_a_partial", PARTIAL.format("!casebook.Caller {x: 1}"), UntrustedError, "Caller", HANDED),
    (
        *("object_as_a_factory", "!collections.defaultdict {default_factory: !casebook.Record {}, items: []}"),
        *(ConfigError, "neither a function", HANDED),
    ),
    ("function_in_a_namespace", "!types.SimpleNamespace {a: !function os.getcwd}", UntrustedError, "getcwd", HANDED),
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
    ("fraction_of_a_text", "!fractions.Fraction {numerator: '1e9', denominator: 1}", ConfigError, "not str", PARTS),
    ("long_pattern", f"!re.Pattern {{pattern: '{'[a-z]' * 300}', flags: 2}}", ConfigError, "long to compile", PARTS),
    ("key_twice", "!builtins.dict {items: [[1, 2], [1, 3]]}", ConfigError, "twice", PARTS),
    ("class_of_a_namespace", "&x !types.SimpleNamespace {__class__: 1}", ConfigError, "__class__", PARTS),
    (
        "class_of_a_dict",
        "!torch.ParameterDict {parameters: {__class__: 1}}",
        ConfigError,
        "is not a name of a parameter",
        PARTS,
    ),
    (
        "tables_of_a_dict",
        "!torch.ParameterDict {parameters: !odict [[_modules, 1]]}",
        ConfigError,
        "is not a name of a parameter",
        PARTS,
    ),
    (
        "method_of_a_dict",
        "!torch.ParameterDict {parameters: {state_dict: 1}}",
        ConfigError,
        "is not a name of a parameter",
        PARTS,
    ),
    ("private_key", "[1, !@ 'value[0][__globals__]']", ConfigError, "is not a link", POINT),
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
config(
    "torch_function",
    "!torch.is_tensor {obj: 1}\n",
    RegistrationError,
    "is_tensor",
    "torch's tags are classes of modules",
)
config(
    "torch_path",
    "!torch.nn.functional.relu {input: 1}\n",
    RegistrationError,
    "relu",
    "torch's tags are classes of modules",
)
config("torch_private", "!torch._C {f: x}\n", RegistrationError, "_C", "torch's tags are classes of modules")
config("torch_tensor", "!torch.Tensor {f: x}\n", UntrustedError, "Tensor", "torch's tags are classes of modules")
config("torch_lazy", "!torch.onnx {f: x}\n", RegistrationError, "onnx", "torch's tags are classes of modules")
config("own_module", "!flambe_save.api.load {path: x}\n", RegistrationError, "load", "tags are classes")
config("schema", "!Schema {component_subclass: x}\n", RegistrationError, "Schema", "Schemas are no objects of configs")
config("type_of_a_builtin", value("!type builtins.len"), RegistrationError, "len", "a type is a registered class")
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
    "!casebook.Holder.load_from_path {path: nowhere}\n",
    UntrustedError,
    "load_from_path",
    "a factory that reads needs trust",
)
config(
    "reading_factory_inside",
    value("[!casebook.Outer.load_from_path {path: nowhere}]"),
    UntrustedError,
    "load_from_path",
    "a factory that reads needs trust, wherever it stands",
)
config(
    "reading_factory_unused",
    "!casebook.Anything {a: {b: [!casebook.Anything.load_from_path {path: nowhere}]}}\n",
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
    "call_of_a_name": ("\"len('a').real\"", LinkError),
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
    "option_first": "not_imported_at_all: '-r nowhere'",
    "address": "not_imported_at_all: git+https://localhost/evil.git",
    "direct": "not_imported_at_all: 'evil @ http://localhost/evil.zip'",
    "path": "not_imported_at_all: /tmp",
    "two": "not_imported_at_all: x\nneither_is_this: y",
    "no_name": "'a; b': x",
    "relative": "..evil: x",
    "standard_library": "wave: x",
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

HUGE = {  # each a little more than 512 MiB, or than 8192 tensors and modules, of which each counts 64 KiB at least
    "linear": "!torch.Linear {in_features: 12000, out_features: 12000}",
    "embedding": "!torch.Embedding {num_embeddings: 1500000, embedding_dim: 100}",
    "bilinear": "!torch.Bilinear {in1_features: 600, in2_features: 600, out_features: 600}",
    "conv": "!torch.Conv3d {in_channels: 100, out_channels: 100, kernel_size: 25}",
    "norm": "!torch.LayerNorm {normalized_shape: [1000, 1000, 100]}",
    "batch_norm": "!torch.BatchNorm1d {num_features: 50000000}",
    "lstm": "!torch.LSTM {input_size: 6000, hidden_size: 6000}",
    "lstm_of_many_layers": "!torch.LSTM {input_size: 1, hidden_size: 1, num_layers: 3000}",
    "transformer": "!torch.Transformer {d_model: 8192, nhead: 1, num_encoder_layers: 1, num_decoder_layers: 1}",
    "transformer_of_many_layers": "!torch.Transformer {num_encoder_layers: 100, num_decoder_layers: 1}",
    "transformer_of_small_layers": (
        "!torch.Transformer {d_model: 1, nhead: 1, dim_feedforward: 1, num_encoder_layers: 1000}"
    ),
    "attention": "!torch.MultiheadAttention {embed_dim: 8000, num_heads: 1}",
    "adaptive": "!torch.AdaptiveLogSoftmaxWithLoss {in_features: 1000, n_classes: 1000000, cutoffs: [10]}",
    "prelu": "!torch.PReLU {num_parameters: 150000000}",
    "list_of_a_range": "!torch.ParameterList {values: !range [0, 1048577, 1]}",
    "copies_without_tensors": "!torch.TransformerEncoder {encoder_layer: !torch.ReLU {}, num_layers: 10000}",
    "copies_of_copies": (
        "!torch.TransformerEncoder {num_layers: 100, encoder_layer: "
        "!torch.TransformerEncoder {num_layers: 100, encoder_layer: !torch.ReLU {}}}"
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
        "{a0: [1], " + ", ".join(f"a{i}: [!@ 'value[a{i - 1}]', !@ 'value[a{i - 1}]']" for i in range(1, 26)) + "}"
    ),
    "modules_of_links": (
        "{a0: !torch.ReLU {}, "
        + ", ".join(
            f"a{i}: !torch.Sequential {{args: [!@ 'value[a{i - 1}]', !@ 'value[a{i - 1}]']}}" for i in range(1, 26)
        )
        + "}"
    ),
    "many_linears": "[" + ", ".join(["!torch.Linear {in_features: 4000, out_features: 4000}"] * 10) + "]",
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
    "!torch.Sequential {args: !range [0, 1048577, 1]}\n",
    ConfigError,
    "",
    "arguments are a list",
)
config(
    "huge_range_of_milestones",
    "!casebook.Anything\nl: !torch.Linear {in_features: 1, out_features: 1}\n"
    "w: !torch.ParameterList {values: [!@ l.weight]}\no: !torch.SGD {params: !@ w, lr: 0.1}\n"
    "s: !torch.MultiStepLR {optimizer: !@ o, milestones: !range [0, 1048577, 1]}\n",
    FlambeSaveError,
    "",
    "a range of that length is no value of a config",
)


@case(ConfigError, "a text of more than", "a text in a config is no larger than its limit", state=False)
def huge_scalar(folder: Path) -> Path:
    """A text of one letter more than 16 MiB."""
    return with_config(folder, value("x" * ((16 << 20) + 1)))


@case(LoadError, "config", "an object is built from its config", state=False)
def empty_config(folder: Path) -> Path:
    """No config at all."""
    return with_config(folder, "")

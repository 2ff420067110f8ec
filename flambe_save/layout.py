"""Facts on disk, once: file names, protocol numbers, metadata keys, folder names of keys.

docs/format.md is the same in prose. Nothing here opens a file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# The files of a node (Flambe's protocol 1; every folder of a save holds all six).
CONFIG_FILE = "config.yaml"
STATE_FILE = "state.pt"
VERSION_FILE = "version.txt"
SOURCE_FILE = "source.py"
STASH_FILE = "stash.pkl"
PROTOCOL_FILE = "protocol_version.txt"
NODE_FILES = (CONFIG_FILE, STATE_FILE, VERSION_FILE, SOURCE_FILE, STASH_FILE, PROTOCOL_FILE)

# The files that only a root holds.
REQUIREMENTS_FILE = "requirements.txt"
MANIFEST_FILE = "manifest.json"
ROOT_FILES = (REQUIREMENTS_FILE, MANIFEST_FILE)

VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,9}")  # of a class
VERSIONED = re.compile(rf"[^:\s]*:{VERSION.pattern}")  # what version.txt reads; a bare state has no class

MANIFEST_START = b'{\n  "format": "flambe_save"'

# Files beside a root that people and hubs put there; they are not part of the save. Hubs' mixins write config.json.
CARD_FILES = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "config.json")

PICKLE_SUFFIX = ".pkl"
ARCHIVE_SUFFIX = ".tar.gz"
TENSORS_SUFFIX = ".safetensors"

PROTOCOL = 1  # what Flambe 0.4 reads too
ESCAPED_PROTOCOL = 2  # some folder name is percent-encoded, which Flambe would not decode
HIGHEST_PROTOCOL = 2

# Keys inside State._metadata (Flambe's names, but for the last six).
DIRECTORIES_KEY = "_flambe_directories"
KEEP_VARS_KEY = "keep_vars"
VERSION_KEY = "_flambe_version"
CLASS_KEY = "_flambe_class"
SOURCE_KEY = "_flambe_source"
CONFIG_KEY = "_flambe_config"
STASH_KEY = "_flambe_stash"
TAGS_KEY = "_flambe_tags"  # tag -> dotted path of the class it meant when the config was written
MODES_KEY = "modes"  # which parameters of a module were frozen, which modules were in training mode
ENTRIES_KEY = "entries"  # the names of a state_dict's entries, which may be others each time it is asked for
ENTRIES_ATTRIBUTES_KEY = "entries_attributes"  # those of the state_dict itself: its _metadata
SHAPES_KEY = "shapes"  # of an optimizer's parameters, by their names
DTYPES_KEY = "dtypes"  # of those for which an optimizer keeps something of another type
PARAMS_LAST_KEY = "params_last"  # that an optimizer's groups end with their params, as torch fills them
STEPPED_KEY = "stepped"  # that an optimizer has taken a step since a scheduler drives it
OTHERS_KEY = "others"  # keys of a module written as its parts that are not its tensors: its state_dict adds them
KEY_KEY = "_flambe_key"  # the component's key, where the folder name is too long to hold it

MAX_TEXT = 64 << 20  # bytes of a file other than state and stash

NO_VERSION = "0.0.0"  # Flambe's default: a class that has not opted into semantic versions

_UNSAFE = re.compile(r'[\x00-\x1f\x7f%/\\:*?"<>|\ud800-\udfff]')
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$")
_OWN_FILES = frozenset((*NODE_FILES, *ROOT_FILES))
LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch before 1.6, pickled
_EMPTY = "%"  # no escape is a lone percent sign, so it can stand for the empty name
_LONG = "%~"  # no escape begins with %~, so it can mark a shortened name
_MAX_BYTES = 200  # file systems stop at 255; the rest is room for temporary names
_HEAD_CHARS = 40


def encode_name(key: str, *, every: bool = False) -> str:
    """Return the folder name for a component's key; :func:`decode_name` is the inverse.

    What a file system or this layout would object to is percent-encoded as UTF-8: ``/ % \\ : * ? " < > |``, control
    characters, a leading or trailing dot, a trailing space, names reserved by Windows and our own file names. A name
    past 200 bytes keeps its beginning and ends in ``%~`` and a digest of the key. With ``every``, all characters are
    encoded: two keys that differ in case alone have such names that differ on every disk.
    """
    if key == "":
        return _EMPTY
    name = _escape(key) if every else _UNSAFE.sub(lambda match: _escape(match[0]), key)
    if name[0] == "." or name.lower() in _OWN_FILES or _RESERVED.match(name):
        name = _escape(name[0]) + name[1:]
    if name[-1] in ". ":
        name = name[:-1] + _escape(name[-1])
    if len(name.encode()) > _MAX_BYTES:
        import hashlib  # which loads OpenSSL

        head = re.sub(r"%[0-9A-F]?$", "", name[:_HEAD_CHARS])
        name = f"{head}{_LONG}{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return name


def decode_name(name: str) -> str | None:
    """Return the key of a folder name; None for a shortened name, whose key its node records.

    Raises
    ------
    ValueError
        If ``encode_name`` never writes such a name. Names with none of the special characters always decode to
        themselves, so what Flambe wrote reads as it is.
    """
    if name == _EMPTY:
        return ""
    if _LONG in name:
        return None
    parts = re.split(r"((?:%[0-9A-F]{2})+)", name)
    for index, part in enumerate(parts):
        if index % 2:
            parts[index] = bytes.fromhex(part.replace("%", "")).decode("utf-8", "surrogatepass")
        elif "%" in part:
            raise ValueError(f"{name!r} holds a percent sign that begins no escape")
    key = "".join(parts)
    if "%" in name and name not in (encode_name(key), encode_name(key, every=True)):
        raise ValueError(f"{name!r} is not how {key!r} is written")
    return key


def _escape(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def same_on_some_disk(name: str) -> str:
    """Return a text that is equal for names that a file system may take for one.

    Such names differ in case, or in Unicode's forms.
    """
    return unicodedata.normalize("NFC", name.casefold())


def is_torch(start: bytes) -> bool:
    """Whether a file begins as torch's do, new or old."""
    return start.startswith(b"PK\x03\x04") or LEGACY_TORCH in start[:32]


def what_it_is(start: bytes) -> tuple[str, str] | None:
    """Recognise, by its first bytes, a file that is often taken for a save; say what to do.

    ``FILE`` in the second stands for its path.
    """
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "Run git lfs pull."
    if start.lstrip()[:1] == b"<":
        return "an HTML page", "The download gave a page and not the file; check the address."
    if start.startswith(b"\x93NUMPY") or (start.startswith(b"PK") and b".npy" in start[30:]):
        return "a file of numpy arrays", "Read it with numpy.load('FILE')."
    if is_torch(start):
        return "a torch.save file", (
            "Read it with torch.load('FILE'), weights with model.load_state_dict(torch.load('FILE')), or make it a "
            "save: flambe-save convert FILE OUT."
        )
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 100 << 20:
        return "a safetensors file", (
            "Read it with safetensors.torch.load_file('FILE'), or make it a save: flambe-save convert FILE OUT."
        )
    if start.startswith((b"\x89HDF", b"GGUF")):
        return "a file of another format", "Read it with the library that wrote it."
    return ("empty", "Take the file from a copy of the save.") if not start else None


# Folders of other libraries: a file, or how its name ends, what the folder is, and the call that reads it
_FOLDERS = (
    ("adapter_config.json", "adapters of peft", "peft.AutoPeftModel.from_pretrained('FILE')"),
    ("model_index.json", "a pipeline of diffusers", "diffusers.DiffusionPipeline.from_pretrained('FILE')"),
    ("config_sentence_transformers.json", "a model of sentence-transformers", "SentenceTransformer('FILE')"),
    ("tokenizer_config.json", "a Hugging Face folder", "transformers.AutoModel.from_pretrained('FILE')"),
    ("config.json", "a Hugging Face folder", "transformers.AutoModel.from_pretrained('FILE')"),
    (".safetensors", "a folder of safetensors files", "safetensors.torch.load_file"),
    (".index.json", "a Hugging Face folder", "transformers.AutoModel.from_pretrained('FILE')"),
    (".distcp", "a distributed checkpoint of torch", "torch.distributed.checkpoint"),
)


def what_folder_it_is(names: Sequence[str]) -> tuple[str, str] | None:
    """Recognise, by the names in it, a folder that is often taken for a save; say what to do.

    ``FILE`` in the second stands for its path.
    """
    inner = min((name for name in names if name.endswith(f"/{PROTOCOL_FILE}")), default=None)
    if inner is not None:
        return "a folder with saves in it", f"Load one of them: load('FILE/{inner.removesuffix(PROTOCOL_FILE)[:-1]}')."
    for end, what, call in _FOLDERS:
        if any(name == end or (end.startswith(".") and name.endswith(end)) for name in names):
            return what, f"Read it with {call}; its result can be saved."
    return None

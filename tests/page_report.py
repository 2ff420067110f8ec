"""Reports for the tests of the page: a small GPT, the same after some training, a hostile save and a huge one."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

PACKAGES = {"flambe_save": "0.1.0", "numpy": "2.4.6", "python": "3.11.2", "tinygpt": "1.4.0", "torch": "2.13.0"}

SOURCES = {
    "GPT": '''class GPT(Component, nn.Module):
    """A language model of the size that trains on a laptop."""

    def __init__(self, vocabulary: Vocabulary, width: int = 384, layers: int = 2, heads: int = 6) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embedding = Embedding(len(vocabulary), width, context=256)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = Head(width, len(vocabulary))
        self.head.weight = self.embedding.tokens  # tied

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))
''',
    "Attention": """class Attention(Component, nn.Module):
    def __init__(self, width: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    @property
    def scale(self) -> float:
        return (self.out.in_features // self.heads) ** -0.5
""",
    "Mlp": '''class Mlp(Component, nn.Module):
    """Two layers, four times as wide in between."""

    def __init__(self, width: int, activation: str = "gelu") -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]
''',
}


def tensor(name: str, shape: Sequence[int], *, std: float = 0.02, mean: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """Return a TENSOR whose histogram is that of a few thousand normal numbers."""
    draw = random.Random(ascii(f"{name} {seed}"))
    values = [draw.gauss(mean, std) for _ in range(1500)] if std else [mean]
    low, high = min(values), max(values)
    histogram = [0] * 32
    for value in values:
        histogram[min(31, int((value - low) / (high - low) * 32)) if high > low else 0] += 1
    count = prod(shape)
    return {
        "name": name,
        "dtype": "float32",
        "shape": list(shape),
        "bytes": 4 * count,
        "device": "cpu",
        "statistics": {
            "count": count,
            "minimum": low,
            "maximum": high,
            "mean": sum(values) / len(values),
            "std": std,
            "nan": 0,
            "inf": 0,
            "zero": 0 if std or mean else count,
            "norm": math.sqrt(count) * math.hypot(std, mean),
            "histogram": histogram,
        },
    }


def show(node: str, cls: str, tensors: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the SHOW of a component whose total is filled in later."""
    size = sum(item["bytes"] for item in tensors)
    own = {"tensors": len(tensors), "parameters": size // 4, "bytes": size}
    module = "torch.nn" if cls == "LayerNorm" else "tinygpt"
    return {
        "node": node,
        "class": cls,
        "class_path": f"{module}.{cls}",
        "version": "1.4.0",
        **own,
        "total": dict(own),
        "dtypes": ["float32"] if tensors else [],
        "devices": ["cpu"] if tensors else [],
        "trust": [],
        "problem": None,
        "config": None,
        "source": SOURCES.get(cls),
        "stash": [],
        "values": [],
        "tensor_list": list(tensors),
        **more,
    }


def norm(node: str, width: int, std: float, seed: int) -> dict[str, Any]:
    """Return the SHOW of a LayerNorm."""
    bias = tensor("bias", (width,), std=std / 2, seed=seed)
    return show(node, "LayerNorm", [tensor("weight", (width,), mean=1, std=std, seed=seed), bias])


def save(
    path: str, shows: Sequence[Mapping[str, Any]], ties: Sequence[Sequence[str]] = (), **more: Any
) -> dict[str, Any]:
    """Return the SAVE of some components, parents first, with their totals."""
    details = {item["node"]: dict(item, total=dict(item["total"])) for item in shows}
    for name, item in details.items():
        parts = name.split(".")
        for end in range(len(parts)) if name else ():
            above = details.get(".".join(parts[:end]))
            if above is not None:
                for key in ("tensors", "parameters", "bytes"):
                    above["total"][key] += item[key]
    own = ("config", "source", "stash", "values", "tensor_list")
    total = sum(item["bytes"] for item in details.values())
    return {
        "flambe_save": "0.1.0",
        "schema": 1,
        "verb": "tree",
        "path": path,
        "save": {
            "kind": "folder",
            "writer": "flambe_save 0.1.0",
            "protocol": 1,
            "is_whole": True,
            "digest": None,
            "packages": PACKAGES,
            "bytes": total + 41_216,
        },
        "nodes": [{key: value for key, value in item.items() if key not in own} for item in details.values()],
        "ties": [list(group) for group in ties],
        "damage": [],
        "details": details,
        **more,
    }


def gpt(path: str = "runs/gpt-small", *, seed: int = 0, dropout: float = 0.1, layers: int = 2) -> dict[str, Any]:
    """Return the SAVE of a GPT with two blocks, 8,000 words and a width of 384."""
    width, words = 384, 8000
    drift = 1 + 0.03 * seed
    shows = [
        show(
            "",
            "GPT",
            [],
            config="!tinygpt.GPT\nvocabulary: !tinygpt.Vocabulary\n  words: !stash words\n"
            f"width: {width}\nlayers: {layers}\nheads: 6\n",
            values=[
                {"name": "steps", "type": "int", "value": str(20_000 + 4_000 * seed)},
                {"name": "best_loss", "type": "float", "value": "2.3107"},
            ],
        ),
        show(
            "vocabulary",
            "Vocabulary",
            [],
            config="!tinygpt.Vocabulary\nwords: !stash words\nunknown: <unk>\n",
            stash=[{"name": "words", "type": "tinygpt.Trie"}],
            trust=["stash.pkl: a value of tinygpt.Trie, which trusted=['tinygpt'] allows"],
        ),
        show(
            "embedding",
            "Embedding",
            [tensor("tokens", (words, width), std=0.021 * drift), tensor("positions", (256, width), std=0.012 * drift)],
            config=f"!tinygpt.Embedding\nwords: {words}\nwidth: {width}\ncontext: 256\n",
        ),
    ]
    for layer in range(layers):
        at = f"blocks.{layer}"
        seeds = seed * 100 + layer
        shows += [
            show(at, "Block", [], config=f"!tinygpt.Block\nwidth: {width}\nheads: 6\n"),
            norm(f"{at}.norm1", width, 0.05, seeds),
            show(
                f"{at}.attention",
                "Attention",
                [
                    tensor("project.weight", (3 * width, width), std=0.03 * drift, seed=seeds),
                    tensor("project.bias", (3 * width,), std=0.0),
                    tensor("out.weight", (width, width), std=0.02 * drift, seed=seeds),
                    tensor("out.bias", (width,), std=0.011, seed=seeds),
                ],
                config=f"!tinygpt.Attention\nwidth: {width}\nheads: 6\ndropout: {dropout}  # after the softmax\n",
            ),
            norm(f"{at}.norm2", width, 0.04, seeds),
            show(
                f"{at}.mlp",
                "Mlp",
                [
                    tensor("up.weight", (4 * width, width), std=0.02 * drift, seed=seeds),
                    tensor("up.bias", (4 * width,), std=0.01, seed=seeds),
                    tensor("down.weight", (width, 4 * width), std=0.014 * drift, seed=seeds),
                    tensor("down.bias", (width,), std=0.01, seed=seeds),
                ],
                config=f"!tinygpt.Mlp\nwidth: {width}\nactivation: gelu\n",
            ),
        ]
    shows += [
        show(
            "norm",
            "LayerNorm",
            [tensor("weight", (width,), mean=1, std=0.1, seed=seed), tensor("bias", (width,), std=0.05, seed=seed)],
        ),
        show(
            "head",
            "Head",
            [tensor("weight", (words, width), std=0.021 * drift)],
            config=f"!tinygpt.Head\nwidth: {width}\nwords: {words}\n",
        ),
    ]
    made = save(path, shows, [["embedding.tokens", "head.weight"]])
    for key, tied in (("tensors", 1), ("parameters", words * width), ("bytes", 4 * words * width)):
        made["nodes"][0]["total"][key] -= tied  # the root counts what is tied once
    return made


def change(node: str | None, part: str, name: str | None = None, kind: str = "changed", **more: Any) -> dict[str, Any]:
    """Return a CHANGE."""
    row = {"node": node, "part": part, "name": name, "kind": kind, "before": None, "after": None, "text": None}
    return {**row, "measures": None, **more}


def one() -> dict[str, Any]:
    """Return the REPORT of one save."""
    return {"saves": [gpt()], "difference": None}


def two() -> dict[str, Any]:
    """Return the REPORT of a GPT before and after training, its MLP gone from one block and a pooler added."""
    before, after = gpt("runs/gpt-small"), gpt("runs/gpt-small-tuned", seed=1, dropout=0.2)
    gone = "blocks.1.mlp"
    after["nodes"] = [node for node in after["nodes"] if node["node"] != gone]
    dropped = after["details"].pop(gone)
    pooler = show(
        "pooler",
        "Pooler",
        [tensor("weight", (384, 384)), tensor("bias", (384,), std=0.0)],
        config="!tinygpt.Pooler\nwidth: 384\n",
    )
    after["details"]["pooler"] = pooler
    after["nodes"].append({key: value for key, value in pooler.items() if key in after["nodes"][0]})
    for above, sign, item in (("", -1, dropped), ("blocks.1", -1, dropped), ("", 1, pooler)):
        node = next(node for node in after["nodes"] if node["node"] == above)
        for key in ("tensors", "parameters", "bytes"):
            node["total"][key] += sign * item[key]
    after["save"]["packages"] = {**PACKAGES, "torch": "2.14.1", "tinygpt": "1.5.0"}
    old = SOURCES["Attention"]
    new = old.replace("dropout: float = 0.1", "dropout: float = 0.2").replace(
        "    @property\n", "    def reset(self) -> None:\n        nn.init.zeros_(self.out.bias)\n\n    @property\n"
    )
    diff = "".join(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "source.py", "source.py"))
    changes = []
    draw = random.Random(0)
    for name, item in before["details"].items():
        for row in item["tensor_list"] if name != gone else ():
            if row["name"].endswith("bias") and draw.random() < 0.4:
                continue
            moved = 10 ** draw.uniform(-4.6, -0.4)
            measures = {
                "max_abs": moved * 0.4,
                "mean_abs": moved * 0.02,
                "relative_norm": moved,
                "cosine": 1 - moved * moved / 2,
            }
            text = f"{row['dtype']} {row['shape']}"
            changes.append(change(name, "tensor", row["name"], before=text, after=text, measures=measures))
    for layer in (0, 1):
        at = f"blocks.{layer}.attention"
        after["details"][at].update(source=new, version="1.5.0")
        next(node for node in after["nodes"] if node["node"] == at)["version"] = "1.5.0"
        changes += [
            change(at, "config", "dropout", before="0.1", after="0.2"),
            change(at, "version", before="1.4.0", after="1.5.0"),
            change(at, "source", text=diff),
        ]
    changes += [
        change(gone, "node", kind="removed", before="Mlp"),
        change("pooler", "node", kind="added", after="Pooler"),
        change("", "value", "steps", before="20000", after="24000"),
        change(None, "package", "torch", before="2.13.0", after="2.14.1"),
        change(None, "package", "tinygpt", before="1.4.0", after="1.5.0"),
    ]
    difference = {
        "flambe_save": "0.1.0",
        "schema": 1,
        "verb": "diff",
        "a": before["path"],
        "b": after["path"],
        "changes": changes,
    }
    return {"saves": [before, after], "difference": difference}


ATTACKS = [
    "</script><script>window.__hacked = 1; alert(1)</script>",
    '"><img src=x onerror="window.__hacked = 1">',
    "'\" onmouseover='window.__hacked=1' x='",
    "<!--<script>",
    "</title></style><svg onload=window.__hacked=1>",
    "javascript:window.__hacked=1",
    "line\u2028separator\u2029paragraph",
    "\u202egnp.exe\u202c\u2066x\u2069",
    "nul\x00 bell\x07 escape\x1b[31m delete\x7f c1\x9b newline\nreturn\r",
    "\ud800lone surrogate",
    "{{ 7 * 7 }}{% for x in y %}",
    "__proto__",
    "constructor",
    "&lt;b&gt;&amp;",
    "x" * 3000,
]


def hostile() -> dict[str, Any]:
    """Return the REPORT of two saves whose every text is an attack."""

    def made(at: int) -> dict[str, Any]:
        shows = []
        for place, attack in enumerate(["", *ATTACKS]):
            text = attack or ATTACKS[0]
            rows = [{**tensor(other, (2, 3)), "dtype": other, "device": other} for other in ATTACKS]
            shows.append(
                show(
                    attack,
                    text,
                    rows if place < 3 else [],
                    class_path=text,
                    version=text,
                    dtypes=[text],
                    devices=[text],
                    trust=[text],
                    problem=text,
                    config=f"!{text} {{a: {text}}}",
                    source=f"class X:\n    '{text}'",
                    stash=[{"name": text, "type": text}],
                    values=[{"name": text, "type": text, "value": text}],
                )
            )
        wrong = save(ATTACKS[at], shows, [ATTACKS[:2], [f"{ATTACKS[0]}.{ATTACKS[1]}", ATTACKS[2]]])
        wrong["save"].update(kind=ATTACKS[0], writer=ATTACKS[1], digest=ATTACKS[2], is_whole=False)
        wrong["save"]["packages"] = {text: text for text in ATTACKS}
        wrong["damage"] = [{"node": text, "file": text, "problem": text} for text in ["", *ATTACKS]]
        return wrong

    parts = ("tensor", "node", "class", "config", "source", "value", "stash", "package", ATTACKS[0])
    changes = [
        change(text, part, text, before=text, after=text, text=f"--- {text}\n+++ {text}\n-{text}\n+{text}\n")
        for text in ["", *ATTACKS]
        for part in parts
    ]
    return {"saves": [made(0), made(1)], "difference": {"a": ATTACKS[0], "b": ATTACKS[1], "changes": changes}}


def huge(nodes: int = 10_000, tensors: int = 10) -> dict[str, Any]:
    """Return the REPORT of 10,000 components with 100,000 tensors, some of them in one place and some 300 deep."""
    rows = [tensor(f"weight_{place}", (16, place + 1), seed=place) for place in range(tensors)]
    names = ["", "wide", "deep"]
    names += [f"wide.{place}" for place in range(nodes // 2)]
    names += ["deep" + ".next" * depth for depth in range(1, 301)]
    while len(names) < nodes:
        names.append(
            f"layer{len(names) // 10}" if len(names) % 10 == 0 else f"layer{len(names) // 10}.part{len(names) % 10}"
        )
    kinds = ["Linear", "Norm", "Attention", "Gate", "Router", "Expert", "Embedding", "Head", "Cache"]
    shows = []
    for place, name in enumerate(dict.fromkeys(names)):
        kind = kinds[place % len(kinds)]
        own = rows if place >= 3 else []
        shows.append(
            show(
                name,
                kind,
                own,
                config=f"!big.{kind}\nwidth: {place % 50}\n",
                source=f"class {kind}(nn.Module):\n    pass\n",
            )
        )
    return {"saves": [save("runs/huge", shows)], "difference": None}

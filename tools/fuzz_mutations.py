"""What `tools.fuzz_loading` does to a model folder: every function damages it in one way, decided by a random generator."""

import json
import math
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Damage:
    """What was done."""

    what: str
    """In words."""
    touched: frozenset[str] = frozenset()
    """Names in the file of tensors that may have other values now."""
    anything: bool = False
    """The values of any tensor may differ."""


NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 24, 1000, 10**6, 10**9, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.0, 0.5, 1.5, 1e-300, 1e300, -1e300,
    "", "a", "0", "nan", "inf", "-inf", "1e9", "os:system", "os.system", "evil", "evil:Thing", "modalities.vision.models.mae:MAE", "builtins:eval", "vision/mae",
    "vision/mae-vit", "vision/mae-huge", "..", "../../etc/passwd", "/etc/passwd", "C:\\x", "\x00", "a\x00b", "\u202e", "x" * 5000, "{{ 7*7 }}", "<script>alert(1)</script>",
    "image", "bicubic", "token", "avg", "probe", "gelu", "vit_mae", "vit_base_patch16_224", "hf-hub:a/b",
    [], {}, [1], [0, 0], [16, 16], [-1, 4], [4, 4, 4], [[4, 4]], [1.5, 2], ["4", "4"], [10**9, 10**9], [True, False], {"a": 1}, {"0": [{}]}, [None], list(range(1000)),
]  # fmt: skip
"""Values that replace one in a config."""
RAW = ["NaN", "Infinity", "-Infinity", "1e999", "[" * 200_000, '{"a":' * 100_000, "9" * 5000, "-", "tru", '"\\ud800"', "\x00", "'a'", "//", "1_000", "0x10", "[1,]"]
"""The same as text that JSON does not have, or that is hard to read."""
PRETENDERS = {
    "git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n",
    "HTML page": b"<!DOCTYPE html><html><body>Log in</body></html>",
    "pickle": b"\x80\x02cposix\nsystem\nX\x05\x00\x00\x00falseq\x00\x85R.",
    "zip": b"PK\x03\x04" + bytes(60),
    "nothing": b"",
    "three bytes": b"\x00\x01\x02",
    "zeros": bytes(4096),
    "text": b"hello there, this is no file of weights\n" * 9,
    "JSON": b'{"a": 1}',
}
"""Other things under the name of a file."""
PATHS = [
    "../model.safetensors", "../../secret.safetensors", "/etc/passwd", "/etc/passwd.safetensors", "sub/model.safetensors", "..\\model.safetensors", "C:model.safetensors", "",
    ".safetensors", "..safetensors", "model.safetensors\x00", "\x00.safetensors", "x" * 300 + ".safetensors", "x" * 5000 + ".safetensors", "model.bin", "evil.py", "config.json",
    "model.safetensors.index.json", "file:///etc/passwd", "http://127.0.0.1/x.safetensors", "nothing.safetensors", "~/x.safetensors", "-rf.safetensors", "$(touch x).safetensors", "CON.safetensors",
]  # fmt: skip
"""File names that an index has no business naming."""


def damage(rng: random.Random, folder: Path) -> tuple[str, Damage]:
    """Damage one file of the folder in one way (sometimes in two); returns the kind of damage and what it was."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    weights = [n for n in names if n.endswith(".safetensors")]
    configs = [n for n in names if n.endswith(".json") and "index" not in n]
    choices: list[tuple[str, Callable[[random.Random, Path], Damage], list[str], int]] = [
        ("weights: bytes", bytes_of_weights, weights, 3),
        ("weights: header", header_of_weights, weights, 5),
        ("weights: values", values_of_weights, weights, 2),
        ("config: field", field_of_config, configs, 6),
        ("config: text", text_of_file, configs, 2),
        ("index: names", names_in_index, [n for n in names if "index" in n], 5),
        ("index: text", text_of_file, [n for n in names if "index" in n], 2),
        ("card", text_of_card, [n for n in names if n == "README.md"], 2),
        ("another file", another_file, names, 2),
    ]
    choices = [choice for choice in choices if choice[2]]
    kind, function, files, _ = rng.choices(choices, [choice[3] for choice in choices])[0]
    return kind, function(rng, folder / rng.choice(files))


# --- weights ---


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(path: Path, header: dict[str, Any] | str, data: bytes) -> None:
    """Write a safetensors file from its parts, whatever they are."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def bytes_of_weights(rng: random.Random, path: Path) -> Damage:
    """Cut, lengthen, flip a bit of the header, or lie about its length."""
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    how = rng.choice(["cut", "cut in the header", "lengthen", "flip", "length", "insert"])
    if how.startswith("cut"):
        at = rng.randrange(8 + length if how != "cut" else len(content))
        content = content[:at]
    elif how == "lengthen":
        at = rng.choice([1, 8, 4096])
        content += bytes(at)
    elif how == "flip":
        at = rng.randrange(8 + length)
        content[at] ^= 1 << rng.randrange(8)
    elif how == "insert":
        at = rng.randrange(8, 8 + length)
        content[at:at] = rng.randbytes(rng.choice([1, 7, 100]))
    else:
        at = rng.choice([0, 1, 2, length - 1, length + 1, length + 8, len(content), 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 100_000_001, 16 * 2**20])
        content[:8] = struct.pack("<Q", at)
    path.write_bytes(content)
    return Damage(f"{path.name}: {how} at {at}")


def header_of_weights(rng: random.Random, path: Path) -> Damage:
    """Change one thing that the header says of one tensor, or of all."""
    header, data = split(path)
    names = [n for n in header if n != "__metadata__"]
    name, other = rng.choice(names), rng.choice(names)
    entry = header[name]
    how = rng.choice(["dtype", "shape", "side", "offsets", "offset", "swap", "rename", "drop", "add", "twice", "entry", "metadata", "reshape", "raw", "order", "field"])
    touched: set[str] = set()
    if how == "dtype":
        entry["dtype"] = rng.choice(["F64", "F32", "F16", "BF16", "I32", "U32", "I8", "BOOL", "F8_E4M3", "F4", "C64", "f32", "", None, 5, [], {}])
    elif how == "shape":
        entry["shape"] = rng.choice(NASTY)
    elif how == "side" and entry["shape"]:
        entry["shape"][rng.randrange(len(entry["shape"]))] = rng.choice(NASTY)
    elif how == "reshape":
        entry["shape"] = rng.choice([entry["shape"][::-1], [math.prod(entry["shape"])], [1, *entry["shape"]], [*entry["shape"], 1], [0, *entry["shape"]]])
    elif how == "offsets":
        entry["data_offsets"] = rng.choice(NASTY)
    elif how == "offset":
        entry["data_offsets"][rng.randrange(2)] = rng.choice([*NASTY, entry["data_offsets"][0] + 4, entry["data_offsets"][1] - 4])
    elif how == "swap":  # a well-formed file when both have one size
        entry["data_offsets"], header[other]["data_offsets"] = header[other]["data_offsets"], entry["data_offsets"]
        touched = {name, other}
    elif how == "rename":
        header = {(rng.choice([n + "x", n.upper(), "", "a" * 5000, "../x", "\x00", n + "\u200b"]) if n == name else n): v for n, v in header.items()}
    elif how == "drop":
        header.pop(name)
    elif how == "add":
        header[rng.choice(["extra", "__meta__", "blocks.0.attn.qkv", "\ud800"])] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
    elif how == "entry":
        header[name] = rng.choice(NASTY)
    elif how == "metadata":
        header["__metadata__"] = rng.choice([*NASTY, {"a": 5}, {"a": None}, {"config": "{"}, {"config": "[]", "preprocess": "null"}])
    elif how == "order":
        header = dict(rng.sample(sorted(header.items()), len(header)))
    elif how == "field":
        entry[rng.choice(["shape", "dtype", "data_offsets", "extra"])] = rng.choice(NASTY)
    text = json.dumps(header)
    if how == "twice":
        copied = header[rng.choice([name, other])]
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(copied)}" + "}"
    elif how == "raw":
        text = text.replace(json.dumps(entry["shape"]), rng.choice(RAW), 1)
    join(path, text, data)
    return Damage(f"{path.name}: {how} of {name!r}", frozenset(touched))


def values_of_weights(rng: random.Random, path: Path) -> Damage:
    """Flip a bit of a value, or put NaN or infinity in its place."""
    header, data = split(path)
    name = rng.choice([n for n, e in header.items() if n != "__metadata__" and e["shape"] and math.prod(e["shape"])])
    begin, end = header[name]["data_offsets"]
    size = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}[header[name]["dtype"]]
    changed, at = bytearray(data), begin + rng.randrange((end - begin) // size) * size
    how = rng.choice(["flip", "ones", "random"])
    if how == "flip":
        changed[at + rng.randrange(size)] ^= 1 << rng.randrange(8)
    else:
        changed[at : at + size] = b"\xff" * size if how == "ones" else rng.randbytes(size)
    join(path, header, bytes(changed))
    return Damage(f"{path.name}: {how} in {name!r}", frozenset({name}))


# --- JSON ---


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a JSON tree, as keys from its root."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def field_of_config(rng: random.Random, path: Path) -> Damage:
    """Change, remove, add or repeat a field of a JSON file."""
    tree = {"root": json.loads(path.read_text(encoding="utf-8"))}
    *parents, key = rng.choice([place for place in places(tree) if place])
    node = tree
    for parent in parents:
        node = node[parent]
    how = rng.choices(["value", "raw", "remove", "add", "twice", "near", "large"], [10, 3, 2, 2, 1, 3, 1])[0]
    marker = "@@@"
    if how == "value":
        node[key] = rng.choice(NASTY)
    elif how == "near" and isinstance(node[key], (int, float)) and not isinstance(node[key], bool):
        node[key] = rng.choice([node[key] + 1, node[key] - 1, node[key] * 2, -node[key], node[key] / 2, float(node[key]), str(node[key]), [node[key]]])
    elif how == "remove" and isinstance(node, dict) and parents:
        node.pop(key)
    elif how == "add" and isinstance(node, dict) and parents:
        node[rng.choice(["extra", "", "config", "model", "type", "auto_map", "_target_", "__class__", "x" * 100_000, "\x00"])] = rng.choice(NASTY)
    elif how == "large":
        node[key] = rng.choice([[0] * 300_000, {str(i): i for i in range(100_000)}, "x" * 3_000_000, "x" * 17_000_000])
    else:
        node[key] = marker
    text = json.dumps(tree["root"]).replace(json.dumps(marker), rng.choice(RAW) if how == "raw" else json.dumps(rng.choice(NASTY)))
    if how == "twice" and text.startswith("{") and len(text) > 2:
        text = text[:-1] + ", " + text[1 : text.index(":")] + ": " + json.dumps(rng.choice(NASTY)) + "}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return Damage(f"{path.name}: {how} at {'.'.join(map(str, [*parents[1:], key]))}")


def text_of_file(rng: random.Random, path: Path) -> Damage:
    """Damage a text file without a look at what it means."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    how = rng.choice(["cut", "flip", "insert", "BOM", "UTF-16", "garbage behind", "nested", "delete", "spaces", "swap case"])
    if how == "cut":
        content = content[:at]
    elif how == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif how == "insert":
        content[at:at] = rng.choice([b"\x00", b"\xff", b'"', b"{", b"[", b"}", b",", b"NaN", b"1e999", rng.randbytes(5)])
    elif how == "BOM":
        content = b"\xef\xbb\xbf" + content
    elif how == "UTF-16":
        content = content.decode().encode("utf-16")
    elif how == "garbage behind":
        content += rng.choice([b"x", b"{}", b"\x00", b"\n\n\n"])
    elif how == "nested":
        content = b"[" * 100_000 + content + b"]" * 100_000
    elif how == "delete":
        del content[at : at + rng.randrange(1, 20)]
    elif how == "spaces":
        content += b" " * rng.choice([10, 20_000_000])
    else:
        content = content.swapcase()
    path.write_bytes(content)
    return Damage(f"{path.name}: {how} at {at}")


def names_in_index(rng: random.Random, path: Path) -> Damage:
    """Let the index of the shards name other files, or other tensors."""
    index = json.loads(path.read_text(encoding="utf-8"))
    places = index["weight_map"]
    name = rng.choice(sorted(places))
    how = rng.choice(["path", "all paths", "swap", "drop", "add", "value", "map"])
    if how == "path":
        places[name] = rng.choice(PATHS)
    elif how == "all paths":
        other = rng.choice(PATHS)
        places.update({n: other for n, file in places.items() if file == places[name]})
    elif how == "swap":
        places[name] = rng.choice(sorted(places.values()))
    elif how == "drop":
        places.pop(name)
    elif how == "add":
        places[rng.choice(["extra", "", "\x00", "norm.bias"])] = rng.choice(sorted(places.values()))
    elif how == "value":
        places[name] = rng.choice(NASTY)
    else:
        index["weight_map"] = rng.choice([*NASTY, list(places.items()), {"weight_map": places}])
    path.write_text(json.dumps(index), encoding="utf-8")
    return Damage(f"{path.name}: {how} of {name!r}")


# --- the rest ---


def text_of_card(rng: random.Random, path: Path) -> Damage:
    """Change the head of the card, or its text."""
    if rng.random() < 0.4:
        return text_of_file(rng, path)
    head = rng.choice(
        [
            "license: [", "license: {a: b}", "license: !!python/object/apply:os.system ['false']", "license: 5", "license: null", "- a\n- b", "license: 2001-99-99", "a: &a [*a]",
            "license: " + "x" * 5000, "license: 'a\\nb'", "? [a]\n: b", "license: mit\nlicense: gpl", "&a [" * 3000, "a: " + "[" * 5000, "\t", "license: .nan", "model-index: 5",
            "model-index:\n- name: a\n  results: b", "tags: {a: b}", "license: \"<img src=x onerror=alert(1)>\"", "x: " + "9" * 5000, "<<: *a", "%YAML 9.9", "license: ! x",
            "base: &b [x, x, x, x, x, x, x, x]\n" + "\n".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*b'] * 8)}]" for i in range(9)),
        ]
    )  # fmt: skip
    path.write_text(f"---\n{head}\n---\n\n# A model <script>alert(1)</script>\n", encoding="utf-8")
    return Damage(f"{path.name}: head {head[:60]!r}")


def another_file(rng: random.Random, path: Path) -> Damage:
    """Put something else under the name of a file, or remove it."""
    how = rng.choice([*PRETENDERS, "removed", "a folder", "a pipe", "link to nothing", "link to itself", "link to a device", "another file of the folder", "more files"])
    if how == "more files":
        for name in ("evil.py", "modeling_evil.py", "pytorch_model.bin", "model.safetensors.index.json~"):
            (path.parent / name).write_bytes(rng.choice(list(PRETENDERS.values())) if name != "evil.py" else (path.parent / name).read_bytes())
        return Damage("more files beside")
    content = rng.choice(sorted(p for p in path.parent.iterdir() if p.is_file())).read_bytes()
    path.unlink()
    if how in PRETENDERS:
        path.write_bytes(PRETENDERS[how])
    elif how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how.startswith("link"):
        path.symlink_to({"link to nothing": "nowhere", "link to itself": path.name, "link to a device": "/dev/zero"}[how])
    elif how == "another file of the folder":
        path.write_bytes(content)
    return Damage(f"{path.name}: {how}", anything=path.suffix == ".safetensors" and how == "another file of the folder")

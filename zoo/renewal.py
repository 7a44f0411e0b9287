"""Writing a card anew without touching what a person wrote in it.

A card is a head (YAML between two lines `---`) and a text with blocks between marks, each alone on its line:

    <!-- generated: data -->
    ...
    <!-- end: data -->

Blocks and the keys of GENERATED are the zoo's and are written anew; everything else is a person's and stays as it is, to the letter.
`model_cards/TEMPLATE.md` says the same to those who write.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml

from trainer.errors import CheckpointError, did_you_mean, shorten

HEAD = re.compile(r"\s*---\n((?:.*?\n)??)---[ \t]*(?:\n|\Z)", re.S)
"""The head at the start of a card, as the Hub finds it."""
MARK = re.compile(r"<!-- (generated|end): ([a-z]+) -->")
"""A mark, alone on its line."""
BROKEN = re.compile(r"<!--\s*(generated?|end)\b", re.I)
"""What was a mark before somebody touched it."""
GENERATED = ("license", "license_name", "library_name", "pipeline_tag", "model-index", "modality_zoo")
"""Keys of the head that are written anew, unless KEEP names them. Any other key is written once, where there is none, and a person's from then on."""
JOINED = "tags"
"""The key whose generated values come first, and whose other values stay."""
KEEP = "zoo_keep"
"""A person's list of generated keys that shall stay as they stand."""
TOP_KEY = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*:(?=\s|$)")
LINES = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass
class Parsed:
    """A card taken apart; `own` texts and `blocks` alternate as they stand in the file."""

    head: dict[str, str]
    """Key -> its lines in the YAML head, to the letter. What comes before the first key has the key ""."""
    parts: list[tuple[str | None, str]]
    """(name of the block or None for a person's text, lines), in order."""

    @property
    def blocks(self) -> dict[str, str]:
        """The generated blocks by name."""
        return {name: text for name, text in self.parts if name is not None}

    def values(self) -> dict[str, object]:
        """The head as YAML has it."""
        return yaml.safe_load("".join(self.head.values())) or {}

    def text(self) -> str:
        """The card again."""
        body = "".join(f"<!-- generated: {name} -->\n{text}<!-- end: {name} -->\n" if name else text for name, text in self.parts)
        return "---\n" + "".join(self.head.values()) + "---\n" + body


def parse(text: str, where: str) -> Parsed:
    """Take a card apart. CheckpointError, with the line, when its marks or its head are damaged."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found = HEAD.match(text)
    head, body = (found[1], text[found.end() :]) if found else ("", text)
    first = text[: found.end()].count("\n") + 1 if found else 1
    return Parsed(_keys(head, where), _parts(body, first, where))


def renew(
    fresh: str, existing: str, where: str, names: Sequence[str], complete: bool = True, alike: Callable[[str], str] = str.strip
) -> tuple[str, list[str]]:
    """The `existing` card with the blocks and keys of the `fresh` one, and sentences that say what changed.

    A block that was moved stays where it is now; one that was taken out comes back. A block or generated key that `fresh` does not have
    goes, or stays as it was when `fresh` is not `complete`. Lines that `alike` makes equal are not told of. Raises CheckpointError when
    the marks of `existing` are damaged, when it has none, or when it has other blocks than `names`.
    """
    new, old = parse(fresh, "the new card"), parse(existing, where)
    _require_known(old, names, where)
    if not old.blocks:
        if any(text.strip() for _, text in old.parts):
            raise CheckpointError(
                f"{where} has no generated blocks, so nothing in it can be renewed and all of it is yours. Move it away and run this again; "
                "then put your text into the new card, outside of the marks."
            )
        old.parts = list(new.parts)
    values = old.values()
    said = [f"the key {key} was {_short(str(values[key]))}" for key in _head(new, old, where, complete)]
    parts: list[tuple[str | None, str]] = []
    for name, text in old.parts:
        if name in new.blocks:
            gone = _gone(text, new.blocks[name], alike)
            said += [f"the block {name!r} was written anew, {len(gone)} line(s) of it are gone: {_short(gone[0])}"] if gone else []
            parts.append((name, new.blocks[name]))
        elif name is None or not complete:
            parts.append((name, text))
        else:
            said.append(f"the block {name!r} was taken out: nothing of it is known of this model")
    missing = [name for name in new.blocks if name not in old.blocks]
    for name in missing:
        _insert(parts, name, new)
    old.parts = parts
    return old.text(), said + [f"the block {name!r} is new" for name in missing]


def _gone(before: str, after: str, alike: Callable[[str], str]) -> list[str]:
    """Lines of a block that it no longer has."""
    now = {alike(line) for line in after.splitlines()} | {""}
    return [line for line in before.splitlines() if alike(line) not in now]


def _insert(parts: list[tuple[str | None, str]], name: str, new: Parsed) -> None:
    """Put a block of the `new` card behind the one that it follows there."""
    order = list(new.blocks)
    before = [place for place, (other, _) in enumerate(parts) if other in order[: order.index(name)]]
    place = before[-1] + 1 if before else 0
    parts[place:place] = [(None, "\n"), (name, new.blocks[name])] if before else [(name, new.blocks[name]), (None, "\n")]


def own_words(text: str, fresh: str, where: str) -> tuple[str, ...]:
    """What a person wrote into a card, or did to it, beside what `fresh` holds: lines, keys, tags, another order of the blocks."""
    old, new = parse(text, where), parse(fresh, "the new card")
    given = {line for name, lines in new.parts if name is None for line in lines.splitlines()} | {""}
    lines = [line.rstrip() for name, lines in old.parts if name is None for line in lines.splitlines() if line.rstrip() not in given]
    keys = [lines for key, lines in old.head.items() if key not in (*GENERATED, JOINED) and new.head.get(key) != lines and lines.strip()]
    tags = old.values().get(JOINED)
    tags = [f"tag {tag}" for tag in tags if tag not in new.values().get(JOINED, [])] if isinstance(tags, list) else []
    order = [name for name in old.blocks if name in new.blocks]
    moved = order != [name for name in new.blocks if name in order]
    return (*lines, *keys, *tags, *(order if moved else []))


def _head(new: Parsed, old: Parsed, where: str, complete: bool) -> list[str]:
    """Put the generated keys of `new` into the head of `old`; returns the keys whose old value went."""
    before, after = old.values(), new.values()
    kept = before.get(KEEP, [])
    unknown = [key for key in kept if key not in GENERATED] if isinstance(kept, list) else [kept]
    if unknown:
        raise CheckpointError(f"{where}: {KEEP} lists generated keys that stay as you wrote them, found {shorten(unknown[0])}. It may name: {', '.join(GENERATED)}.")
    changed = []
    for key in GENERATED:
        if before.get(key) == after.get(key) or (key in kept and key in before) or (key not in after and not complete):
            continue
        changed += [key] if key in before else []
        comments = [line for line in LINES.findall(old.head.get(key, "")) if line.startswith("#")]
        old.head[key] = "".join([new.head.get(key, ""), *comments])
    for key in sorted(after.keys() - {*GENERATED, JOINED} - before.keys()):
        old.head[key] = new.head[key]
    tags = before.get(JOINED) or []
    if not isinstance(tags, list):
        raise CheckpointError(f"{where}: {JOINED} must be a list, found {shorten(tags)}.")
    joined = [*after.get(JOINED, []), *(tag for tag in tags if tag not in after.get(JOINED, []))]
    if joined != tags:
        old.head[JOINED] = yaml.safe_dump({JOINED: joined}, sort_keys=False, allow_unicode=True)
    return changed


def _keys(head: str, where: str) -> dict[str, str]:
    """The lines of each key of a YAML head."""
    found: dict[str, str] = {"": ""}
    key = ""
    for line in LINES.findall(head):
        start = TOP_KEY.match(line)
        if start:
            key = start[1]
            if key in found:
                raise CheckpointError(f"{where} says {key} twice in its head. Leave one of them.")
        found[key] = found.get(key, "") + (line if line.endswith("\n") else line + "\n")
    try:
        values = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise CheckpointError(f"The head of {where} is not valid YAML: {shorten(str(error), 300)}") from error
    if values is not None and (not isinstance(values, dict) or values.keys() != found.keys() - {""}):
        raise CheckpointError(f"The head of {where} must be a YAML mapping with one key per line, at the start of the line.")
    return found


def _parts(body: str, first: int, where: str) -> list[tuple[str | None, str]]:
    """The blocks and the texts between them; `first` is the line on which the body begins."""
    parts: list[tuple[str | None, str]] = []
    name, began, lines = None, 0, []
    for number, line in enumerate(LINES.findall(body), first):
        mark = MARK.fullmatch(line.rstrip())
        if mark is None or (name is not None and mark[2] != name and mark[1] == "end"):
            if mark or (name is None and BROKEN.search(line)):
                raise CheckpointError(f"{where}, line {number}: a damaged mark, {_short(line)}. {_MENDING}")
            lines.append(line)
            continue
        if (mark[1] == "generated") is (name is not None):
            what = f"the block {name!r} of line {began} has no end before it" if name else "no such block has begun"
            raise CheckpointError(f"{where}, line {number}: {_short(line)} stands where it cannot: {what}. {_MENDING}")
        text = "".join(lines)
        if name is not None or text:
            parts.append((name, text))
        if mark[1] == "generated" and any(mark[2] == other for other, _ in parts):
            raise CheckpointError(f"{where}, line {number}: the block {mark[2]!r} is there twice. Take one of them out, with its marks.")
        name, began, lines = (mark[2], number, []) if mark[1] == "generated" else (None, 0, [])
    if name is not None:
        raise CheckpointError(f"{where}, line {began}: the block {name!r} has no end. {_MENDING}")
    text = "".join(lines)
    return [*parts, (None, text if text.endswith("\n") else text + "\n")] if text else parts


_MENDING = (
    "A generated block begins with a line `<!-- generated: NAME -->` and ends with a line `<!-- end: NAME -->`. "
    "Put the mark back, or take out both marks of the block to keep its text as your own. Nothing was written."
)


def _require_known(card: Parsed, names: Sequence[str], where: str) -> None:
    for name in card.blocks:
        if name not in names:
            raise CheckpointError(
                f"{where} has a generated block {name!r}, which this version does not write.{did_you_mean(name, names)} Blocks: {', '.join(names)}. "
                "Correct its marks, or take out both to keep its text as your own. Nothing was written."
            )


def _short(text: str) -> str:
    return shorten(" ".join(text.split()), 100)

"""Foreign words in Markdown: names, paths and values that say what they are and do nothing."""

import re
from collections.abc import Sequence

LONGEST = 2000
"""Characters of one value in a card."""
MARK = re.compile(r"^(?=<!-- (?:generated|end): )", re.M)
"""Where a line of text would be read as a mark of a generated block."""
SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that mean something inside a line of Markdown. An underscore inside a word does not."""


def plain(value: object) -> str:
    """One line of visible text: control characters and line breaks become spaces, and it ends after LONGEST characters."""
    text = str(value)
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def inline(value: object) -> str:
    """A value as ordinary text in a line or a table cell: no HTML, no emphasis, no link, no picture."""
    text = plain(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\g<0>", text)


def code(value: object, cell: bool = False) -> str:
    """A value as code inside a line; `cell`: inside a table, where a stroke would end the cell."""
    text = plain(value) or " "
    fence = "`" * (_longest_run(text) + 1)
    edge = " " if text[0] in " `" or text[-1] in " `" else ""
    span = f"{fence}{edge}{text}{edge}{fence}"
    return span.replace("|", "\\|") if cell else span


def fenced(value: object, language: str = "") -> str:
    """Text of several lines as a block of code. A line that looks like the mark of a generated block is moved in by a space."""
    text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in str(value)).strip("\n")
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{MARK.sub(' ', text)}\n{fence}"


def some(values: Sequence[object], limit: int = 12) -> str:
    """How many values there are, and the first of them, as ordinary text."""
    shown = [text if len(text) <= 60 else text[:57] + "..." for text in map(plain, values[:limit])]
    return f"{len(values)}: {', '.join(map(inline, shown))}" + (", ..." if len(values) > limit else "")


def _longest_run(text: str) -> int:
    """Length of the longest row of backticks."""
    return max((len(run) for run in re.findall("`+", text)), default=0)

"""Measure the English of documents, docstrings, comments and messages, as the gate does.

    python scripts/prose.py [--count] [--worst N] [--json]

A reader who has never seen the project must follow a sentence at once. Two counts stand for that, each per
1,000 words: sentences that begin with who or whoever, which name nobody, and sentences of more than 35 words.
Some phrases are refused wherever they stand. Without arguments, the exit code is 1 if a bound is passed, and
the sentences that pass it are printed with their places; `--count` prints the counts alone.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).resolve().parent.parent
CODE: Final = ("node", "gossip", "crypto", "methods", "scripts", "src")
LONG: Final = 35
"""Words of a sentence; a longer one is counted."""
MAX_LONG: Final = 5.0
"""Long sentences per 1,000 words."""
MAX_WHO: Final = 0.3
"""Sentences per 1,000 words that begin with who or whoever."""
FEWEST_WORDS: Final = 4
"""Of a string in the code that is taken for a message."""
REFUSED: Final = (
    "how-manieth", "to whomever", "by whom else", "of late,", "anew some time",
)  # fmt: skip
"""Phrases that no engineer would write."""
_SENTENCE: Final = re.compile(r"(?<=[.!?])[\"')*]*\s+(?=[\"'(*`]*[A-Z0-9`])")
_DRAWN: Final = re.compile(r"\s{8,}|\s{4,}\S.*--")
"""A line of a drawing, a table or an example."""
_ITEM: Final = re.compile(r"\n\s*(?:[-*]|\d+\.)\s+")
_WORD: Final = re.compile(r"[A-Za-z][\w'-]*")
_MARKUP: Final = re.compile(r"`[^`]*`|<[^>]*>|https?://\S+")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and where it stands."""

    place: str
    text: str

    @property
    def n_words(self) -> int:
        """How many words it has; names in backquotes count as one each."""
        return len(_WORD.findall(_MARKUP.sub("name", self.text)))

    @property
    def names_nobody(self) -> bool:
        """Whether it begins with who or whoever, and is no question."""
        first = _WORD.search(self.text)
        is_question = self.text.rstrip("\"'*) ").endswith("?")
        return first is not None and first.group().lower() in {"who", "whoever"} and not is_question


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="prose.py", description="Measure the English of the project.")
    parser.add_argument("--count", action="store_true", help="print the counts alone")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="print the N longest sentences too")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    given = parser.parse_args(arguments)
    sentences = [*documents(ROOT), *code(ROOT)]
    found = judge(sentences)
    if given.json:
        print(json.dumps(found.counts()))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.counts().items()))
    for sentence in sorted(found.long, key=lambda each: -each.n_words)[: given.worst]:
        print(f"{sentence.place}: {sentence.n_words} words: {sentence.text}")
    if given.count or found.holds:
        return 0
    for sentence in (*found.refused, *found.who, *found.long):
        print(f"{sentence.place}: {sentence.text[:160]}", file=sys.stderr)
    return 1


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found in all sentences."""

    n_words: int
    long: list[Sentence]
    who: list[Sentence]
    refused: list[Sentence]

    @property
    def holds(self) -> bool:
        """Whether all bounds hold."""
        counts = self.counts()
        return counts["who"] <= MAX_WHO and counts["long"] <= MAX_LONG and not self.refused

    def counts(self) -> dict[str, float]:
        """Return the words, and per 1,000 of them the two counts; the refused phrases as they are."""
        thousands = max(self.n_words, 1) / 1000
        return {
            "words": self.n_words,
            "who": round(len(self.who) / thousands, 2),
            "long": round(len(self.long) / thousands, 2),
            "refused": len(self.refused),
        }


def judge(sentences: list[Sentence]) -> Judgement:
    """Count what the bounds are about."""
    return Judgement(
        sum(sentence.n_words for sentence in sentences),
        [sentence for sentence in sentences if sentence.n_words > LONG],
        [sentence for sentence in sentences if sentence.names_nobody],
        [s for s in sentences if any(phrase in s.text.lower() for phrase in REFUSED)],
    )


def split(place: str, text: str) -> Iterator[Sentence]:
    """Cut a paragraph into sentences; the items of a list are sentences of their own."""
    for item in _ITEM.split(text):
        for part in _SENTENCE.split(" ".join(item.split())):
            if _WORD.search(part):
                yield Sentence(place, part)


# --- where prose is ---------------------------------------------------------------------------------


def documents(root: Path) -> Iterator[Sentence]:
    """Return the sentences of all Markdown files: paragraphs, items and cells, without code."""
    parser = MarkdownIt("commonmark").enable("table")
    folders = (root, root / "docs", root / "changelog.d")
    files = [*folders[0].glob("*.md"), *folders[1].rglob("*.md"), *folders[2].glob("*.md")]
    for path in sorted(files):
        for token in parser.parse(path.read_text()):
            if token.type == "inline":
                line = token.map[0] + 1 if token.map else 0
                yield from split(f"{path.relative_to(root)}:{line}", token.content)


def code(root: Path) -> Iterator[Sentence]:
    """Return the sentences of docstrings, comments and messages."""
    for folder in CODE:
        for path in sorted((root / folder).rglob("*.py")):
            if path.name == Path(__file__).name:
                continue
            if any(part.is_symlink() for part in path.parents):
                continue
            text, place = path.read_text(), str(path.relative_to(root))
            for line, paragraph in (*_strings(text), *_comments(text)):
                yield from split(f"{place}:{line}", paragraph)


def _strings(text: str) -> Iterator[tuple[int, str]]:
    """Docstrings by paragraph, and strings with several words; what is indented in them is no prose."""
    tree = ast.parse(text)
    inner = {id(part) for f in ast.walk(tree) if isinstance(f, ast.JoinedStr) for part in f.values}
    for item in ast.walk(tree):
        if id(item) in inner:
            continue
        if isinstance(item, ast.JoinedStr):
            words = "".join(
                str(part.value) if isinstance(part, ast.Constant) else "name" for part in item.values
            )
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            words = item.value
        else:
            continue
        for paragraph in re.split(r"\n\s*\n", words):
            prose = "\n".join(row for row in paragraph.splitlines() if not _DRAWN.match(row))
            if len(_WORD.findall(prose)) >= FEWEST_WORDS and " " in prose.strip():
                yield item.lineno, prose


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Comments; those on lines one after the other are one paragraph."""
    paragraph: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        stripped = line.strip()
        if stripped.startswith("# ") and not stripped.startswith("# ---"):
            paragraph.append(stripped[2:])
        elif paragraph:
            yield number - len(paragraph), " ".join(paragraph)
            paragraph = []


if __name__ == "__main__":
    sys.exit(main())

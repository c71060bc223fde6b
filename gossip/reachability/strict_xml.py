"""Strict XML: reads a small document of a stranger. No entities, no document type, nothing fetched, bounded.

Entities need a document type to be declared in, and a document with one is refused at its first byte.
"""

from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

MAX_ELEMENTS: Final = 2000
MAX_DEPTH: Final = 24
MAX_TEXT: Final = 1024
"""Characters of one element; what is beyond is left out."""


class BadXml(ValueError):
    """Not XML, or none that is read here."""


@dataclass(slots=True)
class Element:
    """An element: its name without a prefix, its text, and what is in it."""

    name: str
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, name: str) -> list["Element"]:
        """Return the elements of this name at any depth, this one among them, in their order."""
        found = [self] if self.name == name else []
        for child in self.children:
            found += child.all(name)
        return found

    def get(self, name: str) -> str:
        """Return the text of the first element of this name; empty where there is none."""
        found = self.all(name)
        return found[0].text.strip() if found else ""


class _Reader:
    def __init__(self) -> None:
        self.root = Element("")
        self._open = [self.root]
        self._n_elements = 0

    def start(self, name: str, _: object) -> None:
        self._n_elements += 1
        if self._n_elements > MAX_ELEMENTS or len(self._open) > MAX_DEPTH:
            raise BadXml("too many elements")
        element = Element(name.rpartition(":")[2][:100])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _: str) -> None:
        self._open.pop()

    def text(self, text: str) -> None:
        element = self._open[-1]
        element.text += text[: MAX_TEXT - len(element.text)]


def parse_xml(document: bytes) -> Element:
    """Read a document, whose size its caller has bounded; returns what holds its outermost element.

    Raises:
        BadXml: see the class.
    """
    reader, parser = _Reader(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise BadXml("a document type")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise BadXml(str(error)) from error
    return reader.root

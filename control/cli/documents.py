"""Files of objects: YAML with several documents, each with its place for messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

MAX_FILE_BYTES = 8 * 1024 * 1024
SUFFIXES = (".yaml", ".yml", ".json")


class DocumentError(Exception):
    """A file cannot be read."""


@dataclass(frozen=True, slots=True)
class Document:
    """One object and its place."""

    source: str
    """File name, or ``<stdin>``."""
    number: int
    """From 1, counting documents of the file."""
    value: Any

    @property
    def place(self) -> str:
        """``mesh.yaml, document 2``."""
        return f"{self.source}, document {self.number}"


def read(paths: tuple[str, ...], stdin: TextIO) -> list[Document]:
    """Read every document of the files, in order; DocumentError names the place that cannot be read.

    A directory stands for its YAML and JSON files by name, ``-`` for standard input.
    """
    documents: list[Document] = []
    for path in paths:
        if path == "-":
            documents += _parse("<stdin>", stdin.read(MAX_FILE_BYTES + 1))
            continue
        for file in _files(Path(path)):
            documents += _parse(str(file), _text(file))
    return documents


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not found:
        raise DocumentError(f"{path}: no {', '.join(SUFFIXES)} file in this directory")
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DocumentError(f"{path}: longer than {MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _parse(source: str, text: str) -> list[Document]:
    if len(text) > MAX_FILE_BYTES:
        raise DocumentError(f"{source}: longer than {MAX_FILE_BYTES} bytes")
    try:
        values = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise DocumentError(f"{source}: {_where(error)}") from error
    except RecursionError:
        raise DocumentError(f"{source}: nested too deeply") from None
    documents = []
    for number, value in enumerate(values, 1):
        _check_json(value, f"{source}, document {number}")
        if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
            documents += [Document(source, number, item) for item in value["items"]]
        elif value is not None:
            documents.append(Document(source, number, value))
    return documents


def _check_json(value: Any, place: str) -> None:
    """Refuse YAML values that JSON cannot express: .nan, !!binary, !!set."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise DocumentError(f"{place}: {error}; only text, numbers, true, false, null, lists and maps") from error


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else f"not YAML: {problem}"


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error (the last would win silently), and so are aliases (bombs)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not supported", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# A date such as 2026-01-02 is text here: JSON has no dates.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

"""Files are read as their authors meant them, or refused with the place."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from control.cli import documents
from control.cli.documents import DocumentError


def read(text: str) -> list[documents.Document]:
    return documents.read(("-",), io.StringIO(text))


def test_documents_know_their_place(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("kind: B\n---\n\n---\nkind: C\n")
    (tmp_path / "a.json").write_text('{"kind": "A"}')
    (tmp_path / "notes.txt").write_text("not: {read")
    found = documents.read((str(tmp_path), "-"), io.StringIO("kind: D"))
    assert [(d.value["kind"], Path(d.source).name, d.number) for d in found] == [
        ("A", "a.json", 1),
        ("B", "b.yaml", 1),
        ("C", "b.yaml", 3),
        ("D", "<stdin>", 1),
    ]
    assert found[-1].place == "<stdin>, document 1"


def test_a_list_is_its_items() -> None:
    assert [d.value for d in read("kind: List\nitems: [{kind: A}, {kind: B}]")] == [{"kind": "A"}, {"kind": "B"}]


def test_scalars_are_what_they_look_like() -> None:
    (found,) = read("day: 2026-01-02\nport: 8080\nflag: true\ntext: '1'")
    assert found.value == {"day": "2026-01-02", "port": 8080, "flag": True, "text": "1"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "line 1"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is given twice"),
        ("a: &x [1]\nb: *x", "line 2, column 4: aliases"),
        ("on: 1", "put it in quotes"),
        ("1: x", "put it in quotes"),
        ("a: !!python/object/apply:os.system [x]", "line 1"),
        ("a: \x00", "special characters"),
        ("[" * 3000, "nested too deeply"),
        ("a: 1\n---\na: .nan", "document 2: "),
        ("a: !!binary aGk=", "document 1: "),
        ("a: !!set {x}", "document 1: "),
    ],
)
def test_what_is_not_read(text: str, words: str) -> None:
    with pytest.raises(DocumentError, match="<stdin>") as error:
        read(text)
    assert words in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "empty").mkdir()
    for path, words in (("none.yaml", "No such file"), ("latin.yaml", "not UTF-8"), ("empty", "no .yaml")):
        with pytest.raises(DocumentError, match=words):
            documents.read((str(tmp_path / path),), io.StringIO())


def test_files_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 10)
    (tmp_path / "big.yaml").write_text("a: 12345678")
    for path in (str(tmp_path / "big.yaml"), "-"):
        with pytest.raises(DocumentError, match="longer than 10"):
            documents.read((path,), io.StringIO("a: 12345678"))

"""The documents say what is there: links lead somewhere, commands, targets and paths exist, examples are accepted."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import pytest
import yaml

from control.cli.meshctl import meshctl
from control.main import main as control
from control.wire import governed
from nodeagent.cli.main import main as nodeagent
from nodeagent.reasons import Reason
from tests.support import rooms
from tests.support.mesh import make_registry

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "vm-lab/*.md", "tests/bench/results/*.md")
    for path in ROOT.glob(pattern)
)
WITH_RESOURCES = [name for name in DOCUMENTS if "apiVersion: nodemesh/v1" in (ROOT / name).read_text()]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
GROUPS: dict[str, click.Group] = {"nodeagent": nodeagent, "control": control, "meshctl": meshctl}
MAX_LINE = 100
MAX_ARCHITECTURE_WORDS = 1500
TREES = ("bpf", "control", "deploy", "docs", "nodeagent", "tests", "vm-lab", ".ci")
"""A path in backticks that begins with one of these names something of this repository."""
HISTORY = ("CHANGELOG.md", "docs/decisions/", "docs/performance/")
"""They tell of a day; what they name may be gone."""

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")


def _text(document: str) -> str:
    return (ROOT / document).read_text()


def _prose(document: str) -> str:
    return _FENCE.sub("", _text(document))


@cache
def _anchors(path: Path) -> frozenset[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    anchors = set()
    for heading in re.findall(r"^#+ +(.+?)$", _FENCE.sub("", path.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = found.get(anchor, 0)
        found[anchor] = count + 1
        anchors.add(f"{anchor}-{count}" if count else anchor)
    return frozenset(anchors)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for target in _LINK.findall(_CODE.sub("", _prose(document))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / unquote(name) if name else ROOT / document
        assert path.exists(), f"{document}: {target} does not exist"
        assert path.resolve().is_relative_to(ROOT), f"{document}: {target} leads out of the repository"
        assert not anchor or anchor in _anchors(path.resolve()), f"{document}: {target} has no such heading"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_wrap(document: str) -> None:
    long = [
        f"{document}:{number} has {len(line)} characters"
        for number, line in enumerate(_text(document).splitlines(), 1)
        if len(line) > MAX_LINE and not line.startswith("|") and "://" not in line and not _is_one_link(line)
    ]
    assert not long


def _is_one_link(line: str) -> bool:
    """A link has no place to wrap: an image, or the end of one with a long address."""
    return max(map(len, line.split())) > MAX_LINE // 2 or line.startswith("![")


def test_the_architecture_is_one_page() -> None:
    words = len(_text("ARCHITECTURE.md").split())
    assert words <= MAX_ARCHITECTURE_WORDS, f"{words} words: move a part into docs/"


def test_the_architecture_shows_the_rooms_of_today() -> None:
    text = _text("ARCHITECTURE.md")
    assert text == rooms.written(text), "run `make rooms`"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_is_quoted_exists(document: str) -> None:
    made = set(re.findall(r"^([a-z-]+):", _text("Makefile"), re.MULTILINE))
    blocks = re.findall(r"```console\n(.*?)```", _text(document), re.DOTALL)
    prose = _prose(document)
    quoted = [line for block in blocks for line in block.splitlines()]
    quoted += [" ".join(code.split()) for code in _CODE.findall(prose)]
    quoted += re.findall(r"^    \S.*$", prose, re.MULTILINE)
    for line in quoted:
        for program, words in re.findall(r"(?<![\w./-])(nodeagent|meshctl|control) ((?:[a-z-]+ ?)+)", line):
            _check(program, words.split(), f"{document}: {line}")
        for targets in re.findall(r"\bmake ((?:[a-z-]+\b ?)+)", line):
            assert set(targets.split()) <= made, f"{document}: {line}"


def _check(program: str, words: list[str], line: str) -> None:
    command: click.Command = GROUPS[program]
    for word in words:
        if not isinstance(command, click.Group):
            return
        assert word in command.commands, line
        command = command.commands[word]


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if not name.startswith(HISTORY)])
def test_every_path_that_is_quoted_exists(document: str) -> None:
    for code in _CODE.findall(_prose(document)):
        name = code.partition(":")[0].rstrip("/")
        if name.startswith(TREES) and re.fullmatch(r"\.?[\w-]+(/[\w.-]+)+", name):
            assert (ROOT / name).exists(), f"{document}: {code} does not exist"


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if not name.startswith(HISTORY)])
def test_every_module_that_is_quoted_exists(document: str) -> None:
    for code in _CODE.findall(_prose(document)):
        if re.fullmatch(r"(nodeagent|control)(\.[a-z_]+)+", code) and not code.endswith(".service"):
            *parts, last = code.split(".")
            module = ROOT.joinpath(*parts, last)
            owner = ROOT.joinpath(*parts).with_suffix(".py")
            there = module.is_dir() or module.with_suffix(".py").exists()
            assert there or f"def {last}(" in owner.read_text(), f"{document}: {code} does not exist"


def _resources(document: str) -> list[Any]:
    blocks = re.findall(r"```yaml\n(.*?)```", _text(document), re.DOTALL)
    return [item for block in blocks if "apiVersion:" in block for item in yaml.safe_load_all(block)]


@pytest.mark.parametrize("document", WITH_RESOURCES)
def test_the_resources_that_are_shown_are_accepted(document: str) -> None:
    registry, _ = make_registry()
    assert {outcome.action for outcome in registry.apply(_resources(document))} == {"created"}


def test_every_kind_is_shown() -> None:
    shown = {item["kind"] for document in WITH_RESOURCES for item in _resources(document)}
    in_table = set(re.findall(r"^\| (\w+) \| (?:mesh|namespace) \|", _text("docs/reference.md"), re.MULTILINE))
    assert shown == in_table


def test_the_example_mesh_is_accepted() -> None:
    registry, _ = make_registry()
    objects = list(yaml.safe_load_all(_text("deploy/config/mesh.yaml")))
    assert {outcome.action for outcome in registry.apply(objects)} == {"created"}


def test_the_reference_has_every_reason_and_no_other() -> None:
    section = _text("docs/reference.md").partition("## Reasons")[2]
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z-]+) \| `([\w-]+)` \|", section, re.MULTILINE)
    assert rows == [(reason.code, reason.value.fault.value, reason.flag) for reason in Reason]


def test_the_reference_has_every_label() -> None:
    section = _text("docs/reference.md").partition("## Labels")[2].partition("## Policy")[0]
    labels = {value for name, value in vars(governed).items() if name.endswith("_LABEL")}
    assert set(re.findall(r"^\| `(nodemesh\.io/[a-z-]+)`", section, re.MULTILINE)) == labels


def test_the_reference_has_every_metric() -> None:
    text = _text("docs/reference.md")
    sources = "".join(path.read_text() for path in (ROOT / "nodeagent").rglob("*.py"))
    exported = set(re.findall(r'"((?:nodemesh|istio_tcp)_[a-z_]+)"', sources))
    assert set(re.findall(r"^\| `((?:nodemesh|istio_tcp)_[a-z_]+)`", text, re.MULTILINE)) == exported


def test_decisions_are_numbered_and_have_their_parts() -> None:
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))
    index = _text("docs/decisions/README.md")
    for path in DECISIONS:
        text = path.read_text()
        assert text.startswith(f"# {int(path.name[:4])}. "), path.name
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings in (["Context", "Decision", "Consequences"], ["Context", "Decision", "Consequences", "Figures"])
        title = text.partition("\n")[0].partition(". ")[2]
        assert f"| {int(path.name[:4])} | [{title}]({path.name}) |" in index, f"{path.name} is not in the index"


def test_decisions_that_the_code_names_exist() -> None:
    for tree in ("nodeagent", "control", "bpf", "tests", "vm-lab", "docs"):
        for path in (ROOT / tree).rglob("*"):
            if path.suffix in (".py", ".c", ".h", ".md"):
                for number in re.findall(r"\bdecisions? (\d+)", path.read_text()):
                    assert int(number) <= len(DECISIONS), f"{path}: decision {number}"


def test_every_measured_state_is_listed() -> None:
    listed = _text("docs/performance.md")
    for path in (ROOT / "docs" / "performance").glob("*.md"):
        assert f"(performance/{path.name})" in listed, f"{path.name} is not in docs/performance.md"


def test_every_document_is_in_the_index() -> None:
    index = _text("docs/README.md")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, f"{path.name} is not in docs/README.md"

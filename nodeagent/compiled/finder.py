"""Whether there is a build that this process may use, and the use of it."""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

HERE: Final = Path(__file__).parent / "built"
ROOT: Final = Path(__file__).parents[2]
MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 1024 * 1024
HOW: Final = "make compiled"
INTERPRETED: Final = "--interpreted"
"""The option of a worker that is to run its sources whatever there is."""


class NotUsableError(Exception):
    """There is no build that may be used; says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a build consists of."""

    python: str
    """The suffix of extension modules, which names interpreter and platform."""
    sources: dict[str, str]
    """SHA-256 of each module's source, by the module's name."""
    files: dict[str, str]
    """File in the build's directory, by the name of the module that is imported from it."""

    def written(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def python() -> str:
    """What a build must have been made for."""
    return str(sysconfig.get_config_var("EXT_SUFFIX"))


def source_of(module: str) -> Path:
    """Where a module's source is."""
    return ROOT / (module.replace(".", "/") + ".py")


def digest(module: str) -> str:
    """Of its source. OSError if there is none."""
    return hashlib.sha256(source_of(module).read_bytes()).hexdigest()


def usable(directory: Path = HERE) -> Manifest:
    """The build that lies there. NotUsableError where this process could not use it."""
    try:
        with (directory / MANIFEST).open("rb") as file:
            manifest = Manifest(**json.loads(file.read(MAX_MANIFEST_BYTES)))
        changed = [module for module, expected in manifest.sources.items() if digest(module) != expected]
    except FileNotFoundError:
        raise NotUsableError(f"nothing is compiled; {HOW}") from None
    except (OSError, ValueError, TypeError) as error:
        raise NotUsableError(f"the build cannot be read: {error}; {HOW}") from error
    if manifest.python != python():
        raise NotUsableError(f"the build is for {manifest.python}, this Python wants {python()}; {HOW}")
    if changed:
        raise NotUsableError(f"{len(changed)} sources are newer than the build, {changed[0]} among them; {HOW}")
    return manifest


class Finder(MetaPathFinder):
    """Finds the modules of a build before their sources are found."""

    def __init__(self, manifest: Manifest, directory: Path = HERE) -> None:
        self._files = {name: str(directory / file) for name, file in manifest.files.items()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See ``MetaPathFinder``."""
        file = self._files.get(fullname)
        if file is None:
            return None
        return spec_from_file_location(fullname, file, loader=ExtensionFileLoader(fullname, file))


def use(directory: Path = HERE) -> str:
    """Have modules of this process come from the build; why not, or nothing if they do."""
    try:
        manifest = usable(directory)
    except NotUsableError as problem:
        return str(problem)
    early = sorted(name for name in manifest.files if name in sys.modules)
    if early:  # compiled modules take each other's objects for their own kind
        return f"{early[0]} was imported before"
    finder = Finder(manifest, directory)
    sys.meta_path.insert(0, finder)
    try:
        for name in manifest.files.keys() - manifest.sources.keys():  # the code of all; the others only lead there
            import_module(name)
    except ImportError as error:  # a C library older than the builder's, for example: better slow than not at all
        sys.meta_path.remove(finder)
        return f"the build cannot be loaded: {error}; {HOW}"
    return ""

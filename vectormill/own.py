"""The packages that vectormill consists of, found before others of the same names.

`pipelines` and `actors` are names that a project's folder, Airflow's folder of DAGs or a working directory of Ray likes
to have too, and whatever stands first on `sys.path` would win. Importing this module puts a finder before all
others that takes the two from beside this package. Each process does it before it imports anything else of ours: the
command, a program that asks `vectormill` for something, a worker of Ray. Knows nothing but the standard library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

NAMES = ("pipelines", "actors")
MARK = '"""vectormill: '  # what the `__init__.py` of each begins with


class OwnPackages:
    """A finder of `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name in NAMES:
            return PathFinder.find_spec(name, [str(folder) for folder in _folders(name)])
        top, _, below = name.partition(".")
        if not below or top not in NAMES:
            return None
        if (spec := PathFinder.find_spec(name, path)) is None:
            raise ModuleNotFoundError(
                f"No module named {name!r}: in this process {top!r} is vectormill's own package, at "
                f"{_folder_of(sys.modules[top])}. {APART}",
                name=name,
            )
        return spec


APART = "A program with a package of that name runs vectormill in a process of its own, by the command."


def install() -> None:
    """From here on the two names mean vectormill's packages. Raises ImportError if another one has been imported."""
    for name in NAMES:
        module = sys.modules.get(name)
        if module is not None and not _is_own(_folder_of(module)):
            raise ImportError(
                f"this process has imported another package {name!r}, from {_folder_of(module)}, and vectormill has "
                f"one of that name. {APART}",
                name=name,
            )
    if OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, OwnPackages)


def _folders(name: str) -> list[Path]:
    """Where the package may be: beside this one or, on a node of a cluster to which Ray sent the three, on the path."""
    beside = Path(__file__).parents[1]
    return [folder for folder in (beside, *map(Path, sys.path)) if _is_own(folder / name)][:1]


def _folder_of(module: ModuleType) -> Path:
    """Of a package, with an `__init__.py` or without; a module of one file has none, and its own path stands for it."""
    return Path(next(iter(getattr(module, "__path__", [])), module.__file__ or module.__name__))


def _is_own(folder: Path) -> bool:
    try:
        with open(folder / "__init__.py", encoding="utf-8", errors="replace") as first:
            return first.read(len(MARK)) == MARK
    except OSError:
        return False


install()

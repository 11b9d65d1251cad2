"""Where a reward function of the user's lies, found by reading: nothing of it is run in the process of a run."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from tandemtune import plugins
from tandemtune.errors import UsageError
from tandemtune.plugins import near

ANYTHING = "*"
"""Stands for names that only running a file would tell."""


def code_file(address: str) -> Path | None:
    """The file that an address names; None where its module has none of Python.

    Args:
        address: ``"package.module:name"`` or ``"path/file.py:name"``.

    Raises:
        UsageError: there is no such file, it is no Python, or nothing at its top has that name.
    """
    place, _, attribute = address.rpartition(":")
    try:
        file = _python_file(Path(place)) if place.endswith(".py") else _file_of_module(place)
        names = {ANYTHING} if file is None else set(_names(ast.parse(file.read_bytes()).body))
    except (ImportError, OSError, SyntaxError, ValueError, RecursionError) as error:
        hint = plugins.file_hint(place, attribute)
        raise UsageError(f"reward {address!r} cannot be loaded: {type(error).__name__}: {error}{hint}") from error
    if not names & {attribute, ANYTHING, "__getattr__"}:
        options = [name for name in names if not name.startswith("_")]
        raise UsageError(f"reward {address!r}: {place} has no {attribute!r}{near(attribute, options)}")
    return file


def may_read(address: str, columns: Iterable[str]) -> bool:
    """Whether a function may read some of the columns that it is given, as far as its code tells: it names one, hands all of them on,
    is decorated or no plain function of a file, or its file has gone.

    Args:
        address: see `code_file`.
        columns: their names.
    """
    try:
        function = _function(address)
    except UsageError:
        return True
    if function is None or function.decorator_list:
        return True
    rest = function.args.kwarg and function.args.kwarg.arg
    wanted = {*columns, rest}
    for node in ast.walk(function):
        told = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else None
        if isinstance(node, ast.arg) and node.arg != rest:
            told = node.arg
        if isinstance(told, str) and told in wanted:
            return True
    return False


def parameters(address: str) -> frozenset[str]:
    """Names of what a function asks for by name, as far as its code tells: none of one that cannot be found without running it.

    Args:
        address: see `code_file`.
    """
    try:
        function = _function(address)
    except UsageError:
        return frozenset()
    if function is None:
        return frozenset()
    given = function.args
    return frozenset(one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs))


def _function(address: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The plain function of a file that an address means.

    Raises:
        UsageError: there is no such file.
    """
    file = code_file(address)
    name = address.rpartition(":")[2]
    nodes = [] if file is None else ast.parse(file.read_bytes()).body
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return next((node for node in reversed(nodes) if isinstance(node, kinds) and node.name == name), None)


def code_of(name: str) -> dict[str, str]:
    """What a resumed run notices changed code of a reward by, see `plugins.outside_code`; no hash where the file has gone."""
    address = name if plugins.is_address(name) else _address_of_registered(name)
    if address is None:
        return plugins.outside_code("reward", name)
    try:
        file = code_file(address)
    except UsageError:
        file = None
    return {address: hashlib.sha256(file.read_bytes()).hexdigest() if file else ""}


def _address_of_registered(name: str) -> str | None:
    """Where a function lies that was registered under a name; None for a reward that is no mere function."""
    found = plugins.find("reward", name)
    return plugins.place_of(found) if callable(found) else None


def _python_file(path: Path) -> Path:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no Python file {path}")
    return path


def _file_of_module(name: str) -> Path | None:
    """The file of a module, whose packages are not imported either."""
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for number in range(1, len(parts) + 1):
        path = None if spec is None else list(spec.submodule_search_locations or [])
        full = ".".join(parts[:number])
        found = (finder.find_spec(full, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((one for one in found if one is not None), None)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {full!r}", name=full)
    file = Path(spec.origin) if spec is not None and spec.origin else None
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that code gives values to when it is run, but for those inside functions and classes."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            continue
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                yield node.id
            elif node.id in ("exec", "globals", "setattr"):
                yield ANYTHING
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        yield from _names(ast.iter_child_nodes(node))

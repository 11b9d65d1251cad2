"""Members: the parts that a recipe may name, and the one mechanism by which they are found.

A member is a class. Its annotated fields are its options, its class attributes say what it is and what it needs, and one method
makes the working object. It is found by name after `register` has seen it: in this package, in a package with an entry point
in the group ``tandemtune.plugins``, or straight from a recipe as ``"package.module:Name"`` or ``"file.py:Name"``.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, overload

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from tandemtune.errors import UsageError

GROUP = "tandemtune.plugins"
"""Entry points of this group name modules that register members."""
PACKAGES = {
    "optimizer": "tandemtune.optimizers",
    "tunable": "tandemtune.tunables",
    "subspace": "tandemtune.subspace",
    "objective": "tandemtune.objectives",
    "readout": "tandemtune.readout",
    "proposer": "tandemtune.proposers",
    "metric": "tandemtune.tasks.metrics",
    "reward": "tandemtune.rewards",
    "task": "tandemtune.tasks.catalogue",
    "yardstick": "tandemtune.yardsticks",
    "tracker": "tandemtune.trackers",
    "executor": "tandemtune.executors",
}
"""Nouns, and the package (one file each) or module that holds the members that come with this one."""
FUNCTIONS = {
    "metric": "(predictions, gold) -> number",
    "reward": "(prompts, completions, **columns) -> list of numbers",
}
"""Nouns of which a function is a member, too, and what it takes."""
_BASES = {noun: f"{noun.capitalize()} of {place}.base" for noun, place in PACKAGES.items()} | {
    "subspace": "Subspace of tandemtune.subspace",
    "readout": "ReadoutMember of tandemtune.readout.members",
    "tracker": "Tracker of tandemtune.trackers",
}


class Options(BaseModel):
    """Settings that are checked when they are made: no unknown names, no silent conversions, no later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Member(Options):
    """Base of members; the nouns' own bases derive from it.

    Attributes:
        noun: what kind of part it is, for example "optimizer".
        kind: its name in recipes.
        summary: one line for lists.
        source: paper and equation, or "this project".
    """

    noun: ClassVar[str]
    kind: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""

    def problems(self, recipe: Any) -> Iterator[str]:
        """What does not fit together in a recipe as far as this member can tell, one sentence for each problem.

        Args:
            recipe: the whole recipe (`tandemtune.config.RunConfig`), whose parts have been checked one by one.
        """
        yield from ()

    def named(self) -> list[tuple[str, str]]:
        """Other members that its options name, as (noun, name): their code is a part of the run, too."""
        return []


M = TypeVar("M")
_MEMBERS: dict[str, dict[str, Any]] = {noun: {} for noun in PACKAGES}
_LOADED: set[str] = set()


@overload
def register(member: type[M]) -> type[M]: ...
@overload
def register(member: str, name: str) -> Callable[[M], M]: ...
def register(member: Any, name: str | None = None) -> Any:
    """Make a member known by its name.

    Use it as a decorator: ``@register`` on a member class, whose `noun` and `kind` name it, or ``@register("metric", "name")``
    on a function.

    Raises:
        UsageError: the name is taken by another member, or the noun is unknown.
    """
    if isinstance(member, str):
        noun = member

        def decorate(found: M) -> M:
            _add(noun, str(name), found)
            return found

        return decorate
    _add(member.noun, member.kind, member)
    return member


def _add(noun: str, name: str, member: Any) -> None:
    if noun not in _MEMBERS:
        raise UsageError(f"cannot register a {noun!r}: expected one of {', '.join(_MEMBERS)}")
    if not isinstance(name, str) or not name or ":" in name:
        raise UsageError(
            f"cannot register the {noun} {_home(member)} under {name!r}: give it a short name without a colon, "
            'for example kind = "mine"'
        )
    if _module_of(member).startswith(_FILE_MODULE):
        return  # found by its address; the same file may be loaded from several places
    there = _MEMBERS[noun].setdefault(name, member)
    if there is not member and _home(there) != _home(member):
        raise UsageError(
            f"the {noun} {name!r} of {_home(member)} has the name of {_home(there)}: give it another one, or uninstall one"
        )
    _MEMBERS[noun][name] = member


def _home(member: Any) -> str:
    return f"{getattr(member, '__module__', '')}.{getattr(member, '__qualname__', member)}"


def names(noun: str) -> list[str]:
    """Names of all members of a noun in alphabetical order, those of installed plug-ins among them."""
    _load(noun)
    return sorted(_MEMBERS[noun])


def members(noun: str) -> dict[str, Any]:
    """All members of a noun by name, in alphabetical order: which module was imported first does not matter."""
    _load(noun)
    return dict(sorted(_MEMBERS[noun].items()))


def find(noun: str, name: str) -> Any:
    """A member by its name or its address.

    Args:
        noun: for example "optimizer".
        name: a registered name, ``"package.module:Name"`` or ``"path/file.py:Name"``.

    Raises:
        UsageError: there is no such member; says what was meant, or why the code cannot be loaded.
    """
    if is_address(name):
        return _at(noun, name)
    _load(noun)
    if name not in _MEMBERS[noun]:
        options = sorted(_MEMBERS[noun])
        raise UsageError(f"unknown {noun} {name!r}{near(name, options)}, expected {', '.join(options)} or module:Name")
    return _MEMBERS[noun][name]


def is_address(name: str) -> bool:
    """Whether a name says where the code lies."""
    place, colon, attribute = name.rpartition(":")
    return bool(colon and place) and attribute.isidentifier()


def address_of(member: Any) -> str:
    """What a recipe calls a member: its registered name, or where its code lies, so that another process finds it again.

    Raises:
        UsageError: the code lies in no file, so no other process could load it.
    """
    if _module_of(member).partition(".")[0] in _packages_that_register():
        for noun in _MEMBERS:
            for short, known in _MEMBERS[noun].items():
                if known is member:
                    return short
    return place_of(member)


def place_of(member: Any) -> str:
    """Where the code of a member lies, so that another process finds it again.

    Raises:
        UsageError: it has no name of its own, or lies in no file, so no other process could load it.
    """
    module, name = _module_of(member), getattr(member, "__qualname__", None)
    if not module or not isinstance(name, str) or isinstance(member, functools.partial):
        raise UsageError(
            f"{member!r} has no name that another process could find it by: write a function at the top of a file (def) that calls it, "
            "and give that"
        )
    if "." in name or "<" in name:
        raise UsageError(
            f"{name} is defined inside a function or class, so a resumed run could not find it: move it to the top"
        )
    if module != "__main__" and not module.startswith(_FILE_MODULE):
        return f"{module}:{name}"
    file = _source_file(member)
    if file is None:
        raise UsageError(
            f"{name} was defined in an interactive session, so a resumed run could not find it: put it into a file and import it"
        )
    return f"{file}:{name}"


def absolute(address: str) -> str:
    """An address that leads to the same file from any folder; a name stays what it is."""
    place, _, attribute = address.rpartition(":")
    if not is_address(address) or not place.endswith(".py"):
        return address
    return f"{Path(place).expanduser().resolve()}:{attribute}"


def outside_code(noun: str, name: str) -> dict[str, str]:
    """What a resumed run notices changed code by.

    Args:
        noun: for example "optimizer".
        name: as in a recipe.

    Returns:
        Where the member's code lies -> hash of its file, "" where it has gone; empty for a member that comes with this package.
    """
    try:
        member = find(noun, name)
    except UsageError:
        if not is_address(name):
            raise
        return {name: ""}
    if not is_address(name) and _module_of(member).partition(".")[0] == "tandemtune":
        return {}
    file = _source_file(member)
    sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return {name if is_address(name) else f"{noun} {name}": sha256}


def _module_of(member: Any) -> str:
    return str(getattr(member, "__module__", ""))


@functools.cache
def _packages_that_register() -> frozenset[str]:
    """Packages whose members any other process finds by their short names."""
    points = metadata.entry_points(group=GROUP)
    return frozenset({"tandemtune", *(point.module.partition(".")[0] for point in points)})


def default_of(field: FieldInfo) -> str:
    """The default of an option as a recipe would write it: "required" where there is none, nothing where it may be left out."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None else json.dumps(value)


def meaning_of(field: FieldInfo) -> str:
    """What an option means, with the values that it may have where they are few and the meaning does not name them all."""
    told = field.description or ""
    values = [
        value for value in _values(field.annotation) if not re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", told)
    ]
    return f"{told} (one of {', '.join(_values(field.annotation))})".strip() if values else told


def _values(annotation: Any) -> list[str]:
    """The texts that an annotation allows by name, wherever they stand in it."""
    if get_origin(annotation) is Literal:
        return [value for value in get_args(annotation) if isinstance(value, str)]
    return [value for part in get_args(annotation) for value in _values(part)]


def near(word: str, options: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" for the option that a word is close to, or nothing."""
    close = difflib.get_close_matches(word, list(options), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def near_or_all(word: str, options: Iterable[str]) -> str:
    """The option that a word is close to as " (did you mean 'x'?)", or else ", expected " and all of them."""
    known = list(dict.fromkeys(options))
    return near(word, known) or f", expected {', '.join(known)}"


_FILE_MODULE = "tandemtune_file_"


def _at(noun: str, address: str) -> Any:
    place, _, attribute = address.rpartition(":")
    try:
        module = _file_module(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:  # whatever foreign code raises
        said = f"{type(error).__name__}: {error}{file_hint(place, attribute)}"
        raise UsageError(f"{noun} {address!r} cannot be loaded: {said}") from error
    if not hasattr(module, attribute):
        options = [name for name in vars(module) if not name.startswith("_")]
        raise UsageError(f"{noun} {address!r}: {place} has no {attribute!r}{near(attribute, options)}")
    found = getattr(module, attribute)
    if isinstance(found, type) and issubclass(found, Member):
        if found.noun != noun:
            raise UsageError(f"{noun} {address!r} is a member of another kind: {attribute} is a {found.noun}")
        if not found.kind:
            found.kind = attribute
    elif noun in FUNCTIONS:
        if not callable(found):
            raise UsageError(f"{noun} {address!r}: expected a function {FUNCTIONS[noun]}, found {found!r}")
    else:
        raise UsageError(f"{noun} {address!r}: expected a class derived from {_BASES[noun]}, found {found!r}")
    return found


def file_hint(place: str, attribute: str) -> str:
    """How to name a file of this folder that was written as a module; nothing where there is none."""
    here = Path(f"{place.replace('.', '/')}.py")
    return f"; for the file in this folder write '{here}:{attribute}'" if here.is_file() else ""


def _file_module(path: Path) -> Any:
    path = path.expanduser().resolve()
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) and Path(str(module.__file__)) == path:
            return module  # already imported, as a script or under its own name
    name = _FILE_MODULE + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _source_file(member: Any) -> str | None:
    try:
        file = inspect.getsourcefile(member)
    except (OSError, TypeError):
        return None
    return str(Path(file).resolve()) if file and Path(file).is_file() else None


def _load(noun: str) -> None:
    """Import everything that registers members of a noun, once."""
    if noun not in PACKAGES:
        raise UsageError(f"unknown kind of part {noun!r}, expected one of {', '.join(PACKAGES)}")
    if noun not in _LOADED:
        _LOADED.add(noun)
        package = importlib.import_module(PACKAGES[noun])
        for found in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"{package.__name__}.{found.name}")
    load_plugins()
    _MEMBERS[noun] = dict(sorted(_MEMBERS[noun].items(), key=_place))  # whatever was imported first


def _place(named: tuple[str, Any]) -> tuple[bool, str]:
    """Ours first, by file; a stable sort keeps the order inside a file."""
    module = _module_of(named[1])
    return module.partition(".")[0] != "tandemtune", module


@functools.cache
def load_plugins() -> None:
    """Import the modules that installed packages name in the group `GROUP`, once; they register what they bring.

    Raises:
        UsageError: one of them cannot be imported.
    """
    for point in metadata.entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # whatever foreign code raises
            raise UsageError(
                f"the plug-in {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}; "
                "mend it or uninstall it"
            ) from error

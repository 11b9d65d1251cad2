"""Tasks of images: rows out of a folder of folders, or of a table with a column of paths or of images.

A row's only field is the path of an image. The template says in which words a class is put ("a photo of a {mask}."); the label
words are the names that stand at its mask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from tandemtune.errors import DataError
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.fewshot import subsample
from tandemtune.tasks.files import examples_of
from tandemtune.tasks.image_files import check_file, image_column, left_out, with_files
from tandemtune.tasks.metrics import METRICS
from tandemtune.tasks.pictures import SUFFIXES
from tandemtune.tasks.table import HUB, Source, Table, check_columns, read_table
from tandemtune.tasks.templates import MASK, Template
from tandemtune.tasks.wording import counted, listed, nfc
from tandemtune.types import Example

IMAGE = "image"
"""The field of a row, and the column of paths where nobody names another one."""
TEMPLATE = "{image} a photo of a {mask}."
PARTS = {"train": ("train", "training"), "test": ("test",), "dev": ("dev", "val", "valid", "validation")}
"""What folders of a data set's parts are called."""


@dataclass(frozen=True)
class ImageTask(Task):
    """A task whose rows are images.

    Args:
        ensemble: further templates; a class is the mean of its names in all of them.
        unseen: names of classes whose rows are left out, by label; a prompt is scored among them at the end.
        kept: folder that images which lie inside a table are written to.
    """

    answers: ClassVar[str] = "images"

    ensemble: tuple[Template, ...] = ()
    unseen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kept: Path | None = None
    _first: dict[int, dict[str, str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def templates(self) -> tuple[Template, ...]:
        """All templates, each once."""
        return tuple(dict.fromkeys((self.template, *self.ensemble)))

    @property
    def shared_texts(self) -> tuple[str, ...]:
        """The classes' names in all templates."""
        names = [name for several in self.words.values() for name in several]
        return tuple(" ".join(class_text(template, name)).strip() for template in self.templates for name in names)

    def check(self) -> list[str]:
        """As for any task, and that every template shows one image."""
        wrong = [
            f"template {str(one)!r}: names the columns {', '.join(one.fields)}, expected that of the image alone"
            for one in self.templates
            if len(one.fields) != 1
        ]
        return wrong or super().check()

    def _read(self, source: Source) -> list[Example]:
        """Rows of the task's own classes."""
        return [row for row in self._all(source) if row.label in self.words]

    def unseen_rows(self, limit: int | None, seed: int) -> list[Example]:
        """Test rows of the classes that are left out of the task.

        Args:
            limit: at most this many, chosen by the seed; None for all.
            seed: decides which ones.
        """
        source = self.train_source if self.test_source is None else self.test_source
        return subsample([row for row in self._all(source) if row.label in self.unseen], limit, seed)

    def _all(self, source: Source) -> list[Example]:
        """Rows of a folder or a table. An image that was met before has the path that it was met at, so that copies are told."""
        column, labels = self.template.fields[0], (*self.labels, *self.unseen)
        if isinstance(source, str | Path) and is_folder(source):
            found = folder_rows(Path(source), column, labels)
            self._notes[source] = left_out(Path(source), _folders(Path(source)))
        else:
            read = self._without_blanks(source, read_table(source, only=[column, self.label_column]), self.needed)
            table = with_files(read, column, _beside(source), self.kept)
            found = examples_of(table, fields=[column], label=self.label_column, labels=labels)
            for row in found:
                check_file(row.fields[column], table.name)
        return [replace(row, fields={column: self._same(row.fields[column])}) for row in found]

    def _same(self, path: str) -> str:
        """The path at which the same bytes were met first."""
        size = Path(path).stat().st_size
        met = self._first.setdefault(size, {})
        if not met:
            met[""] = path  # hashed when a second file of this size comes up
            return path
        if "" in met:
            first = met.pop("")
            met[_digest(first)] = first
        return met.setdefault(_digest(path), path)


def seen_and_unseen(
    words: Mapping[str, tuple[str, ...]], share: float | None
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Classes of the task, and the last ones that are left out of it.

    Args:
        words: names of all classes, by label.
        share: of the classes that are left out, rounded down; None for none.

    Raises:
        DataError: fewer than two would be on either side.
    """
    count = 0 if share is None else int(share * len(words))
    if share is not None and not 2 <= count <= len(words) - 2:
        raise DataError(
            f"unseen_share = {share} leaves {count} of {len(words)} classes out, expected two at least on either side"
        )
    names = list(words.items())
    return dict(names[: len(names) - count]), dict(names[len(names) - count :])


def image_template(text: str) -> Template:
    """A template for images; one that names no image is about the one that is shown.

    Raises:
        DataError: it cannot be parsed.
    """
    return Template.parse(complete(text))


def complete(text: str, column: str = IMAGE) -> str:
    """A template with a place for the image in front, where it names none."""
    return f"{{{column}}} {text}" if _names_no_image(text) else text


def _names_no_image(text: str) -> bool:
    return "{" not in text.replace(f"{{{MASK}}}", "")


def class_text(template: Template, name: str) -> tuple[str, str]:
    """The words that stand for a class, cut in two: before its name, and from its name on.

    Args:
        template: with the name's place at its mask.
        name: of the class.
    """
    pieces = [("slot", MASK) if piece == ("slot", MASK) else piece for piece in template.pieces]
    place = pieces.index(("slot", MASK))
    before, behind = (
        "".join(value for kind, value in part if kind == "literal") for part in (pieces[:place], pieces[place + 1 :])
    )
    return " ".join(before.split()), f"{name}{behind}".strip()


def image_folders(root: Path) -> dict[str, Path]:
    """The parts of a data set that lies in a folder: by "train", "test" and "dev", the folders of classes.

    Args:
        root: a folder of class folders, or one with such folders for each part.

    Raises:
        DataError: it may be either.
    """
    inside = {path.name.lower(): path for path in _folders(root)}
    named = {name for names in PARTS.values() for name in names}
    others = [path.name for name, path in inside.items() if name not in named]
    if others and "test" in inside and inside.keys() & set(PARTS["train"]):
        raise DataError(
            f"{root} holds the folders train and test beside {listed(others)}: if these are parts of a data set, name the folders of images as train "
            "and test; if they are classes, call train or test otherwise and give its name as labels"
        )
    if not inside or others:
        return {"train": root}
    return {
        part: next(inside[n] for n in names if n in inside)
        for part, names in PARTS.items()
        if inside.keys() & set(names)
    }


def class_names(root: Path) -> dict[str, str]:
    """Folder of a class -> its name as a text has it, in the order of the folders' names.

    Raises:
        DataError: there are no class folders.
    """
    found = {nfc(path.name): _spoken(path.name) for path in _folders(root)}
    if len(found) < 2:
        raise DataError(
            f"{root} holds {counted(len(found), 'folder')}, expected one for each class (two at least) with its images inside"
        )
    return found


def folder_rows(root: Path, column: str, labels: Sequence[str]) -> list[Example]:
    """The images of a folder of class folders, in the order of their paths.

    Args:
        root: the folder.
        column: name of the only field.
        labels: names of the classes' folders.

    Raises:
        DataError: a class has no folder or no image, or a folder is no class.
    """
    inside = {nfc(path.name): path for path in _folders(root)}
    lost, more = [name for name in labels if name not in inside], [name for name in inside if name not in labels]
    if lost or more:
        said = [f"no folder for {listed(lost)}"] * bool(lost) + [f"{listed(more)} is no label of the task"] * bool(more)
        raise DataError(f"{root}: {'; '.join(said)}: expected a folder for each of the labels {listed(labels)}")
    rows: list[Example] = []
    for label in labels:
        files = sorted(path for path in inside[label].rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not files:
            raise DataError(f"{inside[label]} holds no image ({', '.join(SUFFIXES)}), expected at least one")
        rows += [Example({column: str(path)}, label) for path in files]
    return rows


def image_table(root: Path, column: str) -> Table:
    """The images of a folder as a table, for predictions: a column of paths, and one of labels where all lie in folders, each in one that
    is called as its class.

    Raises:
        DataError: there are none.
    """
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{root} holds no image ({', '.join(SUFFIXES)}), expected at least one")
    rows = [{column: str(path)} for path in files]
    folders = [path.relative_to(root).parts[:-1] for path in files]
    if all(folders):
        rows = [{column: str(path), "label": nfc(inside[0])} for path, inside in zip(files, folders, strict=True)]
    return Table.of(rows, root.name)


def _beside(source: Source) -> Path:
    """The folder that paths in a table begin at."""
    named = isinstance(source, str | Path) and not str(source).startswith(HUB)
    return Path(str(source)).expanduser().parent if named else Path()


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def task_settings(given: Mapping[str, object]) -> dict[str, object]:
    """The settings of ``[task]`` with what images say of themselves: a folder its parts, its classes and a template, a table its classes
    and a template.

    Args:
        given: the recipe's; returned as they are where `train` holds no images.

    Raises:
        DataError: there are no classes, or a file of class names cannot be read.
    """
    made = dict(given)
    if isinstance(named := made.get("labels"), str):
        made["labels"] = names_in(Path(named).expanduser())
    train = made.get("train")
    if not isinstance(train, str):
        return made
    if not is_folder(train):
        return {**made, **_told_by_table(train, made)}
    root = Path(train).expanduser()
    for part, folder in image_folders(root).items():
        if part == "train" or (made.get(part) is None and not (part == "test" and made.get("test_share") is not None)):
            made[part] = str(folder)
    if made.get("labels") is None:
        made["labels"] = class_names(Path(str(made["train"])))
    if made.get("template") is None and not isinstance(made.get("templates"), list):
        made["template"] = TEMPLATE
    return completed(made)


def holds_images(source: str) -> bool:
    """Whether rows are images: a folder, or a table whose first row holds one; not where it cannot be read."""
    if is_folder(source):
        return True
    try:
        return image_column(read_table(source), _beside(source)) is not None
    except DataError:
        return False


def completed(given: Mapping[str, object]) -> dict[str, object]:
    """The settings of ``[task]`` with a place for the image in every template."""
    made = dict(given)
    if isinstance(several := made.get("templates"), list):
        made["templates"] = [_changed(one, complete) for one in several]
    if isinstance(text := made.get("template"), str):
        made["template"] = complete(text)
    return made


def _text_in(entry: object) -> object:
    """The text of an entry of `templates`, which may be a table."""
    return entry.get("template") if isinstance(entry, Mapping) else entry


def _changed(entry: Any, change: Callable[[str], str]) -> Any:
    """An entry of `templates` with another text; a table keeps what else it says, and is left as it is if it has no text."""
    if not isinstance(entry, Mapping):
        return change(str(entry))
    return {**entry, "template": change(entry["template"])} if isinstance(entry.get("template"), str) else entry


def _told_by_table(train: str, given: Mapping[str, Any]) -> dict[str, object]:
    """Classes and template of a table of images, as far as a recipe does not name them; nothing for other tables."""
    name, several = given.get("name"), given.get("templates")
    texts = several if isinstance(several, list) else [given.get("template")]
    known = isinstance(name, str) and (name in TASKS or ":" in name)
    written = given.get("answer") is not None or given.get("metric") not in (None, *METRICS)
    shown = map(_text_in, texts)
    lacks = given.get("labels") is None or any(text is None or _names_no_image(str(text)) for text in shown)
    if known or written or not lacks:
        return {}
    try:
        table = read_table(train if train.startswith(HUB) else Path(train).expanduser())
    except (DataError, OSError, RuntimeError, ValueError):
        if train.startswith(HUB):
            raise
        return {}  # what is wrong with a file is told with all else
    column = image_column(table, _beside(train))
    if column is None:
        return {}
    first = "a photo of a {mask}."
    made = [_changed(first if one is None else one, lambda text: complete(text, column)) for one in texts]
    told: dict[str, object] = {"templates": made} if isinstance(several, list) else {"template": made[0]}
    if given.get("labels") is None:
        label = str(given.get("label_column") or "label")
        check_columns(replace(table, header=table.header or ""), [label])
        cells = [row.get(str(table.column(label))) for row in table.rows]
        found = {str(value).strip() for value in cells if value is not None and str(value).strip()}
        told["labels"] = {nfc(each): _spoken(each) for each in table.classes.get(label) or sorted(found)}
    return told


def names_in(file: Path) -> dict[str, object]:
    """Classes and their names out of a file.

    Args:
        file: JSON, an object of label -> name (or several) or a list of names, or text with a name on each line.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        found = (
            json.loads(text) if file.suffix.lower() == ".json" else [*filter(None, map(str.strip, text.split("\n")))]
        )
    except (OSError, ValueError) as error:
        raise DataError(f"labels: {file} cannot be read as names of classes ({error})") from None
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        return {nfc(name): _spoken(name) for name in found}
    if isinstance(found, dict):
        return found
    raise DataError(f"labels: {file} holds neither an object of label and name nor a list of names")


def _spoken(label: str) -> str:
    """The name of a class as a text has it."""
    return " ".join(nfc(label).replace("_", " ").split())


def is_folder(source: str | Path) -> bool:
    """Whether a folder lies there; what can be no path is none."""
    try:
        return Path(source).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):
        return False

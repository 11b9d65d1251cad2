"""The documentation says what the code does."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
from pathlib import Path

import pytest

import small
import tiny
from tandemtune import plugins
from tandemtune.config import load_config, recipes
from tandemtune.config.parts import PARTS
from tandemtune.config.reference import reference
from tandemtune.methods import METHODS

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_reference_of_recipes_is_current() -> None:
    assert reference() in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_how_many_models_write_as_generate_does() -> None:
    said = f"{len(tiny.CAUSAL)} causal and {len(tiny.SEQ2SEQ)} sequence-to-sequence tiny models"
    for page in ("README.md", "docs/generation.md", "docs/architectures.md"):
        assert said in (ROOT / page).read_text(encoding="utf-8")


def test_links_between_pages_lead_somewhere() -> None:
    links = [
        (page, *target.partition("#")[::2])
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert len(links) >= 5
    assert [(page.name, target) for page, target, _ in links if not (page.parent / target).exists()] == []
    to_headings = [(page, page.parent / target if target else page, anchor) for page, target, anchor in links if anchor]
    assert len(to_headings) >= 5
    assert [(page.name, at.name, anchor) for page, at, anchor in to_headings if anchor not in anchors(at)] == []


def test_links_that_lead_elsewhere_are_addresses() -> None:
    """Nobody follows them here; `make docs` lists them."""
    links = runpy.run_path(str(ROOT / "docs" / "links.py"))
    found = links["external"]()
    assert len(found) >= 10 and "README.md" in {page for pages in found.values() for page in pages}
    assert [address for address in found if not links["sound"](address)] == []
    assert not links["sound"]("https:/example.org") and not links["sound"]("http://example.org")


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_site_has_every_page() -> None:
    told = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert len(pages) >= 15
    assert [page for page in pages if not re.search(rf"(- |: ){re.escape(page)}$", told, re.MULTILINE)] == []


def test_pictures_are_there_and_fetch_nothing() -> None:
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    made = set((ROOT / "docs" / "pictures").resolve().glob("*.svg"))
    assert shown == made
    for picture in made:
        assert not re.findall(r"(?:href=|src=|url\()[\"']?(?:https?:)?//", picture.read_text(encoding="utf-8"))


def test_the_recipe_in_the_readme_is_a_recipe(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    path = tmp_path / "readme.toml"
    path.write_text(blocks[0], encoding="utf-8")
    assert load_config(path).method.name == "auto"


def test_every_packaged_recipe_is_complete() -> None:
    found = recipes()
    assert len(found) >= 3
    for path in found.values():
        load_config(path)


def test_commands_in_the_readme_exist() -> None:
    from typer.main import get_command

    from tandemtune.cli import beginning, comparing, looking, running, using  # noqa: F401
    from tandemtune.cli.app import app

    named = set(re.findall(r"^tandemtune (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) >= 6
    assert named <= set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("noun", [noun for parts in PARTS.values() for noun in parts])
def test_the_options_of_every_member_can_be_listed(noun: str) -> None:
    for name, member in plugins.members(noun).items():
        called = small.call("ls", f"{noun}s", name)
        assert called.code == 0, called.err
        options = [key for key, field in member.model_fields.items() if not field.exclude]
        rows = [line.split("\t") for line in called.out.splitlines()]
        assert [row[0] for row in rows] == (options or ["no options"])
        assert all(len(row[2]) > 5 for row in rows if options), name


def test_values_of_a_setting_stand_where_it_is_explained() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for words in (
        "how the learning rate falls (one of constant, linear, cosine)",
        "(one of auto, float32, mixed, bfloat16, float16)",
        "(one of always, if_better, metropolis)",
    ):
        assert words in page
    assert "constant, linear, cosine" in small.call("ls", "optimizers", "adamw").out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_page_begins_with_its_title(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# \w", text), "a page that is shown begins with one line of the first order"
    assert len(text.partition("\n## ")[0].splitlines()) > 2, "and says what it is about"


def test_python_in_the_documents_can_be_read_and_its_names_exist() -> None:
    blocks = [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    ]
    assert len(blocks) > 12
    named = []
    for page, block in blocks:
        for node in ast.walk(ast.parse(block, page)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "tandemtune":
                home = importlib.import_module(str(node.module))
                named += [(page, one.name, hasattr(home, one.name)) for one in node.names]
    assert len(named) > 12 and [one for one in named if not one[2]] == []


def test_options_in_the_documents_exist() -> None:
    from typer.main import get_command

    from tandemtune.cli import beginning, comparing, looking, running, using  # noqa: F401
    from tandemtune.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = [
        (page.name, found[1], option)
        for page in PAGES
        for found in re.finditer(
            r"(?:^|`)\s*tandemtune (\w+)([^`\n#]*)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", found[2])
    ]
    assert len(shown) > 40
    known = {name: {option for one in command.params for option in one.opts} for name, command in commands.items()}
    assert [one for one in shown if one[1] not in known or one[2] not in known[one[1]]] == []


def test_tables_have_as_many_cells_as_their_heads() -> None:
    lines = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) > 100
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != 4] == []


def test_what_a_method_uses_its_rows_for_is_said_of_each():
    said = (
        (ROOT / "docs" / "methods.md")
        .read_text(encoding="utf-8")
        .partition("### What each uses the labelled rows for")[2]
    )
    rows = [line.split("|")[1] for line in said.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([^`]+)`", " ".join(rows))) == sorted(METHODS)

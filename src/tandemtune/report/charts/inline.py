"""A drawing as part of a page: in its colours and its font, with ids of its own."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING

from markupsafe import Markup

from tandemtune.report.charts.drawing import INK, PAPER
from tandemtune.report.page import LIGHT

if TYPE_CHECKING:
    pass

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_FONT = re.compile(r"(font: [^;]*?|font-family: )'[^;]*")
_PLACES = ("d", "x", "y", "points", "transform")
_INKS = {
    **{colour: f"var(--series-{place},{colour})" for place, colour in enumerate(LIGHT, 1)},
    INK: "currentColor",
    PAPER: "var(--paper,#ffffff)",
}


def inline(content: bytes, title: str, description: str) -> tuple[Markup, str]:
    """matplotlib's file as an element of a page: named, in the page's colours, with ids of its own. Texts stay as they are."""
    root = ElementTree.fromstring(content)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _restyle(element)
    size = root.get("viewBox", "").split()[2:]
    drawing = "".join(ElementTree.tostring(child, encoding="unicode") for child in root)
    key = f"chart-{hashlib.sha256(repr((title, description, size, drawing)).encode()).hexdigest()[:12]}"
    _rename(root, key)
    root.attrib = {
        "xmlns": _SVG[1:-1],
        "width": f"{float(size[0]):.0f}",
        "height": f"{float(size[1]):.0f}",
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-labelledby": f"{key}-t {key}-d",
    }
    for place, (name, said) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(name, {"id": f"{key}-{name[0]}"})
        element.text = said
        root.insert(place, element)
    for element in root.iter():
        element.tail = None if element is root else "\n"
    return Markup(ElementTree.tostring(root, encoding="unicode")), key


def _restyle(element: ElementTree.Element) -> None:
    """A page's colours and font in the styles of an element, and places to a hundredth."""
    style = element.get("style")
    if style is not None:
        style = _FONT.sub(r"\1system-ui, sans-serif", style)
        element.set("style", re.sub("#[0-9a-f]{6}", lambda found: _INKS.get(found[0], found[0]), style))
    for name in _PLACES:
        if name in element.attrib:
            short = re.sub(r"(\.\d\d)\d+", r"\1", element.attrib[name])
            element.set(name, " ".join(short.split()))


def _rename(root: ElementTree.Element, key: str) -> None:
    """Ids that begin with `key` for what is referred to, and none for the rest."""
    used: dict[str, str] = {}

    def new(name: str) -> str:
        return used.setdefault(name, f"{key}-{len(used)}")

    for element in root.iter():
        if _HREF in element.attrib:
            element.set("href", "#" + new(element.attrib.pop(_HREF).removeprefix("#")))
        clip = element.get("clip-path")
        if clip is not None:
            element.set("clip-path", f"url(#{new(clip[5:-1])})")
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", used[name])

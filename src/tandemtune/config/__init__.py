"""Recipes: TOML (or Python values) plus ``key=value`` overrides become one checked configuration.

`schema`     the sections and their own settings; what parts know of theirs, they say themselves
`reading`    reads recipes, gives every setting to its owner, and reports all problems at once
`reference`  every setting as Markdown
"""

from tandemtune.config.reading import load_config, recipes
from tandemtune.config.schema import RunConfig

__all__ = ["RunConfig", "load_config", "recipes"]

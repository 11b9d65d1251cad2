"""Recipes: TOML (or Python values) plus ``key=value`` overrides become one checked configuration.

`parts`      how a part is named; what parts know of their settings, they say themselves
`model`, `task`, `method`, `alternate`, `run`   the sections (`alternate` has the mentor's, too)
`schema`     the whole recipe
`reading`    reads recipes, gives every setting to its owner, and reports all problems at once
`reference`  every setting as Markdown
"""

from tandemtune.config.reading import load_config, recipes
from tandemtune.config.schema import RunConfig

__all__ = ["RunConfig", "load_config", "recipes"]

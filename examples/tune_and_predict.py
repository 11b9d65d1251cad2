"""Tune a real model on real movie reviews in closed form, then use it.

python examples/tune_and_predict.py [FOLDER] [section.key=value ...]
"""

from __future__ import annotations

import sys

from tandemtune import tune

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/example"
run = tune("quickstart", out=folder, overrides=sys.argv[2:])
assert run.result is not None  # `tune` returns a finished run
print("test accuracy:", run.result.zero_shot.test, "->", run.result.tuned.test)

for text in ("a warm , funny and moving film", "two hours that i will never get back"):
    print(text, "->", run.predict([text])[0])

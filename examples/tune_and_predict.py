"""Tune a real model on real movie reviews with forward passes only, then use it.

python examples/tune_and_predict.py [FOLDER] [section.key=value ...]
"""

from __future__ import annotations

import sys

from tandemtune import load, tune

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/example"
result = tune("quickstart", out=folder, overrides=sys.argv[2:])
print("test accuracy:", result["zero_shot"]["test"], "->", result["tuned"]["test"])

model = load(folder)
for text in ("a warm , funny and moving film", "two hours that i will never get back"):
    print(text, "->", model.predict([text])[0])

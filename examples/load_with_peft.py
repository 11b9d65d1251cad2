"""Use a run's adapter with PEFT alone, without TandemTune's engine.

python examples/load_with_peft.py RUN_FOLDER
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tandemtune.models.load import locate

run = Path(sys.argv[1])
card = json.loads((run / "task_card.json").read_text(encoding="utf-8"))
recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
place = locate(recipe["model"]["name"])  # the very weights: card["base_model"] is what a model hub calls them
tokenizer = AutoTokenizer.from_pretrained(place)
model = PeftModel.from_pretrained(
    AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32), run / "adapter"
).eval()

prompt = card["template"].replace("{text}", "a warm , funny and moving film").replace("{mask}", "").rstrip(" ")
with torch.inference_mode():
    logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
scores = {
    label: sum(float(logits[i]) for i in tokenizer.convert_tokens_to_ids(pieces)) / len(pieces)
    for label, pieces in card["pieces"].items()
}
if card["calibrated"]:  # the run's scores are after contextual calibration: divide by the answer to empty inputs
    scores = {label: score - math.log(card["prior"][label]) for label, score in scores.items()}
print(max(scores, key=scores.__getitem__), scores)

"""Ask what a run left with PEFT alone, without TandemTune's engine. For runs of a causal model whose adapter PEFT has a form of, or whose
readout is one of the output embedding (the quickstart's): LoRA, a prompt at the input, `readout`.

python examples/load_with_peft.py RUN_FOLDER [TEXT]
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

run, text = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "a warm , funny and moving film"
card = json.loads((run / "task_card.json").read_text(encoding="utf-8"))
recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
adapters = [
    place for place in (run / "adapter", run / "adapter" / "readout") if (place / "adapter_config.json").is_file()
]
if not adapters or ((run / "adapter" / "readout").is_dir() and run / "adapter" / "readout" not in adapters):
    sys.exit(f"PEFT has no form of what {run} found: see {run / 'adapter' / 'README.md'}")

place = locate(recipe["model"]["name"])  # the very weights: card["base_model"] is what a model hub calls them
tokenizer = AutoTokenizer.from_pretrained(place)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32), adapters[0])
for other in adapters[1:]:
    model.load_adapter(other, adapter_name=other.name)
    model.base_model.set_adapter(["default", other.name])
model.eval()

prompt = card["template"].replace("{text}", text).replace("{mask}", "").rstrip(" ")
with torch.inference_mode():
    logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
scores = {
    label: sum(float(logits[i]) for i in tokenizer.convert_tokens_to_ids(pieces)) / len(pieces)
    for label, pieces in card["pieces"].items()
}
if card["label_bias"]:  # what of a readout is no change of the output embedding
    scores = {label: score + card["label_bias"][label] for label, score in scores.items()}
elif card["calibrated"]:  # the run's scores are after contextual calibration: divide by the answer to empty inputs
    scores = {label: score - math.log(card["prior"][label]) for label, score in scores.items()}
print(max(scores, key=scores.__getitem__), json.dumps(scores))

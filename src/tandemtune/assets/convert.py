"""GGUF weights to an ordinary folder: float32 safetensors, tokenizer and chat template.

The work runs in a child process that is told to stay offline before any library is loaded; a switch set
later would come too late in a process that has them loaded already. Its memory goes away with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tandemtune.errors import AssetError

_CHILD = """
import sys
from pathlib import Path
from tandemtune.assets.convert import write_folder
write_folder(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def convert(gguf: Path, out: Path) -> None:
    """Turn one GGUF file into a folder that loads without it, in a child process and offline.

    Args:
        gguf: the weight file.
        out: an existing folder to write to.

    Raises:
        AssetError: the file could not be converted.
    """
    package_root = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": search}
    child = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD, str(gguf), str(out)],
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode:
        raise AssetError(_explain(gguf, child.returncode, child.stderr))


def _explain(gguf: Path, code: int, stderr: str) -> str:
    if "No space left on device" in stderr:
        return "the disk became full while the model was converted; free some space and try again"
    if code < 0:
        return (
            f"the conversion of {gguf.name} was stopped by signal {-code}; "
            "often the memory was too small (it needs about three times the float32 weights)"
        )
    tail = "\n".join(stderr.strip().splitlines()[-4:])
    return f"{gguf.name} could not be converted; the converter said:\n{tail}"


def write_folder(gguf: Path, out: Path) -> None:
    """Read a GGUF file and save model and tokenizer as an ordinary folder (in this process).

    Args:
        gguf: the weight file.
        out: folder to write to.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)

    # A model that was read from GGUF counts as quantized and cannot be saved: move its weights over.
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    plain = type(loaded)(type(loaded.config).from_dict(settings))
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    plain.to(torch.float32).save_pretrained(out)
    tokenizer.save_pretrained(out)

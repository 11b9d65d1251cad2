"""TandemTune: tune pretrained models in closed form, with forward passes only, with gradients, or with an optimizer and a language model
in turns; what comes back is an ordinary PEFT adapter wherever PEFT has one of that form.

    from tandemtune import load, tune

    run = tune("quickstart", out="runs/quickstart")
    run.predict(["a moving film"])

Importing the package costs no torch: the names below are looked up when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "api": ("Comparison", "Run", "compare", "finish", "load", "resume", "tune"),
    "predict": ("Prediction", "TunedModel"),
    "callbacks": ("Callback",),
    "plugins": ("register",),
    "errors": (
        "AssetError",
        "ConfigError",
        "DataError",
        "MentorError",
        "ModelError",
        "RunError",
        "TandemTuneError",
        "UsageError",
    ),
    "optimizers.cmaes": ("CMAES",),
    "optimizers.es": ("ES",),
    "optimizers.fireworks": ("Fireworks",),
    "optimizers.fzoo": ("FZOO",),
    "optimizers.genetic": ("Genetic",),
    "optimizers.gradient": ("SGD", "Adam", "AdamW"),
    "optimizers.guided": ("GuidedMeZO",),
    "optimizers.random_search": ("RandomSearch",),
    "optimizers.spsa": ("SPSA",),
    "tunables.adapter": ("BottleneckAdapter",),
    "tunables.beside": ("LoRAWithPrompt",),
    "tunables.bias": ("Biases",),
    "tunables.class_prompt": ("ClassPrompt",),
    "tunables.demonstrations": ("InContext",),
    "tunables.full": ("FullWeights",),
    "tunables.lora": ("LoRA",),
    "tunables.peft": ("PEFT",),
    "tunables.prompt": ("DeepPrompt", "SoftPrompt", "TextPrompt"),
    "subspace": ("RandomSubspace", "WholeSpace"),
    "objectives.black_box": ("OneMinusAccuracy", "OneMinusF1", "OneMinusMetric"),
    "objectives.cross_entropy": ("CrossEntropy",),
    "objectives.hinge": ("Hinge",),
    "objectives.reward": ("MinusReward",),
    "readout.members": ("AffineReadout", "BiasReadout", "KernelReadout", "LogisticReadout", "RidgeReadout"),
    "executors.local": ("LocalExecutor",),
    "executors.ray": ("RayExecutor",),
    "proposers.mentored": ("MentorProposer",),
    "proposers.mutation": ("MutationProposer",),
    "proposers.perturbed": ("PerturbedProposer",),
    "proposers.random_words": ("RandomProposer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"tandemtune.{_HOME[name]}"), name)
    raise AttributeError(f"module 'tandemtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

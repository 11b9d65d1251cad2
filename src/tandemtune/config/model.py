"""The section of the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tandemtune.config.checks import asset_problems, raise_all
from tandemtune.plugins import Options


class ModelSection(Options):
    """[model]: which backbone, and how it is held."""

    name: Annotated[str, Field(min_length=1, description="pypi:KEY, a local folder or a hub id")]
    kind: Literal["masked", "causal", "seq2seq", "image-text"] | None = Field(
        None, description="masked, causal, seq2seq or image-text; read from the model if left out"
    )
    dtype: Literal["auto", "float32", "mixed", "bfloat16", "float16"] = Field(
        "auto", description="format of the frozen weights; auto measures which is faster here"
    )
    quantize: Literal["int8", "nf4"] | None = Field(
        None, description="int8 or nf4 keeps the layers' weights in 8 bits (needs torchao) or in 4 (needs bitsandbytes)"
    )
    device: Annotated[str, Field(min_length=1, description="auto, cpu, cuda, mps")] = "auto"
    target: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="modules inside layers to tune, by their paths or the ends of these, each in the layers that have it; "
        "all-linear for every linear map there; query and key if left out",
    )
    revision: str | None = Field(None, description="hub revision")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="processor threads; OMP_NUM_THREADS or those really given if left out"
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether what layers do between matrix products is compiled for scoring candidates; auto tries it where "
        "a search with 16-bit products will take minutes, and keeps it if it is faster",
    )

    tf32: bool = Field(
        False,
        description="on an NVIDIA GPU, multiply float32 matrices in TF32: about as exact as 16-bit products, several times as fast "
        "as float32's own",
    )

    @model_validator(mode="after")
    def _known_asset(self) -> ModelSection:
        raise_all(asset_problems(self.name, "model", "image-text"))
        return self

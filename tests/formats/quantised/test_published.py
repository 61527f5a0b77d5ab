"""Every kind of copy is read as the tensors that its model was published with, in the values that its writer gave."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redraft.errors import CheckpointError
from redraft.formats import source
from redraft.kernels.whole_numbers import WholeNumbers
from tests.quantised_copies import KINDS, MODELOPT_NVFP4, WEIGHTS, Copy, change_config, fuse_experts

CopyOf = Callable[[str], Copy]
EXPERTS = "model.decoder.layers.0.experts.gate_up_proj"


def values(read: torch.Tensor | WholeNumbers) -> torch.Tensor:
    return read.values() if isinstance(read, WholeNumbers) else read.float()


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_is_read_as_the_dense_tensors_that_its_writer_says_it_stands_for(name: str, copy_of: CopyOf):
    """By name and shape from headers alone; whole; and some rows of one matrix, which are the same."""
    copy = copy_of(name)
    dense, stored = load_file(copy.dense / WEIGHTS), source.stored_tensors(copy.folder)
    assert {one: tensor.shape for one, tensor in stored.items()} == {one: tuple(t.shape) for one, t in dense.items()}
    with source.reading(stored) as read:
        for one, expected in dense.items():
            found = read(one)
            assert found.dtype == stored[one].dtype
            assert torch.equal(found.float(), expected), one
            if expected.ndim < 2:
                continue
            last = expected.shape[0] - 1 if expected.ndim == 3 else 0
            own, rows = expected[last] if expected.ndim == 3 else expected, torch.tensor([own_last(expected), 0, 2])
            assert torch.equal(values(read.rows(one, last, rows)), own[rows])
            assert torch.equal(values(read.rows(one, last, slice(1, 3))), own[1:3])


@pytest.mark.parametrize("name", ["W4A16", "FP8 in blocks", "MLX 4-bit"])
def test_a_long_tensor_is_decoded_in_parts_as_at_once(name: str, copy_of: CopyOf, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("redraft.formats.quantised.matrices._AT_A_TIME", 700)
    copy = copy_of(name)
    dense = load_file(copy.dense / WEIGHTS)
    with source.reading(source.stored_tensors(copy.folder)) as read:
        assert all(torch.equal(read(one).float(), dense[one]) for one in dense if "layers.0." in one)


def own_last(tensor: torch.Tensor) -> int:
    """The number of the last row of a matrix: a stack's first part does not have it."""
    return tensor.shape[-2] - 1


@pytest.mark.parametrize("name", KINDS)
def test_headers_say_what_a_matrix_is_stored_as_and_what_holds_its_numbers(name: str, copy_of: CopyOf):
    copy, kind = copy_of(name), KINDS[name]
    stored = source.stored_tensors(copy.folder)
    quantised = fuse_experts({one: torch.empty(1, 1) for one in copy.quantised}) if kind.split else copy.quantised
    assert {one for one, tensor in stored.items() if tensor.quantised is not None} == set(quantised)
    for one in quantised:
        grid = stored[one].grid
        assert stored[one].quantised == kind.label
        assert (None if grid is None else grid.kept_as) == kind.kept_as
        if kind.kept_as is not None:
            assert grid is not None
            assert grid.exact_in(kind.kept_as) is kind.exact


@pytest.mark.parametrize("name", ["FP8", "W4A16", "modelopt NVFP4"])
def test_the_parts_of_experts_may_lie_in_many_files(name: str, copy_of: CopyOf, tmp_path: Path):
    """Published copies are cut into files anywhere: between a weight and its scale, too."""
    copy = copy_of(name)
    whole, folder = source.stored_tensors(copy.folder), tmp_path / "sharded"
    shutil.copytree(copy.folder, folder, ignore=shutil.ignore_patterns(WEIGHTS))
    state = load_file(copy.folder / WEIGHTS)
    names = {one: f"part-{number % 3}.safetensors" for number, one in enumerate(sorted(state))}
    for file in set(names.values()):
        save_file({one: state[one] for one in state if names[one] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    stored = source.stored_tensors(folder)
    assert len(stored[EXPERTS].files) == 3
    with source.reading({EXPERTS: stored[EXPERTS]}) as sharded, source.reading(whole) as read:
        assert torch.equal(sharded(EXPERTS), read(EXPERTS))


def test_static_scales_of_activations_keys_and_values_are_not_read(copy_of: CopyOf, tmp_path: Path):
    """They say how others would round what is computed in more bits here."""
    folder = shutil.copytree(copy_of("NVFP4").folder, tmp_path / "static")
    state = load_file(folder / WEIGHTS)
    layer = "model.decoder.layers.0.self_attn"
    state |= {f"{layer}.q_proj.input_global_scale": torch.tensor([2.0]), f"{layer}.k_scale": torch.tensor(0.5)}
    save_file(state, folder / WEIGHTS)
    assert source.stored_tensors(folder).keys() == source.stored_tensors(copy_of("NVFP4").folder).keys()


def test_the_configuration_reads_as_that_of_the_model_it_was_made_of(copy_of: CopyOf, tmp_path: Path):
    """Whatever is made of a copy is no copy of that kind."""
    copy = copy_of("FP8")
    plain = source.read_config(copy.dense)
    assert source.read_config(copy.folder) == plain
    nested = shutil.copytree(copy.dense, tmp_path / "nested")
    change_config(nested, lambda config: config["text_config"].update(quantization_config=MODELOPT_NVFP4))
    assert source.read_config(nested) == plain


def test_modelopts_configuration_may_lie_beside_the_models(copy_of: CopyOf, tmp_path: Path):
    """As older copies have it: a file of its own, with other names for what is not quantised."""
    copy = copy_of("modelopt NVFP4")
    folder = shutil.copytree(copy.folder, tmp_path / "beside")
    change_config(folder, lambda config: config.pop("quantization_config"))
    with pytest.raises(CheckpointError, match=r"stored as .* no quantization_config says what for"):
        source.stored_tensors(folder)
    beside = {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": MODELOPT_NVFP4["ignore"]}
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": {}, "quantization": beside}))
    stored = source.stored_tensors(folder)
    with source.reading(stored) as read, source.reading(source.stored_tensors(copy.folder)) as expected:
        assert torch.equal(read(EXPERTS), expected(EXPERTS))

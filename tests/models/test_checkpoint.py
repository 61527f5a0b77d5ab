"""What ``transformers`` saves loads here with the same logits, and the other way round; every damage is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion

import redraft
from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound
from redraft.errors import CheckpointError
from redraft.models import checkpoint
from redraft.models.base import GenerationDefaults
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.family import PlainModel
from tests.models.driving import denoise, encoded, read
from tests.random_checkpoint import END_TOKEN_IDS, random_checkpoint, reference_model

WEIGHTS, INDEX, CONFIG, GENERATION = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
)
TEMPERATURE = 0.7
# Longer than the sliding window, so that the cache's window policy counts.
PROMPT = torch.randint(0, 64, (1, 21), generator=torch.Generator().manual_seed(1))
CANVASES = torch.randint(0, 64, (2, 1, 8), generator=torch.Generator().manual_seed(2))


def two_steps(model: PlainModel) -> list[Tensor]:
    """Logits of two denoising steps after a prompt, the second one conditioned on the first."""
    cache = encoded(model, PROMPT[0])
    hidden = denoise(model, CANVASES[0, 0], cache)
    soft = read(model, hidden, TEMPERATURE).self_conditioning
    assert soft is not None
    return [model.logits(hidden), model.logits(denoise(model, CANVASES[1, 0], cache, soft))]


@torch.inference_mode()
def reference_two_steps(model: DiffusionGemmaForBlockDiffusion) -> list[Tensor]:
    first = model(input_ids=PROMPT, decoder_input_ids=CANVASES[0]).logits
    second = model(input_ids=PROMPT, decoder_input_ids=CANVASES[1], self_conditioning_logits=first / TEMPERATURE)
    return [first[0], second.logits[0]]


def assert_same_logits(model: PlainModel, reference: DiffusionGemmaForBlockDiffusion) -> None:
    for own, expected in zip(two_steps(model), reference_two_steps(reference), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-4)


def assert_same_state(one: PlainModel, other: PlainModel) -> None:
    state, other_state = one.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    assert all(torch.equal(value, other_state[name]) for name, value in state.items())


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


class TestLoad:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("shard_bytes", [None, 20_000], ids=["one file", "shards"])
    @pytest.mark.parametrize("dialect", ["per_layer_config", "global_head_dim"])
    def test_logits_are_the_references(self, tmp_path, dialect, shard_bytes, dtype):
        folder = random_checkpoint(tmp_path, dialect=dialect, shard_bytes=shard_bytes, dtype=dtype)
        assert (folder / INDEX).exists() == (shard_bytes is not None)
        assert_same_logits(checkpoint.read(folder).load("float32"), reference_model(folder))

    @pytest.mark.parametrize(
        "shape",
        [
            {"layer_types": ["full_attention"]},
            {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "num_global_key_value_heads": 4},
            {"sliding_window": 64, "head_dim": 16, "global_head_dim": 8},
            {"num_experts": 6, "top_k": 1},
            {"layer_types": [*["sliding_attention"] * 5, "full_attention"] * 2},  # saved as layers "05" and "11"
        ],
        ids=str,
    )
    def test_other_shapes(self, tmp_path, shape):
        folder = random_checkpoint(tmp_path, seed=3, **shape)
        assert_same_logits(checkpoint.read(folder).load(), reference_model(folder))

    def test_the_encoders_own_layer_scalars_are_loaded(self, plain):
        model = checkpoint.read(plain).load()
        assert isinstance(model, DiffusionGemma)
        for layer in model.layers:
            assert layer.layer_scalar != layer.encoder_layer_scalar

    @pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
    def test_every_tensor_has_the_wanted_dtype(self, plain, wanted):
        state = checkpoint.read(plain).load(wanted).state_dict()
        assert {value.dtype for value in state.values()} == {getattr(torch, wanted)}

    def test_an_option_that_the_family_does_not_have_is_refused_by_name(self, plain):
        found = checkpoint.read(plain)
        with pytest.raises(CheckpointError, match=r"no option 'block_length'.*it has window_policy"):
            found.load(options={"block_length": 4})
        with pytest.raises(
            CheckpointError, match="window_policy 'wide' is not supported; choose one of 'shared', 'per"
        ):
            found.load(options={"window_policy": "wide"})

    def test_unknown_dtype_is_refused(self, plain):
        with pytest.raises(CheckpointError, match=r"'float8'.*'bfloat16'"):
            checkpoint.read(plain).load("float8")  # type: ignore[arg-type]

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the kernel's list of mappings")
    def test_tensors_in_the_wanted_dtype_stay_in_their_files(self, tmp_path, plain):
        folder = random_checkpoint(tmp_path, dtype=torch.bfloat16)
        model = checkpoint.read(folder).load("bfloat16")
        assert {mapped_file(value) for value in model.state_dict().values()} == {str(folder / WEIGHTS)}

    def test_vision_and_tied_copies_are_tolerated_and_listed(self, tmp_path, plain):
        folder = copy(plain, tmp_path)

        def add_copies(tensors: dict[str, Tensor]) -> None:
            tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()
            norm = tensors["model.decoder.norm.weight"].clone()
            tensors["model.encoder.language_model.norm.weight"] = norm

        edit_tensors(folder, add_copies)
        found = checkpoint.read(folder)
        assert {"lm_head.weight", "model.encoder.language_model.norm.weight"} <= found.unused.keys()
        assert any(name.startswith("model.encoder.vision_tower.") for name in found.unused)
        assert_same_logits(found.load(), reference_model(plain))


def mapped_file(tensor: Tensor) -> str | None:
    """The file that a tensor's memory is mapped from."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = [*line.split(maxsplit=5), ""][:6]
        low, high = (int(address, 16) for address in span.split("-"))
        if low <= tensor.data_ptr() < high:
            return path.strip() or None
    return None


class TestSave:
    @pytest.mark.parametrize("dialect", ["per_layer_config", "global_head_dim"])
    def test_transformers_loads_what_is_saved(self, tmp_path, dialect):
        original = random_checkpoint(tmp_path / "original", dialect=dialect)
        model = checkpoint.read(original).load()
        checkpoint.save(model, tmp_path / "saved", torch.float32)
        reference, report = DiffusionGemmaForBlockDiffusion.from_pretrained(
            tmp_path / "saved", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not [name for name in report["missing_keys"] if "vision" not in name]
        assert not report["unexpected_keys"]
        assert not report["mismatched_keys"]
        assert_same_logits(model, reference.eval())

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_round_trip_changes_nothing(self, tmp_path, dtype):
        generation = {"t_max": 0.9, "max_denoising_steps": 7, "sampler_config": {"entropy_bound": 0.25}}
        original = checkpoint.read(random_checkpoint(tmp_path / "original", generation=generation))
        model = original.load(dtype)
        tokenizer = original.path / "tokenizer.json"
        checkpoint.save(model, tmp_path / "saved", getattr(torch, dtype), extra_files=[tokenizer])
        again = checkpoint.read(tmp_path / "saved")
        assert (again.config, again.defaults) == (original.config, original.defaults)
        assert not again.unused
        assert_same_state(again.load(dtype), model)
        assert (tmp_path / "saved" / tokenizer.name).read_bytes() == tokenizer.read_bytes()

    def test_over_the_file_that_the_model_is_mapped_from(self, tmp_path, plain):
        folder = copy(plain, tmp_path)
        model = checkpoint.read(folder).load("float32")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        checkpoint.save(model, folder, torch.float32)
        after = checkpoint.read(folder).load("float32").state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    def test_over_an_older_checkpoint_in_shards(self, tmp_path, sharded):
        folder = copy(sharded, tmp_path)
        model = checkpoint.read(random_checkpoint(tmp_path / "new", seed=5)).load()
        checkpoint.save(model, folder, torch.float32)
        assert_same_state(checkpoint.read(folder).load(), model)

    def test_rotary_factor_of_sliding_layers_survives(self, tmp_path, plain):
        folder = copy(plain, tmp_path)
        rope = {"rope_type": "proportional", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
        edit_json(folder / CONFIG, lambda c: c["text_config"]["rope_parameters"].__setitem__("sliding_attention", rope))
        original = checkpoint.read(folder)
        checkpoint.save(original.load(), tmp_path / "saved", torch.float32)
        again = checkpoint.read(tmp_path / "saved")
        assert isinstance(original.config, DiffusionGemmaConfig)
        assert isinstance(again.config, DiffusionGemmaConfig)
        assert again.config.layers == original.config.layers


NORM = "model.decoder.norm.weight"


def drop_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(NORM))


def add_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"model.decoder.norm.bias": torch.zeros(3)}))


def misshape_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({NORM: torch.zeros(31)}))


def store_integers(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({NORM: torch.zeros(32, dtype=torch.int8)}))


def cut_file(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-100])


def cut_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:50])


def write_garbage(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"<html>Too many requests</html>" * 10)


def empty_file(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def set_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / CONFIG, lambda config: config.update(values))


def set_text_config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / CONFIG, lambda config: config["text_config"].update(values))


def drop_text_config(name: str) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / CONFIG, lambda config: config["text_config"].pop(name))


def set_generation(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / GENERATION, lambda content: content.update(values))


ROPE = {"rope_type": "yarn", "rope_theta": 10_000.0}

# Values of a layer that there is not, and of fields that a text model cannot have.
LAYERS_OUTSIDE: list[dict[str, Any]] = [{"3": {"head_dim": 16}}, {"2": {}, "3": None}]
NO_VALUES: list[tuple[str, Any]] = [
    ("hidden_size", None),
    ("vocab_size", "64"),
    ("num_experts", None),
    ("top_k_experts", 5),
    ("head_dim", -8),
    ("sliding_window", 0),
    ("max_position_embeddings", None),
    ("rms_norm_eps", None),
    ("per_layer_config", []),
    ("rope_parameters", "default"),
]

# What is done to the folder, and what the message must say: where it is wrong, and what would work.
DAMAGES = [
    pytest.param(drop_tensor, [NORM, "missing", "download"], id="missing tensor"),
    pytest.param(add_tensor, [WEIGHTS, "model.decoder.norm.bias", "no place", "newer version"], id="extra tensor"),
    pytest.param(misshape_tensor, [WEIGHTS, NORM, "[31]", "[32]"], id="misshapen tensor"),
    pytest.param(store_integers, [WEIGHTS, NORM, "I8", "supported are F32, BF16, F16"], id="integer tensor"),
    pytest.param(cut_file, [WEIGHTS, "cut short", "download it again"], id="cut file"),
    pytest.param(cut_header, [WEIGHTS, "cut short", "download it again"], id="file cut in its header"),
    pytest.param(write_garbage, [WEIGHTS, "damaged", "download it again"], id="garbage"),
    pytest.param(empty_file, [WEIGHTS, "damaged", "download it again"], id="empty file"),
    pytest.param(remove(WEIGHTS), ["neither", WEIGHTS, INDEX, "missing"], id="no weights"),
    pytest.param(remove(CONFIG), [CONFIG, "is it a checkpoint folder?"], id="no configuration"),
    pytest.param(overwrite(CONFIG, "{,"), [CONFIG, "cannot be read", "line 1"], id="invalid JSON"),
    pytest.param(overwrite(CONFIG, "[]"), [CONFIG, "list", "not a JSON object"], id="JSON of another kind"),
    pytest.param(overwrite(GENERATION, "{,"), [GENERATION, "cannot be read"], id="invalid generation defaults"),
    pytest.param(
        set_config(architectures=["BertModel"]),
        [CONFIG, "BertModel", "supported are 'DiffusionGemmaForBlockDiffusion'"],
        id="other architecture",
    ),
    pytest.param(
        set_config(architectures=["LlamaForCausalLM"]),
        [CONFIG, "LlamaForCausalLM", "autoregressive", "redraft adapt"],
        id="autoregressive architecture",
    ),
    pytest.param(set_config(architectures=None), [CONFIG, "not supported"], id="no architecture"),
    pytest.param(set_config(text_config=None), [CONFIG, "text_config"], id="no text_config"),
    pytest.param(drop_text_config("hidden_size"), [CONFIG, "hidden_size"], id="missing field"),
    pytest.param(drop_text_config("sliding_window"), [CONFIG, "sliding_window"], id="missing window"),
    pytest.param(
        set_text_config(rope_parameters={"sliding_attention": ROPE, "full_attention": ROPE}),
        [CONFIG, "rope_parameters.sliding_attention", "yarn", "supported are"],
        id="rope_type",
    ),
    pytest.param(
        set_text_config(hidden_activation="silu"),
        [CONFIG, "hidden_activation", "'silu'", "expected 'gelu_pytorch_tanh'"],
        id="activation",
    ),
    pytest.param(
        set_text_config(use_bidirectional_attention="all"),
        [CONFIG, "use_bidirectional_attention", "'all'", "expected None or 'vision'"],
        id="bidirectional encoder",
    ),
    pytest.param(set_text_config(tie_word_embeddings=False), [CONFIG, "tie_word_embeddings"], id="untied head"),
    pytest.param(
        set_text_config(layer_types=["full_attention"]),
        [CONFIG, "1 layer_types", "num_hidden_layers = 3"],
        id="layer count",
    ),
    pytest.param(
        set_text_config(layer_types=["linear_attention"] * 3),
        [CONFIG, "layer_types[0]", "linear_attention", "expected"],
        id="layer type",
    ),
    pytest.param(
        set_generation(sampler_config={"_cls_name": "BestOfSamplerConfig"}),
        [GENERATION, "BestOfSamplerConfig"],
        id="sampler",
    ),
    # The reference undoes all ties where the outer field is false, and applies any field of per_layer_config.
    pytest.param(
        set_config(tie_word_embeddings=False),
        [CONFIG, "tie_word_embeddings"],
        id="untied model",
    ),
    pytest.param(
        set_text_config(per_layer_config={"0": {"sliding_window": 4}, "2": {"head_dim": 16, "num_key_value_heads": 1}}),
        [CONFIG, "per_layer_config", "sliding_window"],
        id="other field of a layer",
    ),
    *(
        pytest.param(set_text_config(per_layer_config=value), [CONFIG, "per_layer_config['3']"], id=f"layers {value}")
        for value in LAYERS_OUTSIDE
    ),
    pytest.param(
        set_text_config(per_layer_config={"2": 16}), [CONFIG, "per_layer_config['2']", "object"], id="layer no object"
    ),
    *(
        pytest.param(
            set_text_config(**{name: value}),
            [CONFIG, name],
            id=f"{name} = {value!r}",
        )
        for name, value in NO_VALUES
    ),
    pytest.param(
        set_config(canvas_length=-8),
        [CONFIG, "canvas_length"],
        id="canvas_length = -8",
    ),
    *(
        pytest.param(
            set_generation(**{name: value}),
            [GENERATION, name],
            id=f"{name} = {value!r}",
        )
        for name, value in [
            ("t_min", -1),
            ("t_max", "hot"),
            ("max_denoising_steps", 0),
            ("stability_threshold", -1),
            ("sampler_config", "entropy"),
        ]
    ),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_damage_is_named(tmp_path, plain, damage, words):
    folder = copy(plain, tmp_path)
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(folder)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def remove_shard(folder: Path) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def promise_tensor(folder: Path) -> None:
    first = sorted(folder.glob("model-*.safetensors"))[0].name
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"model.decoder.extra": first}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(remove_shard, ["model-00002-of-", "missing", "download"], id="missing shard"),
        pytest.param(promise_tensor, ["model-00001-of-", "model.decoder.extra", INDEX], id="shard lacks a tensor"),
        pytest.param(overwrite(INDEX, "{}"), [INDEX, "'weight_map'"], id="index without weight_map"),
        pytest.param(overwrite(INDEX, "{"), [INDEX, "cannot be read"], id="invalid index"),
        pytest.param(
            overwrite(INDEX, '{"weight_map": {"model.decoder.norm.weight": 1}}'),
            [INDEX, "weight_map"],
            id="index that names no files",
        ),
    ],
)
def test_damaged_shards_are_named(tmp_path, sharded, damage, words):
    folder = copy(sharded, tmp_path)
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        checkpoint.read(folder)
    assert all(word in str(error.value) for word in words), error.value


class TestFind:
    def test_a_folder_is_itself(self, plain):
        assert checkpoint.find(plain) == checkpoint.find(str(plain)) == plain

    def test_bundled_name(self):
        bundled = Path(redraft.__file__).parent / "bundled" / "sudoku"
        if not (bundled / CONFIG).exists():
            pytest.skip("no checkpoint is bundled")
        assert checkpoint.find("sudoku") == bundled

    @pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
    def test_a_file_is_refused(self, plain, name):
        with pytest.raises(
            CheckpointError, match="is a file, and no GGUF file by its name; pass the checkpoint's folder"
        ):
            checkpoint.find(plain / name)

    @pytest.mark.parametrize("name", ["nonsense", "a/b/c", "./a", "/no/such", "no such", "\0"])
    def test_nonsense_says_what_there_is(self, name):
        with pytest.raises(CheckpointError, match=r"no bundled name \(there are: .*owner/name"):
            checkpoint.find(name)

    @pytest.mark.parametrize(
        "name",
        [
            "redraft-tests/no-such-model",
            *(pytest.param(name) for name in ["owner/-name", "owner/a..b", "owner/" + "a" * 120]),
        ],
    )
    def test_hub_id_that_cannot_be_fetched(self, tmp_path, name):
        # The hub client reads its environment once, at import.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
            with pytest.raises(CheckpointError, match=r"could not be fetched.*Check the name.*local folder") as error:
                checkpoint.find(name)
        assert name in str(error.value)

    @pytest.mark.parametrize("name", ["~no-such-user", "a" * 300])
    def test_name_that_no_file_can_have(self, name):
        with pytest.raises(CheckpointError):
            checkpoint.find(name)


class TestGenerationDefaults:
    @pytest.mark.parametrize("change", [remove(GENERATION), overwrite(GENERATION, "{}"), set_generation()])
    def test_absent_and_null_fields_fall_back(self, tmp_path, plain, change):
        folder = copy(plain, tmp_path)
        change(folder)
        assert checkpoint.read(folder).defaults == GenerationDefaults(end_token_ids=END_TOKEN_IDS)

    def test_fields_are_read(self, tmp_path):
        stated: dict[str, Any] = {"max_denoising_steps": 3, "t_max": 0.9, "t_min": 0.2, "stability_threshold": 2}
        generation = {
            **stated,
            "confidence_threshold": 0.5,
            "sampler_config": {"entropy_bound": 1.5},
            "eos_token_id": 9,
        }
        defaults = checkpoint.read(random_checkpoint(tmp_path, generation=generation)).defaults
        assert defaults == GenerationDefaults(**stated, confidence_threshold=0.5, entropy_bound=1.5, end_token_ids=(9,))

    def test_max_new_tokens_does_not_cut_answers(self, tmp_path):
        """The released checkpoint says 256, which would cut every longer answer."""
        generation = {"max_new_tokens": 3, "eos_token_id": [], "max_denoising_steps": 1}
        folder = random_checkpoint(tmp_path, context_length=32, generation=generation)
        result = redraft.load(folder).generate([2, 20, 21], seed=0)
        assert result.usage.completion_tokens == 32 - 3

    def test_the_rule_of_acceptance_is_the_entropy_bound_unless_a_family_has_its_own(self):
        assert GenerationDefaults(entropy_bound=0.7).acceptance_rule == EntropyBound(0.7)
        own = ConfidenceThreshold(0.8)
        assert GenerationDefaults(acceptance=own).acceptance_rule is own

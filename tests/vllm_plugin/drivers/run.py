"""Run in an environment with vLLM (script/vllm): requests through vLLM's own engine, and the same through ours.

``python run.py parity|many|plain FOLDER`` writes what came of it to FOLDER as JSON, and ends with an error where it is
not what it must be. The checkpoint is a small one with random weights, in float32.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import torch

CANVAS, CONTEXT, WINDOW, VOCAB = 16, 256, 256, 384
PROMPT = [2, 300, 310, 290, 281]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "value": {"enum": [10, 20, None]}},
    "required": ["name", "value"],
    "additionalProperties": False,
}
NAMES = {"type": "array", "items": {"enum": ["the", "and", "é"]}, "minItems": 1, "maxItems": 4}


def checkpoint(folder: Path) -> Path:
    """Write the checkpoint, if it is not there yet."""
    from tests.random_checkpoint import random_checkpoint

    if not (folder / "config.json").exists():
        random_checkpoint(
            folder, vocab_size=VOCAB, hidden_size=64, layer_types=("sliding_attention", "full_attention"),
            sliding_window=WINDOW, num_attention_heads=2, num_key_value_heads=1, head_dim=32, global_head_dim=64,
            canvas_length=CANVAS, context_length=CONTEXT, letters=True,
            generation={
                "max_denoising_steps": 4, "eos_token_id": [1, 5], "stability_threshold": 1, "t_min": 0.4, "t_max": 0.8,
                "confidence_threshold": 0.005,
                "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
            },
        )  # fmt: skip
    return folder


def vllm_of(folder: Path, **more: Any) -> Any:
    from vllm import LLM

    return LLM(
        str(folder), dtype="float32", enforce_eager=True, max_num_seqs=8, max_model_len=CONTEXT, seed=0,
        limit_mm_per_prompt={"image": 0, "video": 0}, **more,
    )  # fmt: skip


def answers(llm: Any, asked: list[tuple[list[int], Any]]) -> list[Any]:
    prompts = [{"prompt_token_ids": prompt} for prompt, _ in asked]
    return [one.outputs[0] for one in llm.generate(prompts, [params for _, params in asked], use_tqdm=False)]


def cases() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Requests as vLLM has them, and as the engine has them."""
    from vllm.sampling_params import StructuredOutputsParams as Structured

    from redraft import Choice, JSONSchema, Regex, ReproducesCanvas, Template

    return [
        ({"seed": 1, "max_tokens": 40}, {}),
        ({"seed": 2, "max_tokens": 16, "temperature": 0.5}, {}),
        ({"seed": 3, "max_tokens": 33, "temperature": 0, "extra_args": {"diffusion_max_steps": 3}},
         {"max_denoising_steps": 3}),
        ({"seed": 4, "max_tokens": 20,
          "extra_args": {"redraft_entropy_bound": 3.0, "redraft_stopping": "reproduces",
                         "redraft_confidence_threshold": 2.0}},
         {"entropy_bound": 3.0, "stopping": ReproducesCanvas(2.0)}),
        ({"seed": 5, "max_tokens": 30, "presence_penalty": 1.5, "min_p": 0.01, "logit_bias": {300: 5.0}}, {}),
        ({"seed": 6, "max_tokens": 60, "structured_outputs": Structured(json=SCHEMA)},
         {"constraint": JSONSchema(SCHEMA)}),
        ({"seed": 7, "max_tokens": 40, "structured_outputs": Structured(regex="[a-z]{20}(yes|no)")},
         {"constraint": Regex("[a-z]{20}(yes|no)")}),
        ({"seed": 8, "max_tokens": 30, "structured_outputs": Structured(choice=["yes", "nothing of the kind"])},
         {"constraint": Choice(["yes", "nothing of the kind"])}),
        ({"seed": 9, "max_tokens": 40, "extra_args": {"redraft_template": "in {year} the end.",
                                                      "redraft_holes": '{"year": {"regex": "[0-9]{4}"}}'}},
         {"constraint": Template("in {year} the end.", _holes())}),
    ]  # fmt: skip


def _holes() -> dict[str, Any]:
    from redraft import Hole

    return {"year": Hole(regex="[0-9]{4}")}


def parity(folder: Path) -> dict[str, Any]:
    """The same tokens as the engine's for the same seed, all requests in one batch and prompts of several lengths."""
    from vllm import SamplingParams

    import redraft

    path, asked = checkpoint(folder / "checkpoint"), cases()
    prompts = [[*PROMPT, *range(280, 280 + 20 * number)] for number in range(len(asked))]
    llm = vllm_of(path)
    found = answers(llm, [(prompt, SamplingParams(**own)) for prompt, (own, _) in zip(prompts, asked, strict=True)])
    engine = redraft.load(path, dtype="float32", device="cpu")
    rows = []
    for prompt, (own, ours), output in zip(prompts, asked, found, strict=True):
        given = {name: value for name, value in own.items() if name not in ("extra_args", "structured_outputs")}
        wanted = engine.generate(prompt, **given, **ours)
        tokens = [token for token in output.token_ids if token not in (1, 5)]
        finish = [output.finish_reason, wanted.finish_reason]
        ours_said = list(wanted.token_ids)
        rows.append(
            {"asked": repr(own), "same": tokens == ours_said, "vllm": tokens, "engine": ours_said, "finish": finish}
        )
    return {"rows": rows, "failed": [row["asked"] for row in rows if not row["same"]]}


def many(folder: Path, count: int = 200) -> dict[str, Any]:
    """Constrained answers, a few plain ones among them: none invalid."""
    import re

    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams as Structured

    llm, chance = vllm_of(checkpoint(folder / "checkpoint")), random.Random(18)
    kinds = [
        ({"json": SCHEMA}, lambda text: jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text))),
        ({"json": NAMES}, lambda text: jsonschema.Draft202012Validator(NAMES).is_valid(json.loads(text))),
        ({"regex": "[a-c]{3}[0-9]{2,20}"}, lambda text: re.fullmatch("[a-c]{3}[0-9]{2,20}", text) is not None),
        ({"choice": ["yes", "no", "the other"]}, lambda text: text in ("yes", "no", "the other")),
    ]
    asked, judges = [], []
    for number in range(count):
        given, judge = chance.choice(kinds)
        seed, temperature = chance.randrange(2**32), chance.choice([0.0, 0.7, 1.0])
        params = SamplingParams(
            seed=seed,
            temperature=temperature,
            max_tokens=chance.choice([40, 60]),
            extra_args={"diffusion_max_steps": 2},
            structured_outputs=Structured(**given),
        )
        asked.append((PROMPT, params))
        judges.append(judge)
        if number % 20 == 0:
            asked.append((PROMPT, SamplingParams(max_tokens=8)))
            judges.append(lambda text: True)
    began = time.monotonic()
    found = answers(llm, asked)
    bad = [one.text for one, judge in zip(found, judges, strict=True) if not judge(one.text)]
    unfinished = [one.text for one, (_, own) in zip(found, asked, strict=True)
                  if own.structured_outputs is not None and one.finish_reason != "stop"]  # fmt: skip
    return {"answers": len(found), "seconds": time.monotonic() - began, "failed": bad, "not stopped": unfinished}


def plain(folder: Path) -> dict[str, Any]:
    """Requests that ask for nothing of ours, for a run with the plugin to be compared with one without."""
    from vllm import SamplingParams

    llm = vllm_of(checkpoint(folder / "checkpoint"))
    torch.manual_seed(5)
    params = [SamplingParams(max_tokens=20), SamplingParams(max_tokens=33, logprobs=2), SamplingParams(max_tokens=16)]
    found = answers(llm, [(PROMPT + [300] * number, own) for number, own in enumerate(params)])
    logprobs = [
        []
        if one.logprobs is None
        else [sorted((k, round(v.logprob, 4)) for k, v in place.items()) for place in one.logprobs]
        for one in found
    ]
    return {"tokens": [list(one.token_ids) for one in found], "logprobs": logprobs, "failed": []}


if __name__ == "__main__":
    what, where = sys.argv[1], Path(sys.argv[2])
    result = {"parity": parity, "many": many, "plain": plain}[what](where)
    (where / f"{sys.argv[3] if len(sys.argv) > 3 else what}.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({name: value for name, value in result.items() if name != "rows"})[:4000])
    sys.exit(1 if result["failed"] else 0)

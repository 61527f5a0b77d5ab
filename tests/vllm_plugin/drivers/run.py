"""Run in an environment with vLLM (script/vllm): requests through vLLM's own engine, and the same through ours.

``python run.py parity|many|plain|served FOLDER`` writes what came of it to FOLDER as JSON, and ends with an error where
it is not what it must be. The checkpoint is a small one with random weights, in float32.
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
BUDGET = 40
"""Tokens of a step: two canvases, and half of one more."""
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
        tie_scalars(folder / "model.safetensors")
    return folder


def tie_scalars(path: Path) -> None:
    """Give the encoder the decoder's layer scalars: vLLM has one set of them for both."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith("layer_scalar") and "encoder.language_model" in name]:
        tensors[name] = tensors[name.replace("encoder.language_model", "decoder")].clone()
    save_file(tensors, path, metadata={"format": "pt"})


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
    prompts = [[*PROMPT, *(280 + place % 60 for place in range(20 * number))] for number in range(len(asked))]
    llm = vllm_of(path, max_num_batched_tokens=BUDGET)
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

    llm = vllm_of(checkpoint(folder / "checkpoint"), max_num_batched_tokens=BUDGET)
    chance, widths = random.Random(18), note_widths()
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
    # Near the end of the context a canvas is shorter, and no answer here comes that far.
    cut = sorted(widths - {0, CANVAS})
    spent = time.monotonic() - began
    return {"answers": len(found), "seconds": spent, "failed": [*bad, *unfinished, *cut], "cut": cut}


def note_widths() -> set[int]:
    """Note how many rows of logits any request has in any forward."""
    from redraft.vllm_plugin.sampler import CanvasSampler

    widths: set[int] = set()
    original = CanvasSampler.__call__

    def call(self: Any, logits: Any, batch: Any, *more: Any) -> Any:
        rows = batch.cu_num_logits_np[: batch.num_reqs + 1]
        widths.update((rows[1:] - rows[:-1]).tolist() if batch.num_draft_tokens else ())
        return original(self, logits, batch, *more)

    CanvasSampler.__call__ = call  # type: ignore[method-assign]
    return widths


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


def served(folder: Path) -> dict[str, Any]:
    """Through vLLM's own server and OpenAI's client, with its engine in a process of its own."""
    import os
    import socket
    import subprocess

    import openai

    import redraft

    path = checkpoint(folder / "checkpoint")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "4", "--enable-auto-tool-choice"]
    command += ["--tool-call-parser", "gemma4", "--limit-mm-per-prompt", '{"image": 0, "video": 0}']
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        )
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=900)
        wait_for(client, server)
        engine = redraft.load(path, dtype="float32", device="cpu")
        return asked_over_http(client, engine)
    finally:
        server.terminate()
        server.wait()


def wait_for(client: Any, server: Any) -> None:
    import openai

    while True:
        if server.poll() is not None:
            raise SystemExit("vLLM's server ended; server.log says why")
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            time.sleep(2)


def asked_over_http(client: Any, engine: Any) -> dict[str, Any]:
    import openai

    from redraft import JSONSchema, Regex

    failed, said = [], {}

    def told(name: str, right: bool, what: object) -> None:
        said[name] = str(what)
        if not right:
            failed.append(name)

    def completion(**own: Any) -> Any:
        return client.completions.create(model="tiny", prompt=PROMPT, **own).choices[0]

    for number in range(2):
        free = completion(seed=5, temperature=0.5, max_tokens=30)
        wanted = engine.generate(PROMPT, seed=5, temperature=0.5, max_tokens=30)
        told(f"seed and temperature, {number}", free.text == wanted.text, [free.text, wanted.text])
    pattern = "(the|and) [0-9]{4}"
    by_regex = completion(seed=6, max_tokens=40, extra_body={"structured_outputs": {"regex": pattern}})
    wanted = engine.generate(PROMPT, seed=6, max_tokens=40, constraint=Regex(pattern))
    told("regex", by_regex.text == wanted.text and by_regex.finish_reason == "stop", [by_regex.text, wanted.text])
    by_template = completion(max_tokens=40, extra_body={"vllm_xargs": {
        "redraft_template": "in {year}.", "redraft_holes": '{"year": {"regex": "[0-9]{4}"}}'}})  # fmt: skip
    told("template", by_template.text[:3] == "in " and by_template.text[-1] == ".", by_template.text)
    filled = completion(max_tokens=15, extra_body={"vllm_xargs": {"redraft_suffix": " the end"}})
    told("infill", filled.text.endswith(" the end"), filled.text)
    messages = [{"role": "user", "content": "name"}]
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
    chat = client.chat.completions.create(
        model="tiny", messages=messages, seed=7, max_tokens=60, response_format=form
    ).choices[0]
    wanted = engine.generate(messages, seed=7, max_tokens=60, constraint=JSONSchema(SCHEMA))
    told("response_format", chat.message.content == wanted.text, [chat.message.content, wanted.text])
    tool = {"type": "function", "function": {"name": "say", "parameters": {
        "type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}}}  # fmt: skip
    called = client.chat.completions.create(
        model="tiny", messages=messages, tools=[tool], tool_choice="required", max_tokens=80, seed=3
    ).choices[0].message  # fmt: skip
    calls = [(one.function.name, one.function.arguments) for one in called.tool_calls or []]
    told("tool_choice", bool(calls) and all(name == "say" for name, _ in calls), [calls, called.content])
    several = client.completions.create(model="tiny", prompt=PROMPT, n=3, seed=1, max_tokens=16).choices
    told("n", len({one.text for one in several}) > 1, [one.text for one in several])
    told("plain", completion(max_tokens=12).finish_reason in ("length", "stop"), "a request as before")
    for name, own in (
        ("a schema that is none", {"extra_body": {"structured_outputs": {"json": {"type": "objct"}}}}),
        ("an option that is none", {"extra_body": {"vllm_xargs": {"redraft_stepz": 3}}}),
        ("our own place", {"extra_body": {"vllm_xargs": {"redraft": "x"}}}),
        ("too short", {"max_tokens": 3, "extra_body": {"structured_outputs": {"regex": "[a-z]{200}"}}}),
        ("prompt_logprobs", {"extra_body": {"prompt_logprobs": 1}}),
        ("logit_bias and logprobs", {"logit_bias": {"300": 1}, "logprobs": 1}),
    ):
        try:
            told(name, False, completion(**own).text)
        except openai.BadRequestError as refused:
            told(name, True, refused.message)
    told("plain after all", completion(max_tokens=12).finish_reason in ("length", "stop"), "the server is up")
    return {"said": said, "failed": failed}


if __name__ == "__main__":
    what, where, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else sys.argv[1]
    if what == "many":
        # So many answers, if not 200.
        result = many(where, int(sys.argv[4]) if len(sys.argv) > 4 else 200)
    else:
        result = {"parity": parity, "plain": plain, "served": served}[what](where)
    (where / f"{name}.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({name: value for name, value in result.items() if name != "rows"})[:4000])
    sys.exit(1 if result["failed"] else 0)

# /// script
# dependencies = ["lm_eval[api]==0.4.13"]
# ///
"""lm-eval: a task of multiple choice and one of whole texts, by its own model for servers and by our model class."""

import json
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": tempfile.mkdtemp()}
url, model, folder, ours = sys.argv[1:]
# Behind what this environment has itself.
sys.path += [path for path in ours.split(os.pathsep) if path not in sys.path]

import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from redraft.loading import load  # noqa: E402
from redraft.measure.lm_eval import RedraftLM  # noqa: E402

DOCS = [
    {"question": "The sky is", "choices": [" blue", " green", " a fish"], "answer": 0},
    {"question": "Grass is ", "choices": ["red", "green"], "answer": 1},
    {"question": "Two and two make", "choices": [" five", " four", " six", " ten"], "answer": 1},
]
TEXTS = [{"text": "the end of it"}, {"text": "a much longer text, which says the same again. " * 40}]
CHOICE = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """
task: texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""
WRITING = """
task: answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


def values(samples):
    """The log-likelihood of every choice, or whole text."""
    given = [own[0] for one in samples for own in one["resps"]]
    return [float(one[0] if isinstance(one, list | tuple) else one) for one in given]


with tempfile.TemporaryDirectory() as place:
    for name, text, docs in (("colours", CHOICE, DOCS), ("texts", ROLLING, TEXTS), ("answers", WRITING, DOCS)):
        file = Path(place) / f"{name}.jsonl"
        file.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        (Path(place) / f"{name}.yaml").write_text(text.format(file=file))
    tasks = TaskManager(include_path=place, include_defaults=False)
    more = {"tasks": ["colours", "texts"], "task_manager": tasks, "bootstrap_iters": 0, "log_samples": True}
    arguments = {"model": model, "base_url": f"{url}/v1/completions", "max_length": 8192, "num_concurrent": 2}
    served = lm_eval.simple_evaluate(model="local-completions", model_args=arguments, **more)
    engine = load(folder)
    # The server's client sends no token before a text.
    own = lm_eval.simple_evaluate(model=RedraftLM(engine=engine, add_bos_token=False), **more)
    for name in ("colours", "texts"):
        numbers = [values(found["samples"][name]) for found in (served, own)]
        assert numbers[0], name
        for first, second in zip(*numbers, strict=True):
            assert math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-3), (name, first, second)
    assert served["results"]["colours"]["acc,none"] == own["results"]["colours"]["acc,none"]
    perplexity = [found["results"]["texts"]["bits_per_byte,none"] for found in (served, own)]
    assert math.isclose(*perplexity, rel_tol=1e-4), perplexity
    # By its name, as the command takes it, and writing.
    by_name = lm_eval.simple_evaluate(
        model="redraft", model_args={"pretrained": folder}, tasks=["answers"], task_manager=tasks, bootstrap_iters=0
    )
    assert "exact_match,none" in by_name["results"]["answers"]
print("lm_eval: ok")

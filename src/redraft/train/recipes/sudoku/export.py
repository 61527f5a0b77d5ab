"""Writes a trained Sudoku model as a checkpoint folder with its tokenizer and chat template."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from redraft.files import replacing, write_text
from redraft.models import checkpoint
from redraft.models.base import GenerationDefaults
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.tokenizer import SETTINGS_FILE, TEMPLATE_FILE, TOKENIZER_FILE
from redraft.train.recipes.sudoku import layout

DEFAULTS = GenerationDefaults(
    max_denoising_steps=18, entropy_bound=1.0, t_max=1.2, t_min=0.4, confidence_threshold=0.01
)
"""Sampling of the bundled model, chosen on puzzles that no figure is reported on.

A bound of a whole nat lets the model guess where it cannot deduce and take the guess back when it fails; at the
reference's 0.1 it waits for certainty that some puzzles never give. A start above temperature 1 keeps it from settling
on its first guess.
"""

# Turns a pasted puzzle into cell tokens. Spaces, newlines and the strokes of drawn grids are skipped.
CHAT_TEMPLATE = """\
{%- set board = namespace(cells=0, text='') -%}
{%- for message in messages if message['role'] not in ('user', 'assistant') -%}
  {{- raise_exception('this model reads puzzles only; a ' ~ message['role'] ~ ' message has no effect on it') -}}
{%- endfor -%}
{%- if messages[-1]['role'] != 'user' -%}
  {{- raise_exception('the last message must be a user message that holds a puzzle') -}}
{%- endif -%}
{%- set content = messages[-1]['content'] -%}
{%- if content is not string -%}{%- set content = content | map(attribute='text') | join('\\n') -%}{%- endif -%}
{%- if content | length > 10000 -%}
  {{- raise_exception('a Sudoku has 81 cells; this text has ' ~ content | length ~ ' characters') -}}
{%- endif -%}
{%- for mark in content if mark not in ' \\t\\r\\n|+-' -%}
  {%- if mark not in '0123456789.' -%}
    {{- raise_exception('a Sudoku is written with 1 to 9, and . or 0 for blanks; found \\'' ~ mark ~ '\\'') -}}
  {%- endif -%}
  {%- set row, column = board.cells // 9 + 1, board.cells % 9 + 1 -%}
  {%- set value = '.' if mark == '0' else mark -%}
  {%- set board.text = board.text ~ '<r' ~ row ~ 'c' ~ column ~ '=' ~ value ~ '>' -%}
  {%- if column == 9 -%}{%- set board.text = board.text ~ '\\n' -%}{%- endif -%}
  {%- set board.cells = board.cells + 1 -%}
{%- endfor -%}
{%- if board.cells != 81 -%}
  {{- raise_exception('a Sudoku has 81 cells; this text has ' ~ board.cells) -}}
{%- endif -%}
{{- bos_token ~ board.text -}}
"""


def tokenizer() -> Tokenizer:
    """Every token a word of its own: a digit, a newline, or a marker in angle brackets."""
    words = Tokenizer(models.WordLevel(layout.vocabulary()))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"<[^<>]+>|[\s\S]"), "isolated")
    words.decoder = decoders.Fuse()
    words.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", layout.BOS)])
    words.add_special_tokens([AddedToken(name, special=True) for name in ("<pad>", "<eos>", "<bos>")])
    return words


def export(model: DiffusionGemma, folder: Path, defaults: GenerationDefaults, dtype: torch.dtype) -> None:
    """Write a folder that ``redraft.load`` and ``transformers`` load."""
    model.defaults = replace(defaults, end_token_ids=(layout.EOS,))
    checkpoint.save(model, folder, dtype)
    with replacing(folder / TOKENIZER_FILE) as new:
        tokenizer().save(str(new))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }
    write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
    write_text(folder / TEMPLATE_FILE, CHAT_TEMPLATE)

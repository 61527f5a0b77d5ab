"""A GGUF file of a Gemma 3 is the checkpoint that it was made of."""

from dataclasses import replace
from pathlib import Path

import torch

from redraft.models import checkpoint
from redraft.models.gemma.gemma3 import Gemma3Config
from redraft.models.tokenizer import ChatTokenizer
from tests.gguf_files import gemma3_gguf
from tests.models.gemma.test_model import rows, tokens
from tests.random_gemma import random_gemma


def test_a_file_is_the_folder_it_was_made_of(tmp_path: Path):
    folder = random_gemma(tmp_path / "folder", published_layers=True)
    file = gemma3_gguf(tmp_path / "model.gguf", folder)
    ours, theirs = checkpoint.read(file), checkpoint.read(folder)
    assert isinstance(ours.config, Gemma3Config)
    assert isinstance(theirs.config, Gemma3Config)
    # The metadata names one end; of the others it is the tokens' names that tell.
    assert ours.config == replace(theirs.config, end_token_ids=(1,))
    text = tokens(24)
    both = [found.load("float32") for found in (ours, theirs)]
    logits = [model.logits(rows(model, text, 24)) for model in both]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    messages = [{"role": "user", "content": "yes"}]
    texts = [
        tokenizer.decode_all(tokenizer.encode_chat(messages))
        for tokenizer in map(ChatTokenizer.from_checkpoint, (file, folder))
    ]
    assert texts[0] == texts[1]

"""The agreements of the plugin's parts in vLLM's processes."""

import logging
from pathlib import Path
from typing import Any

from redraft.errors import CheckpointError
from redraft.models.checkpoint import find_here

LOG = logging.getLogger("vllm.redraft")
"""Below vLLM's own logger, so that it is printed as the rest is."""
ARCHITECTURE = "DiffusionGemmaForBlockDiffusion"
CARRIED = "redraft"
"""The place in ``extra_args`` where a request of ours is carried to the workers; no client can put anything there."""
TOOLS = "redraft:tools"
"""The attribute in which the server puts the tools of which one has to be called, until the request is made."""
FAILED = -1
"""In the place of a token: the request has failed."""


def is_ours(model_config: Any) -> bool:
    """Tell whether a model is one whose canvases we denoise."""
    return ARCHITECTURE in (getattr(model_config, "architectures", None) or ())


def checkpoint_folder(model_config: Any) -> Path:
    """Return the folder of a model's configuration and tokenizer; CheckpointError where it is not on this machine."""
    folder = find_here(model_config.model)
    if folder is None:
        raise CheckpointError(f"the tokenizer of {model_config.model!r} is not on this machine")
    return folder

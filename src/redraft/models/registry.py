"""Which family a checkpoint belongs to, by the architecture that its ``config.json`` names: one line a family."""

from importlib import import_module
from typing import Any

from redraft.errors import CheckpointError
from redraft.models.family import Family

# Modules with a ``FAMILY``, or with another name behind a colon, imported when a checkpoint asks for them.
FAMILIES = {
    "DiffusionGemmaForBlockDiffusion": "redraft.models.diffusion_gemma.family",
    "LlamaForBlockDiffusion": "redraft.models.llama_diffusion.family",
    "Gemma3ForCausalLM": "redraft.models.gemma.family:GEMMA3",
    "Gemma3ForConditionalGeneration": "redraft.models.gemma.family:GEMMA3_WITH_VISION",
    "Gemma4ForCausalLM": "redraft.models.gemma.family:GEMMA4",
    "Gemma4ForConditionalGeneration": "redraft.models.gemma.family:GEMMA4_WITH_VISION",
}
# Autoregressive architectures, and what each becomes.
BASES = {"LlamaForCausalLM": "LlamaForBlockDiffusion"}


def family_of(architecture: object) -> Family[Any, Any]:
    """Return the family of ``architecture``; raises CheckpointError that lists those there are, or says how one is made
    of an autoregressive model."""
    becomes = BASES.get(architecture) if isinstance(architecture, str) else None
    if becomes is not None:
        raise CheckpointError(
            f"architecture {architecture!r} is autoregressive: it writes token by token and cannot denoise. Make a "
            f"{becomes} of it, which training then teaches to: redraft adapt"
        )
    line = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if line is None:
        known = f"supported {'is' if len(FAMILIES) == 1 else 'are'} {', '.join(map(repr, FAMILIES))}"
        raise CheckpointError(f"architecture {architecture!r} is not supported; {known}")
    module, _, name = line.partition(":")
    family: Family[Any, Any] = getattr(import_module(module), name or "FAMILY")
    return family

"""The contract between an engine and a model family: a cache, spans, one forward, one readout."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from redraft.canvas.acceptance import AcceptanceRule, EntropyBound
from redraft.canvas.corruption import Corruption
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.canvas.schedule import LinearTemperature
from redraft.canvas.stopping import StableAndConfident
from redraft.models.sampling import SamplingDefaults
from redraft.models.thoughts import ThoughtSyntax
from redraft.models.tools import ToolSyntax

KV_BLOCK = 128
"""Positions that keys and values are kept and shared by."""
PREFILL_CHUNK = 256
"""Positions of a prompt that are encoded in one forward on the CPU."""
DEVICE_PREFILL_CHUNK = 2048
"""The same on other devices: a forward there reads all weights, and has work for them all."""
GenerationMode = Literal["diffusion", "autoregressive", "speculative"]
"""The ways to write an answer: canvases that are denoised; token after token, from the causal rows; or drafts that the
causal rows verify, which gives the autoregressive mode's distribution."""
ALL_MODES: tuple[GenerationMode, ...] = ("diffusion", "autoregressive", "speculative")
ExtractLayout = Literal["slots", "text"]
"""The form that ``extract`` reads a text into: a value in each of a schema's slots, all at once, or JSON text."""
AUTO: Literal["auto"] = "auto"
CanvasLength = int | Literal["auto"]
"""Positions that are denoised at once; "auto" for the least that fit, of those that a checkpoint was trained on."""
WindowPolicy = Literal["shared", "per_query"]
"""A sliding layer shows a canvas past its window a part of the cache: "shared" shows every position the same last
window - 1 tokens (the reference and Google's sampler), "per_query" slides the window along the canvas (vLLM)."""


def max_blocks(positions: int, block: int) -> int:
    """Return the largest number of blocks that so many positions, one after the other, can lie in."""
    return -(-(positions - 1) // block) + 1


class Cache(Protocol):
    """Keys and values of the encoded context, per layer, for B sequences of one length."""

    @property
    def length(self) -> int:
        """Tokens encoded so far; the next token's position."""
        ...

    def read(self, layer: int, rows: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, kv_heads, S, D] of the last tokens that were written, block by block, in order.

        As many as the layer keeps; or, for causal rows that were written last, ``rows`` more than that, and on to the
        border of a block, so that where blocks begin and end depends on positions alone.
        """
        ...

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Append keys and values [B, kv_heads, T, D]; visible to ``read`` at once."""
        ...

    def advance(self, count: int) -> None:
        """Count ``count`` tokens as encoded, after every layer wrote them."""
        ...

    def rewind(self) -> None:
        """Forget what layers wrote since the last ``advance``: the forward failed."""
        ...


class InPlaceCache(Cache, Protocol):
    """A cache whose memory a kernel fills itself."""

    def room(self, layer: int, count: int) -> list[tuple[Tensor, Tensor]]:
        """Make room behind what the layer has for ``count`` positions -> views [B, kv_heads, S, D] of their keys and
        values, in order, that the caller fills; they count as written, and are visible to ``read`` at once."""
        ...


@dataclass(frozen=True)
class GenerationDefaults:
    """A checkpoint's own sampling (``generation_config.json``); where it says nothing, the reference's values."""

    max_denoising_steps: int = 48
    entropy_bound: float = 0.1
    t_max: float = 0.8
    t_min: float = 0.4
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    end_token_ids: tuple[int, ...] = (1,)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    """The drawing of tokens where a model writes them one by one."""
    choice_temperature: float | None = None
    """Fitted to make the probabilities of ``choose`` true; None where nobody has. In a file of its own, for the
    reference refuses what it does not know (``checkpoint.OWN_FILE``)."""
    extract_layout: ExtractLayout | None = None
    """The layout that ``extract`` uses unless it is told: "slots" for a model that was trained on them; None is "text".
    In the same file."""
    canvas_lengths: tuple[int, ...] = ()
    """The lengths of canvases that it was trained on, the least first, of which the least that fits is taken unless a
    request says otherwise; empty for the configuration's length alone. In the same file."""
    acceptance: AcceptanceRule | None = None
    """The rule of a family that does not accept by an entropy bound."""

    @property
    def acceptance_rule(self) -> AcceptanceRule:
        """The rule by which positions are accepted unless a request says otherwise."""
        return EntropyBound(self.entropy_bound) if self.acceptance is None else self.acceptance

    def __post_init__(self) -> None:
        whole = isinstance(self.max_denoising_steps, int) and self.max_denoising_steps >= 1
        if not whole or isinstance(self.max_denoising_steps, bool):
            raise ValueError(f"max_denoising_steps {self.max_denoising_steps!r} must be a whole number, 1 or more")
        for name in ("entropy_bound", "t_max", "t_min", "stability_threshold", "confidence_threshold"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} {getattr(self, name)!r} must be a number")
        # The rules check themselves; made here, a bad default is found when it is read, not when it is used.
        EntropyBound(self.entropy_bound)
        LinearTemperature(self.t_max, self.t_min)
        StableAndConfident(self.stability_threshold, self.confidence_threshold)
        fitted = 1.0 if self.choice_temperature is None else self.choice_temperature
        if isinstance(fitted, bool) or not isinstance(fitted, int | float) or not 0 < fitted < math.inf:
            raise ValueError(f"choice_temperature {fitted!r} must be a finite number above 0")
        if self.extract_layout not in (None, *get_args(ExtractLayout)):
            raise ValueError(f"extract_layout {self.extract_layout!r} must be 'slots' or 'text'")
        lengths = self.canvas_lengths
        whole = all(isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in lengths)
        if not whole or list(lengths) != sorted(set(lengths)):
            raise ValueError(f"canvas_lengths {list(lengths)!r} must be whole numbers, each larger than the last")
        if not all(isinstance(token, int) for token in self.end_token_ids):
            raise ValueError(f"end tokens {self.end_token_ids!r} must be token ids")


class BlockDiffusionConfig(Protocol):
    """The part of a family's configuration that the engine reads."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def canvas_length(self) -> int:
        """Positions of a canvas at most; 0 for a model that has none."""
        ...

    @property
    def image_token_ids(self) -> tuple[int, ...]: ...
    @property
    def thought_syntax(self) -> ThoughtSyntax | None:
        """The form in which the model writes a thought; None for a family that does not think."""
        ...

    @property
    def tool_syntax(self) -> ToolSyntax | None:
        """The syntax of tool calls; None for a family that makes none."""
        ...


Mode = Literal["encode", "denoise"]


@dataclass(frozen=True, eq=False)
class Span:
    """One request's share of a forward: tokens that follow its cache, B sequences of one length in training.

    An "encode" span is causal, and its keys and values are appended to the cache; the hidden states of its last tokens
    are there for whoever wants them. A "denoise" span is a canvas, whole:
    it is bidirectional within itself, reads the cache, and leaves nothing there. Of two spans on one cache the later
    one follows the earlier one: a commit and the first step of the canvas after it share a forward.
    """

    tokens: Tensor
    """[T] or [B, T] int64."""
    cache: Cache
    mode: Mode
    self_conditioning: Tensor | None = None
    """[..., T, H]: the soft embedding of the step before; None at a canvas's first step."""
    reread: int = 0
    """The number of a canvas's first tokens that are the last of its context, which the cache has already: they are run
    again as part of the canvas, which does not see what the cache keeps of them."""
    wanted: int = 0
    """The number of an "encode" span's last tokens whose final normed hidden states are wanted."""

    def __post_init__(self) -> None:
        if not 0 <= self.wanted <= (self.tokens.shape[-1] if self.mode == "encode" else 0):
            raise ValueError(
                f"{self.wanted} hidden states are wanted of {self.tokens.shape[-1]} tokens in mode {self.mode!r}; of "
                "what is encoded there is one for each token, and a canvas's are all given"
            )

    @property
    def rows(self) -> int:
        """Tokens in all."""
        return self.tokens.numel()


class BlockDiffusionModel(Protocol):
    """A family with its weights: one forward for spans of any requests, and a readout of what came of them.

    A model without a canvas, which only encodes, keeps the contract, too: its ``config.canvas_length`` is 0, it has no
    ``corruption``, does not self-condition and rereads nothing.
    """

    defaults: GenerationDefaults

    @property
    def config(self) -> BlockDiffusionConfig: ...
    @property
    def modes(self) -> tuple[GenerationMode, ...]:
        """The ways in which it can write, the checkpoint's default first. With "speculative" its own canvases are the
        drafts; one without a canvas has "autoregressive" alone, and may still verify what another model drafts."""
        ...

    @property
    def corruption(self) -> Corruption | None:
        """The noise that its canvases are made of; None without a canvas."""
        ...

    @property
    def self_conditions(self) -> bool:
        """True where a denoising step reads the soft embedding of the step before."""
        ...

    @property
    def reread(self) -> int:
        """Tokens of the context that are run again in front of a canvas: 1 where each row predicts the token after its
        own, as autoregressive models do, else 0. A canvas's C positions are then read off its first C rows."""
        ...

    @property
    def device(self) -> torch.device: ...
    @property
    def kv_dtype(self) -> torch.dtype: ...
    @property
    def batch_independent(self) -> bool:
        """True where a row gives the same bits whatever else is in its forward, and however a context is cut."""
        ...

    def cache_layout(self) -> list[tuple[int, int, int | None]]: ...

    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        """Compute all spans together -> the final normed hidden states: [..., T, H] of each canvas, [..., wanted, H]
        of each encode span of which some are wanted, else None. Each cache with an encode span counts its tokens
        afterwards."""
        ...

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        """Read hidden rows, of each canvas [C, H] or of what was encoded [wanted, H], as its spec asks."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return all float32 logits [..., V] of hidden states [..., H]: for tests, and comparisons."""
        ...

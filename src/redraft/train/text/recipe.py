"""All that decides the result of a run on text, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch

from redraft.canvas.corruption import MaskOrder
from redraft.errors import RedraftError
from redraft.models import checkpoint
from redraft.models.checkpoint import Checkpoint
from redraft.models.digest import weights_digest
from redraft.models.tokenizer import ChatTokenizer
from redraft.train.text.adapters import Adaptation, Full, TrainedModel, described
from redraft.train.text.batches import Batches
from redraft.train.text.encoding import FILLER_WEIGHT, Encoder
from redraft.train.text.evaluation import Evaluation
from redraft.train.text.memory import check_memory
from redraft.train.text.objective import MaskObjective, ObjectiveConfig
from redraft.train.text.optimizer import Optimizer, OptimizerConfig
from redraft.train.text.records import Record
from redraft.train.text.run import OnProgress, Run, RunConfig
from redraft.train.text.source import COUNTED, FileSource, RecordSource, mixed, trains_slots

ComputeDType = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class TextRecipe:
    """A way to train a model on records."""

    model: str | Path
    run: RunConfig
    adaptation: Adaptation = field(default_factory=Full)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batch_tokens: int = 2048
    """Tokens of a forward, at most."""
    canvas_length: int | None = None
    """Positions of the canvases that texts are written on; None takes the model's own."""
    filler_weight: float = FILLER_WEIGHT
    mix: Mapping[str, float] = field(default_factory=dict)
    """Weights of tasks; empty for the proportions of the data."""
    dtype: ComputeDType = "auto"
    device: str = "cpu"

    def prepare(
        self,
        folder: Path,
        source: RecordSource,
        data: str,
        evaluation: Sequence[Record] = (),
        on_progress: OnProgress | None = None,
        tensorboard: bool = False,
    ) -> Run:
        """Load the model and make the run. ``data``: what tells this source from others, in a word or a digest."""
        check_device(self.device)
        found = checkpoint.read(checkpoint.find(self.model))
        encoder = self.encoder(found)
        checked = [encoder.encode(record) for record in evaluation]
        objective = self._objective(encoder, found)
        source = self._mixed(source)
        torch.manual_seed(self.run.seed)
        dtype = compute_dtype(self.dtype, self.device)
        check_memory(found, self.adaptation, self.optimizer, 4 if dtype == "float32" else 2, self.device)
        loaded = found.load(dtype).to(self.device)
        model = TrainedModel(str(self.model), found, loaded, self.adaptation)
        if trains_slots(source):
            model.extract_layout = "slots"
        optimizer = Optimizer(model.parameters, self.optimizer, model.beginnings)
        return Run(
            model,
            optimizer,
            Batches(source, encoder, objective, self.batch_tokens),
            self.run,
            folder,
            self._decided_by(data, found),
            Evaluation(checked, encoder.mask_token, encoder.end_token, self.batch_tokens) if checked else None,
            on_progress,
            tensorboard,
        )

    def encoder(self, found: Checkpoint) -> Encoder:
        """Return what makes tokens for a checkpoint; RedraftError for one that cannot be trained on text."""
        config, tokenizer = found.config, ChatTokenizer.from_checkpoint(found.path)
        mask = getattr(config, "mask_token_id", None)
        ends = found.defaults.end_token_ids
        if mask is None or not ends:
            raise RedraftError(f"{found.path}: training on text needs a model with a mask token and an end token")
        length = config.canvas_length if self.canvas_length is None else self.canvas_length
        if not 1 <= length <= config.canvas_length:
            raise RedraftError(f"canvas length {length} must be from 1 to the model's {config.canvas_length}")
        return Encoder(tokenizer, length, config.context_length, mask, ends[0], self.filler_weight)

    def check(self, records: Sequence[Record]) -> None:
        """Encode all records; DataError naming the file and the line of the first that cannot be trained."""
        found = checkpoint.read(checkpoint.find(self.model))
        encoder = self.encoder(found)
        objective = self._objective(encoder, found)
        for record in records:
            objective.examples(encoder.encode(record), 0, 0.0)

    def check_generated(self, source: RecordSource, count: int = COUNTED) -> None:
        """Encode the first ``count`` records of a generator; errors as in ``check``."""
        self.check([source.draw(index) for index in range(count)])

    def _objective(self, encoder: Encoder, found: Checkpoint) -> MaskObjective:
        order: MaskOrder = getattr(found.config, "mask_order", "any")
        return MaskObjective(self.objective, encoder.mask_token, self.batch_tokens, self.run.seed, order)

    def _mixed(self, source: RecordSource) -> RecordSource:
        if not self.mix:
            return source
        seen = source.records if isinstance(source, FileSource) else [source.draw(index) for index in range(COUNTED)]
        return mixed(source, seen, self.mix, self.run.seed)

    def _decided_by(self, data: str, found: Checkpoint) -> dict[str, object]:
        parts = {
            "model": str(self.model),
            # The same name may come to hold another model.
            "weights": weights_digest(found),
            "data": data,
            "mix": dict(self.mix),
            "seed": self.run.seed,
            "accumulate": self.run.accumulate,
            "batch_tokens": self.batch_tokens,
            "canvas_length": self.canvas_length,
            "filler_weight": self.filler_weight,
            "dtype": self.dtype,
        }
        if (order := getattr(found.config, "mask_order", "any")) != "any":
            parts["mask_order"] = order
        return parts | described(self.adaptation) | asdict(self.objective) | asdict(self.optimizer)


def check_device(device: str) -> None:
    """Raise RedraftError for a device that torch does not know, or that this machine lacks."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RedraftError(f"device {device!r} cannot be used here: {reason}; 'cpu' always works") from error


def compute_dtype(wanted: ComputeDType, device: str) -> Literal["float32", "bfloat16"]:
    """Return what "auto" means here: bfloat16 where the processor multiplies it itself, else float32."""
    if wanted != "auto":
        return wanted
    if torch.device(device).type != "cpu":
        return "bfloat16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"

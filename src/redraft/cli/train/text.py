"""``redraft train DATA.jsonl``, and the options that it shares with recipes of text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, reading
from redraft.cli.train.dry_run import show
from redraft.cli.train.progress import Progress
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.train.text.adapters import Adaptation
    from redraft.train.text.recipe import TextRecipe
    from redraft.train.text.records import Record
    from redraft.train.text.source import RecordSource

LEARNING_RATE, LORA_LEARNING_RATE = 6e-4, 2e-3


# Fields that an option has another name for, and those that it is called after.
_OPTIONS = {"hours": "--limit-hours", "ema_decay": "--ema", "rank": "--lora", "alpha": "--lora-alpha"}
_OPTIONS |= {"dropout": "--lora-dropout"}
_FIELDS = (
    *("steps", "accumulate", "log_every", "evaluate_every", "save_every", "learning_rate", "weight_decay", "warmup"),
    *("fully_masked", "complementary", "views", "causal_share", "rollout_share", "rollout_from", "filler_weight"),
)


class Loss(StrEnum):
    """Losses of masked positions."""

    mask = "mask"
    weighted = "mask-weighted"


class OptimizerName(StrEnum):
    """Optimizers that there are."""

    adamw = "adamw"
    muon = "muon"


class Compute(StrEnum):
    """Number formats to compute in."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(frozen=True)
class Trained:
    """The part of the model that is trained."""

    lora: Annotated[
        int | None, typer.Option(min=1, metavar="RANK", help="Train an adapter of this rank, not the model.")
    ] = None
    lora_alpha: Annotated[float | None, typer.Option(help="Scale times rank; by default twice the rank.")] = None
    lora_dropout: Annotated[float, typer.Option(min=0.0, max=0.99, help="Dropout before the adapter.")] = 0.0
    from_adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on from this adapter, with its rank and alpha.")
    ] = None
    last_layers: Annotated[int | None, typer.Option(min=1, help="Train only so many layers, the last ones.")] = None
    train_embeddings: Annotated[
        bool, typer.Option("--train-embeddings", help="Train the embedding and the head too, not the mask's row alone.")
    ] = False

    def adaptation(self) -> "Adaptation":
        """Return what is trained; RequestError for choices that exclude each other."""
        from redraft.train.text.adapters import Full, LastLayers, Lora

        lora = self.lora is not None or self.from_adapter is not None
        if lora + (self.last_layers is not None) + self.train_embeddings > 1:
            named = "--lora" if self.from_adapter is None else "--from-adapter"
            raise RequestError(f"{named}, --last-layers and --train-embeddings exclude each other; give one of them")
        if not lora and (self.lora_alpha is not None or self.lora_dropout):
            raise RequestError("--lora-alpha and --lora-dropout are for adapters; give --lora RANK too")
        if self.from_adapter is not None:
            if self.lora is not None or self.lora_alpha is not None:
                raise RequestError("--from-adapter brings its own rank and alpha; leave out --lora and --lora-alpha")
            return Lora.of(self.from_adapter, self.lora_dropout)
        if self.lora is not None:
            return Lora(self.lora, 2.0 * self.lora if self.lora_alpha is None else self.lora_alpha, self.lora_dropout)
        return Full(self.train_embeddings) if self.last_layers is None else LastLayers(self.last_layers)


@dataclass(frozen=True)
class Learning:
    """The objective, and the optimizer."""

    loss: Annotated[Loss, typer.Option(help="Mean over masks, or each canvas's sum by its share of masks.")] = Loss.mask
    fully_masked: Annotated[float, typer.Option(min=0, max=1, help="Share of canvases of masks alone.")] = 0.15
    complementary: Annotated[
        float, typer.Option(min=0, max=1, help="Share of canvases shown twice, with masks on the others' places.")
    ] = 0.0
    views: Annotated[int, typer.Option(min=1, help="Times that a canvas is shown, each with other masks.")] = 1
    causal_share: Annotated[float, typer.Option(min=0, max=1, help="Share of answers also trained causally.")] = 0.3
    filler_weight: Annotated[
        float, typer.Option(min=0.001, max=1, help="Weight of end tokens behind an answer's first.")
    ] = 0.15
    rollout_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of canvases begun by the model's own sampler.")
    ] = 0.0
    rollout_from: Annotated[float, typer.Option(min=0, max=1, help="Share of the run before there are any.")] = 0.75
    optimizer: Annotated[OptimizerName, typer.Option(help="Muon takes matrices, AdamW the rest.")] = OptimizerName.adamw
    learning_rate: Annotated[
        float | None, typer.Option(help=f"At its height; by default {LEARNING_RATE:g}, of LoRA {LORA_LEARNING_RATE:g}.")
    ] = None
    weight_decay: Annotated[float, typer.Option(min=0, help="Decoupled.")] = 0.0
    warmup: Annotated[int, typer.Option(min=1, help="Steps until the rate is at its height.")] = 20
    ema: Annotated[float | None, typer.Option(help="Keep a moving average with this decay, and export it.")] = None


@dataclass(frozen=True)
class Running:
    """Length of a run, sizes of its pieces, and what it runs on."""

    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps in all.")] = None
    limit_hours: Annotated[float | None, typer.Option(help="Hours in all; rates fall by what ends first.")] = None
    seed: Annotated[int, typer.Option(min=0, help="Decides order, masks and adapters.")] = 0
    mix: Annotated[
        str | None, typer.Option(help="Weights of tasks, e.g. extract=2,choose=1; tasks not named are left out.")
    ] = None
    batch_tokens: Annotated[int, typer.Option(min=16, help="Tokens of a forward, at most.")] = 2048
    accumulate: Annotated[int, typer.Option(min=1, help="Forwards of an optimizer step.")] = 1
    canvas_length: Annotated[int | None, typer.Option(help="Positions of a text's canvases.")] = None
    evaluate: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Held-out records to measure during training.")
    ] = None
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between measurements.")] = 200
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 50
    log_every: Annotated[int, typer.Option(min=1, help="Steps between reports.")] = 5
    merge: Annotated[bool, typer.Option("--merge", help="With --lora, write the merged checkpoint too.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is learned, and what a step costs; train nothing.")
    ] = False
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write event files (needs tensorboard).")] = False
    dtype: Annotated[Compute, typer.Option(help="auto: bfloat16 where the processor has it, else float32.")] = (
        Compute.auto
    )
    device: Annotated[str, typer.Option(help="cpu, or any other torch device.")] = "cpu"
    threads: options.Threads = None


def recipe_of(model: str, trained: Trained, learning: Learning, running: Running) -> "TextRecipe":
    """Put a recipe together from its options; RequestError naming what cannot be."""
    from redraft.train.text.adapters import Lora
    from redraft.train.text.objective import ObjectiveConfig
    from redraft.train.text.optimizer import OptimizerConfig
    from redraft.train.text.recipe import TextRecipe
    from redraft.train.text.run import RunConfig

    if running.steps is None and running.limit_hours is None:
        raise RequestError("say when the run ends: --steps, --limit-hours, or both")
    try:
        adaptation = trained.adaptation()
        rate = LORA_LEARNING_RATE if isinstance(adaptation, Lora) else LEARNING_RATE
        return TextRecipe(
            model=model,
            run=RunConfig(
                running.steps,
                running.limit_hours,
                running.accumulate,
                running.seed,
                running.log_every,
                running.evaluate_every,
                running.save_every,
            ),
            adaptation=adaptation,
            objective=ObjectiveConfig(
                learning.loss.value,
                learning.fully_masked,
                learning.complementary,
                learning.views,
                learning.causal_share,
                learning.rollout_share,
                learning.rollout_from,
            ),
            optimizer=OptimizerConfig(
                learning.optimizer.value,
                rate if learning.learning_rate is None else learning.learning_rate,
                learning.weight_decay,
                warmup=learning.warmup,
                ema_decay=learning.ema,
            ),
            batch_tokens=running.batch_tokens,
            canvas_length=running.canvas_length,
            filler_weight=learning.filler_weight,
            mix=parse_mix(running.mix),
            dtype=running.dtype.value,
            device=running.device,
        )
    except ValueError as error:
        raise RequestError(_of_options(str(error))) from error


def _of_options(message: str) -> str:
    """Return a message with the option in the place of the field that it begins with."""
    field, _, rest = message.partition(" ")
    option = _OPTIONS.get(field, f"--{field.replace('_', '-')}" if field in _FIELDS else None)
    return message if option is None else f"{option} {rest}"


def parse_mix(given: str | None) -> Mapping[str, float]:
    """Read weights of tasks; RequestError for what has no form task=weight."""
    weights = {}
    for part in given.split(",") if given else ():
        task, _, weight = part.partition("=")
        try:
            weights[task.strip()] = float(weight)
        except ValueError:
            raise RequestError(f"--mix {part!r} must be a task and its weight, such as extract=2") from None
        if not 0 < weights[task.strip()] < math.inf:
            raise RequestError(f"--mix {part!r}: a weight is finite and above 0; leave out tasks that are not trained")
    return weights


def train(
    recipe: "TextRecipe", source: "RecordSource", data: str, held_out: Sequence["Record"], out: Path, running: Running
) -> None:
    """Run a recipe with a progress bar, and say where its result is."""
    from redraft.kernels.library import use_threads
    from redraft.train.text.adapters import Lora, merge
    from redraft.train.text.preview import preview

    if running.threads is not None:
        use_threads(running.threads)
    if running.dry_run:
        with TemporaryDirectory() as nowhere:
            show(preview(recipe.prepare(Path(nowhere), source, data)), recipe.run)
        return
    if running.merge and not isinstance(recipe.adaptation, Lora):
        raise RequestError("--merge is for adapters; without --lora the result is a whole checkpoint")
    with Progress() as progress:
        run = recipe.prepare(out, source, data, held_out, progress.update, running.tensorboard)
        result = run.run()
    typer.echo(f"{result.name}: {result}\ncurves: {out / 'curves.png'}")
    if running.merge:
        typer.echo(f"checkpoint: {merge(result, out / 'checkpoint')}")


@options.grouped
def data(
    path: Annotated[
        Path, typer.Argument(metavar="DATA.jsonl", help="Records, one JSON object a line; - is standard input.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Checkpoint folder of a LlamaDiffusion, or a hub id.")],
    out: Annotated[Path, typer.Option(help="Run folder; a run found there is continued.")],
    trained: Trained,
    learning: Learning,
    running: Running,
) -> None:
    """Train a text model on records. Kill it at any time; the same command continues it to the same result.

    Example: redraft train data notes.jsonl --model runs/base --out runs/mine --steps 1000
    """
    from redraft.train.text import records
    from redraft.train.text.source import FileSource, digest

    recipe = recipe_of(model, trained, learning, running)
    options.check_folder(out)
    with reading.on_disk(path, "the training data") as file:
        found, known_by = records.read(file), digest(file)
    held_out = records.read(running.evaluate) if running.evaluate is not None else []
    recipe.check([*found, *held_out])
    train(recipe, FileSource(found, running.seed), known_by, held_out, out, running)

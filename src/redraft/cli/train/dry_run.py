"""``--dry-run``: a run is shown before it is made."""

from typing import TYPE_CHECKING

from redraft.errors import counted

if TYPE_CHECKING:
    from redraft.train.text.preview import Preview
    from redraft.train.text.run import RunConfig

CONTEXT_SHOWN = 300
# Learned text stands in brackets as well, for those who see no colours.
STYLES = {"pinned": "dim", "shown": "", "learned": "bold green", "filler": "green"}


def show(preview: "Preview", run: "RunConfig") -> None:
    """Print canvases as they are seen and learned, and what the run will take."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for canvas in preview.canvases:
        console.print(Text(f"--- {canvas.task}", style="bold"))
        console.print(Text(canvas.before[-CONTEXT_SHOWN:], style="dim"))
        console.print(Text.assemble(("sees:   ", "bold"), canvas.seen))
        learns = Text("learns: ", style="bold")
        for stretch in canvas.target:
            marked = f"[{stretch.text}]" if stretch.kind in ("learned", "filler") else stretch.text
            learns.append(marked, style=f"not bold {STYLES[stretch.kind]}")
        console.print(learns)
    steps = preview.steps(run.steps, run.hours)
    memory = "" if preview.peak_bytes is None else f", {preview.peak_bytes / 1e9:.1f} GB of memory"
    console.print(f"trained: {preview.trained:,} numbers")
    console.print(
        f"a step: {counted(preview.tokens, 'token')}, of which {preview.scored:,} are scored; "
        f"{preview.seconds:.1f} s{memory}"
    )
    console.print(
        f"the run: {counted(steps, 'step')}, about {steps * preview.seconds / 3600:.2f} hours, measurements not counted"
    )
    console.print(
        f"first loss: {preview.first_loss:.3f} nats (a uniform guess has {preview.uniform_loss:.2f} a position)"
    )

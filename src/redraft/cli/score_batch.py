"""``redraft score --batch``: the texts of a file, scored in batches."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from redraft.cli import batch
from redraft.cli.batch import Line

if TYPE_CHECKING:
    from redraft.cli.options import Loading
    from redraft.tasks.score import BoundRequest, ScoreRequest, ScoreResult


def _text(value: object) -> str | None:
    ids = isinstance(value, list) and all(type(one) is int for one in value)
    return None if value and (isinstance(value, str) or ids) else "must be some text, or a list of token ids"


_FIELDS = batch.Fields({"text": _text}, needed=("text",), asked=("text",))


def run(
    file: Path, out: Path | None, raw: bool, system: str | None, parameters: dict[str, Any], loading: "Loading"
) -> None:
    """Score all lines of ``file`` that ``out`` has no score of; ``parameters`` of ``Engine.score``.

    Raises RequestError, before a model is loaded, naming the line that is no request.
    """
    lines = batch.read(file, raw, system, _FIELDS)
    left = batch.left(lines, out, "score")
    if not left:
        return
    engine = loading.engine()
    from redraft.tasks.objects import score_object
    from redraft.tasks.score import score

    def request(line: Line) -> "ScoreRequest | BoundRequest":
        return score(engine.runtime, line.prompt, line.given["text"], **parameters)

    def shown(line: Line, result: "ScoreResult") -> dict[str, Any]:
        return score_object(line.given["text"], result, engine.tokenizer.piece)

    batch.answer(engine, left, len(lines), file, out, batch.Asking("score", request, shown))

"""``python -m redraft.train.recipes.pocket.finish``: a language model goes on with openings; what reads well is kept.

The rules were found by reading what SmolLM2-135M-Instruct writes: it repeats itself, counts, makes up names and days,
and sets tasks. They cannot tell whether a sentence makes sense.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from redraft.api import Engine
from redraft.files import replacing
from redraft.loading import load
from redraft.train.recipes.pocket.openings import joined, line, openings, parted
from redraft.train.recipes.pocket.snippets import HELD_OUT_DOMAINS, Snippet, write
from redraft.train.recipes.pocket.values import NUMBERS, POOLS, WEEKDAYS, Hand, held_out_words
from redraft.train.recipes.pocket.words import any_of, words

SHOTS = (
    "Hi Sam, the bread from Miller's shop was still warm when I came home with it. I will get another one for you if"
    " you like.",
    "Flat 9, old windows, second floor. The owner wants to know whether the frames can be painted, because new ones"
    " are too expensive for her.",
    "hi, left the spare key under the pot by the door. could you feed the cat when you come home? she likes to hide"
    " behind the sofa, so look there first.",
    "Dear Ms Hall, I am writing about the broken lamp on the stairs. It is very dark there at night, and one of our"
    " neighbours has already fallen.",
    "The file from Mr Okafor could not be read. The reason is that it was saved by an older program, so he has to send"
    " it again.",
    "We were in the new café by the river. The cake was dry, but the people who work there are friendly and we did not"
    " have to wait.",
)
"""Texts of the kind that is wanted, before an opening."""
ANYWHERE = "Hello, this is about"
"""An opening that says nothing."""
RELEVANCE = 2.4
"""The nats a word by which what is said has to be likelier behind its opening than behind ``ANYWHERE``."""
TEMPERATURE, TOP_P, TOKENS = 0.5, 0.9, 64
_FEWEST_WORDS, _MOST_WORDS, _SENTENCES = 2, 40, 2

_END = re.compile(r"[.!?](?=\s|$)")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_ODD = re.compile(r"[^\w\s.,!?'\u2019-]|_|--|\.\.|http|www", re.IGNORECASE)
_NUMBERS = frozenset(NUMBERS) - {"one"} | {
    "twenty", "thirty", "forty", "fifty", "sixty", "hundred", "thousand", "million", "half", "double", "twice", "first",
    "second", "third", "dozen", "percent", "dollar", "dollars", "euro", "euros", "pound", "pounds", "cents",
}  # fmt: skip
_TIMES = {day.lower() for day in WEEKDAYS} | {
    "today", "tomorrow", "tonight", "yesterday", "noon", "midnight", "week", "weeks", "weekend", "month", "months",
    "year", "years", "hour", "hours", "minute", "minutes", "seconds", "days", "morning", "afternoon", "evening",
}  # fmt: skip
_OF_TASKS = {
    "assistant", "user", "question", "questions", "answer", "answers", "following", "sentence", "sentences", "passage",
    "paragraph", "story", "article", "example", "examples", "instruction", "instructions", "ai", "chatbot", "prompt",
    "essay", "nonsensical",
}  # fmt: skip
_DARK = re.compile(
    r"\b(die[sd]?|dying|dead|deaths?|kill\w*|murder\w*|suicid\w*|sex\w*|naked|drugs?|guns?|bomb\w*|terror\w*|rap(e|ed)"
    r"|muslims?|jew\w*|christians?|god|war|nazi\w*|racis\w*|gay|politic\w*)\b",
    re.IGNORECASE,
)
_DANGLING = {
    "a", "an", "the", "of", "to", "and", "or", "but", "because", "with", "for", "in", "on", "at", "by", "is", "are",
    "was", "were", "be", "that", "which",
}  # fmt: skip


class RefusedError(ValueError):
    """The rule that a continuation does not keep."""


def checked(opening: Snippet, said: str) -> str:
    """The first sentence or two of what the model said behind an opening.

    Raises RefusedError with the rule that the first sentence breaks.
    """
    said = said.rstrip()
    ends = [end.end() for end in _END.finditer(said)][:_SENTENCES]
    if not ends:
        raise RefusedError("does not end")
    for count, end in reversed(list(enumerate(ends))):
        try:
            return _accepted(opening, said[:end])
        except RefusedError:
            if count == 0:
                raise
    raise AssertionError("the first sentence is accepted or refused")


def _accepted(opening: Snippet, said: str) -> str:
    before, _ = parted(opening)
    own = _WORD.findall(said)
    lower = [word.lower() for word in own]
    if not re.match(r" [^\W_]", said) and not (re.match(r", [a-z]", said) and before[-1].isalnum()):
        raise RefusedError("begins oddly")
    if not _FEWEST_WORDS <= len(own) <= _MOST_WORDS:
        raise RefusedError("too short or too long")
    if _ODD.search(said):
        raise RefusedError("marks that no sentence needs")
    if re.search(r"\d", said) or _NUMBERS & set(lower):
        raise RefusedError("a number")
    if _TIMES & set(lower):
        raise RefusedError("a time")
    if _names(said):
        raise RefusedError("a name")
    if _OF_TASKS & set(lower):
        raise RefusedError("words of tasks")
    if _DARK.search(said):
        raise RefusedError("dark words")
    if _values(opening, said):
        raise RefusedError("a word that could be a value")
    if _repeats(before, lower):
        raise RefusedError("repetition")
    if lower[-1] in _DANGLING:
        raise RefusedError("breaks off")
    return said


def _names(said: str) -> list[str]:
    """Words with a capital that no sentence begins with."""
    found = []
    for word in _WORD.finditer(said):
        starts = re.search(r"[.!?]\s+$", said[: word.start()])
        if word.group()[0].isupper() and not starts and not re.match(r"I(['\u2019]|$)", word.group()):
            found.append(word.group())
    return found


def _values(opening: Snippet, said: str) -> bool:
    """Tell whether it has a word that training must not see, a proper name, or a value of a kind that is asked for."""
    names = ("first_name", "surname", "city", "country", "company")
    kinds = sorted({own.kind for own in opening.fields} & set(POOLS) | set(names))
    known = (held_out_words(), *(any_of(words(kind)) for kind in kinds))
    return any(own.search(said) for own in known)


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def _repeats(before: str, said: Sequence[str]) -> bool:
    """Tell whether it says three words twice, a long word thrice, or what the opening or a shot says."""
    runs = _runs(said, 3)
    long = Counter(word for word in said if len(word) > 4)
    whole = [word.lower() for word in _WORD.findall(before)]
    shots = {run for shot in SHOTS for run in _runs(_WORD.findall(shot.lower()), 5)}
    return (
        len(set(runs)) < len(runs)
        or any(a == b for a, b in pairwise(said))
        or max(long.values(), default=0) > 1
        or bool(set(_runs(said, 4)) & set(_runs(whole, 4)))
        or bool(set(_runs([*whole[-4:], *said], 5)) & shots)
    )


def opened(seed: int, index: int) -> Snippet:
    """An opening with values of training, each opening in its turn."""
    own = [one for one in openings() if one.domain not in HELD_OUT_DOMAINS]
    return write(own[index % len(own)], Hand(Random(f"{seed} {index}"), False))


def _shown(before: str) -> str:
    return "".join(f"{shot}\n\n" for shot in SHOTS) + before


def relevances(engine: Engine, finished: Sequence[tuple[Snippet, str]]) -> list[float]:
    """Find by how many nats a word each continuation is likelier behind its opening than anywhere."""
    said = [said for _, said in finished]
    here = engine.score_many([_shown(parted(opening)[0]) for opening, _ in finished], said)
    anywhere = engine.score_many([_shown(ANYWHERE)] * len(said), said)
    return [
        (one.log_likelihood - other.log_likelihood) / len(_WORD.findall(text))
        for one, other, text in zip(here, anywhere, said, strict=True)
    ]


def continued(engine: Engine, opened: Sequence[Snippet], seeds: Sequence[int]) -> list[str]:
    """Let the model go on with each opening, on the same line."""
    answers = engine.generate_many(
        [_shown(parted(one)[0]) for one in opened],
        seeds=seeds,
        mode="autoregressive",
        max_tokens=TOKENS,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        stop="\n",
    )
    return [answer.text for answer in answers]


def finish(engine: Engine, count: int, seed: int, batch: int, refused: Counter[str]) -> Iterator[Snippet]:
    """Finish ``count`` openings and keep what is accepted; ``refused`` counts the rules that were broken."""
    before: set[tuple[str, int, str]] = set()
    for start in range(0, count, batch):
        numbers = range(start, min(start + batch, count))
        begun = [opened(seed, index) for index in numbers]
        seeds = [Random(f"{seed} {index} said").getrandbits(31) for index in numbers]
        kept: list[tuple[Snippet, str]] = []
        for one, said in zip(begun, continued(engine, begun, seeds), strict=True):
            try:
                kept.append((one, checked(one, said)))
            except RefusedError as rule:
                refused[str(rule)] += 1
        for (one, said), relevance in zip(kept, relevances(engine, kept), strict=True):
            if relevance < RELEVANCE:
                refused["as likely anywhere"] += 1
            elif (one.domain, one.number, said) in before:
                refused["said before"] += 1
            else:
                before.add((one.domain, one.number, said))
                yield joined(one, said)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    model: Annotated[str, typer.Option("--model", "-m", help="The base; it has to write token after token.")],
    write: Annotated[Path, typer.Option(help="File that is written, an accepted text a line.")],
    count: Annotated[int, typer.Option(min=1, help="Openings that are finished.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Decides all that is drawn.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Openings at a time.")] = 62,
) -> None:
    """Finish openings by a language model.

    Example: python -m redraft.train.recipes.pocket.finish --model runs/base --count 1000 --write finished.jsonl
    """
    refused: Counter[str] = Counter()
    kept = 0
    with load(model) as engine, replacing(write) as path, path.open("w", encoding="utf-8") as file:
        for snippet in finish(engine, count, seed, batch, refused):
            file.write(json.dumps(line(snippet), ensure_ascii=False, separators=(",", ":")) + "\n")
            kept += 1
    rules = ", ".join(f"{rule} {times}" for rule, times in refused.most_common())
    typer.echo(f"{kept} of {count} are kept: {write}. Not kept: {rules or 'none'}")


if __name__ == "__main__":
    app()

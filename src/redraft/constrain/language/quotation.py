"""The stretches of one text, as they stand there, from the border of a word to the border of a word."""

from redraft.constrain.expression import EMPTY, Expression, Literal, Network
from redraft.errors import ConstraintError


def quotation(text: str) -> Expression:
    """Return the stretches of ``text`` that cut no word, and neither begin nor end with white space.

    A word is a run of letters and digits. Raises ConstraintError for a text of nothing but white space.
    """
    # A way from place 0 begins before any character, goes on along the text, and ends at place 1.
    edges: list[tuple[int, Expression, int]] = []
    for index, character in enumerate(text):
        before, after = 2 + index, 3 + index
        edges.append((before, Literal(character), after))
        if not character.isspace() and _is_border(text, index):
            edges.append((0, EMPTY, before))
        if not character.isspace() and _is_border(text, index + 1):
            edges.append((before, Literal(character), 1))
    if not text.strip():
        raise ConstraintError("the text is white space, of which nothing can be quoted")
    return Network(3 + len(text), tuple(edges))


def _is_border(text: str, index: int) -> bool:
    return not (text[index - 1 : index].isalnum() and text[index : index + 1].isalnum())

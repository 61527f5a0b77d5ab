"""The common part of the writers of strings, arrays and objects; how texts are spelled can be overridden."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property

from redraft.constrain.expression import Expression
from redraft.constrain.language.json import logic as schema_logic
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.keywords import ForbiddenError, ImpossibleError, TooDeepError, fail
from redraft.constrain.language.json.merge import Merged, Places
from redraft.constrain.language.json.text import Layout
from redraft.errors import ConstraintError


class Writer(ABC):
    """Writes the values that are valid at places of one document, as its methods spell strings and keys."""

    def __init__(self, document: Document, layout: Layout, depth: int) -> None:
        self._document = document
        self._layout = layout
        self._depth = depth

    @abstractmethod
    def write(self, places: Places, chosen: frozenset[str] = frozenset()) -> Expression:
        """The values that are valid where all ``places`` hold; they include an option of each of ``chosen``."""

    def any_value(self, depth: int) -> Expression:
        """Any value nested at most ``depth`` deep."""
        return json_text.any_value(self._layout, depth)

    def fixed_value(self, value: object) -> Expression:
        """Exactly this value."""
        return json_text.fixed(value, self._layout)

    def string(self, min_length: int, max_length: int | None) -> Expression:
        """A string of ``min_length`` to ``max_length`` characters."""
        return json_text.string(min_length, max_length)

    def string_of(self, value: Expression) -> Expression:
        """A string whose value matches ``value``."""
        return json_text.string_of(value)

    def key(self, name: str) -> Expression:
        """The key of a declared member."""
        return json_text.fixed_key(name)

    def other_key(self, names: Iterable[str], within: Expression | None = None) -> Expression:
        """A key that is none of ``names`` and, where that is given, matches ``within``."""
        return json_text.other_key(names, within)

    def ordered(self, names: Iterable[str]) -> list[str]:
        """The order in which declared members are written."""
        return list(dict.fromkeys(names))

    @cached_property
    def _any_value(self) -> Expression:
        return self.any_value(self._depth)

    @cached_property
    def _any_part(self) -> Expression:
        """Any value in a free array or object."""
        return self.any_value(self._depth - 1)

    def _possible(self, result: Expression, merged: Merged, problem: str) -> Expression:
        if schema_logic.is_empty(self._document, result):
            raise fail(merged.pointer, problem, ImpossibleError)
        return result

    def _unless_impossible(self, places: Places) -> Expression | None:
        try:
            return self.write(places) if places else self._any_part
        except ImpossibleError:
            return None

    def _unless_forbidden(self, places: Places) -> Expression | ForbiddenError:
        try:
            return self.write(places)
        except ForbiddenError as error:
            return error


def needed(error: ImpossibleError, merged: Merged, problem: str) -> ConstraintError:
    """The error of a part that is forbidden and must be there. At the end of recursion, the whole may be left out."""
    return error if isinstance(error, TooDeepError) else fail(merged.pointer, problem, ImpossibleError)

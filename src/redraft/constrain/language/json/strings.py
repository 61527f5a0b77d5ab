"""Strings of JSON schemas, and texts that keys may be, as expressions."""

from redraft.constrain.expression import AllOf, Expression, Literal, Repeat, Without, any_of
from redraft.constrain.language.json import logic as schema_logic
from redraft.constrain.language.json.keywords import ForbiddenError, ImpossibleError, fail
from redraft.constrain.language.json.merge import Merged, Place, Places
from redraft.constrain.language.json.text import ANY_CHARACTER
from redraft.constrain.language.json.writer import Writer


class StringWriter(Writer):
    """Writes strings."""

    def _string(self, merged: Merged) -> Expression:
        value = self._text(merged)
        return self.string(*merged.length) if value is None else self.string_of(value)

    def _text(self, merged: Merged) -> Expression | None:
        """The values of strings; None where nothing but their length is stated."""
        low, high = merged.length
        if high is not None and high < low:
            raise fail(merged.pointer, f"'minLength' {low} is above 'maxLength' {high}", ImpossibleError)
        if merged.unlike_formats:
            raise fail(merged.pointer, "no string is known to every reader not to be of a 'format'", ImpossibleError)
        texts, unlike = schema_logic.languages(merged), schema_logic.unlike(merged)
        unlike += [Literal(value) for value in merged.excluded if isinstance(value, str)]
        if not texts and not unlike:
            return None
        if (low, high) != (0, None) or not texts:
            texts.append(Repeat(ANY_CHARACTER, low, high))
        value = texts[0] if len(texts) == 1 else AllOf(tuple(texts))
        return self._possible(
            Without(value, any_of(*unlike)) if unlike else value,
            merged,
            "no string satisfies 'pattern', 'format' and the lengths together",
        )

    def texts(self, places: Places) -> Expression | None:
        """The values of the strings for which ``places`` hold; None for all strings."""
        return self._texts((*places, Place({"type": "string"}, "~key", derived=True)), frozenset())

    def _texts(self, places: Places, chosen: frozenset[str]) -> Expression | None:
        merged = self._document.merge(places, self._depth)
        with self._document.nested(merged.pointer):
            if not merged.kinds:
                raise fail(merged.pointer, "no key is a string here", ForbiddenError)
            if merged.values is not None:
                values = [one for one in merged.values if schema_logic.satisfies(self._document, merged, one)]
                return any_of(*values)
            for one in merged.alternatives:
                if one.pointer not in chosen:
                    if one.keyword == "oneOf":
                        raise fail(one.pointer, "'oneOf' for keys is not supported; write 'anyOf'")
                    found = [self._texts((*places, *option), chosen | {one.pointer}) for option in one.options]
                    return None if None in found else any_of(*(text for text in found if text is not None))
            value = self._text(merged)
            if value is None and merged.length != (0, None):
                value = Repeat(ANY_CHARACTER, *merged.length)
            return value

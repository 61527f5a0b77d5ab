"""Objects of JSON schemas as expressions."""

from collections.abc import Hashable, Mapping

from redraft.constrain.expression import AllOf, Expression, Repeat, Without, any_of
from redraft.constrain.language.json import containers
from redraft.constrain.language.json import logic as schema_logic
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.keywords import ForbiddenError, ImpossibleError, fail
from redraft.constrain.language.json.merge import Merged
from redraft.constrain.language.json.strings import StringWriter
from redraft.constrain.language.json.text import ANY_CHARACTER, Layout, Member
from redraft.constrain.language.json.writer import needed


class ObjectWriter(StringWriter):
    """Writes objects."""

    def __init__(self, document: Document, layout: Layout, depth: int) -> None:
        super().__init__(document, layout, depth)
        self._keys: dict[Hashable, tuple[Expression | None, Expression | None]] = {}

    def _object(self, merged: Merged) -> Expression:
        if any(isinstance(value, Mapping) and value for value in merged.excluded):
            raise fail(merged.pointer, "the contrary of an object that is given whole is not supported")
        low, high = merged.counts
        low = max(low, 1) if {} in merged.excluded else low
        names = self.ordered([*merged.properties, *merged.required])
        members = []
        for name in names:
            required = name in merged.required
            value = self._member_value(merged, name)
            if isinstance(value, ImpossibleError):
                if required:
                    raise needed(value, merged, f"the required property {name!r} is not possible")
                continue
            text = json_text.member(self._layout, self.key(name), value)
            members.append(Member(text, required))
        further = self._further(merged, names)
        return containers.object_text(self._layout, members, further, (low, high), merged.pointer)

    def _member_value(self, merged: Merged, name: str) -> Expression | ImpossibleError:
        if merged.keys and not schema_logic.accepts(self._document, merged.keys, name):
            return ForbiddenError(str(fail(merged.pointer, f"'propertyNames' does not allow {name!r}")))
        places = merged.member(name)
        try:
            return self.write(places)
        except ForbiddenError as error:
            return error
        except ImpossibleError as error:
            # A condition may rule out what is stated elsewhere; the member is then left out.
            if len(places) > 1 and any(place.derived for place in places):
                return error
            raise

    def _further(self, merged: Merged, names: list[str]) -> Expression | None:
        """Members that are not named, key and value; None for none."""
        try:
            within = self.texts(merged.keys) if merged.keys else None
        except ImpossibleError:
            # No key is allowed.
            return None
        patterns = merged.key_patterns()
        pairs = []
        for found in containers.pattern_sets(patterns):
            value = self._further_value(merged, frozenset(pattern for pattern, _ in found))
            if value is None:
                continue
            key = self._further_key(patterns, found, names, within)
            if key is not None:
                pairs.append(json_text.member(self._layout, key, value))
        return None if not pairs else pairs[0] if len(pairs) == 1 else any_of(*pairs)

    def _further_key(
        self,
        patterns: list[tuple[str, str]],
        found: tuple[tuple[str, str], ...],
        names: list[str],
        within: Expression | None,
    ) -> Expression | None:
        """The keys in which these of the ``patterns`` are found and no others; None where there are none.

        The same ones are one expression wherever they stand, so that they become an automaton once.
        """
        asked = (tuple(patterns), found, frozenset(names), id(within))
        if asked not in self._keys:
            text = self._key_text(patterns, found, names, within) if patterns else None
            if text is None:
                key: Expression | None = self.other_key(names, within)
            else:
                key = None if schema_logic.is_empty(self._document, text) else self.other_key((), text)
            # What is known by its identity must stay there.
            self._keys[asked] = key, within
        return self._keys[asked][0]

    def _key_text(
        self,
        patterns: list[tuple[str, str]],
        found: tuple[tuple[str, str], ...],
        names: list[str],
        within: Expression | None,
    ) -> Expression:
        document, excluded = self._document, set(names)
        held: list[Expression] = [schema_logic.searched(*pattern) for pattern in found]
        held += [json_text.other_text(excluded)] if excluded else []
        held += [] if within is None else [within]
        others = [schema_logic.searched(*one, possibly=True) for one in patterns if one not in found]
        value = held[0] if len(held) == 1 else AllOf(tuple(held)) if held else Repeat(ANY_CHARACTER, 0, None)
        document.spend(sum(len(pattern) for pattern, _ in patterns))
        return Without(value, any_of(*others)) if others else value

    def _further_value(self, merged: Merged, found: frozenset[str]) -> Expression | None:
        """The value of members that are not named and in whose keys these patterns are found."""
        places = merged.further(found)
        if places is None:
            return None if merged.declares else self._any_part
        try:
            return self.write(places)
        except ForbiddenError:
            return None
        except ImpossibleError:
            # What two patterns say may exclude each other; then no key has both.
            if found:
                return None
            raise

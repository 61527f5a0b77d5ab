"""Arrays of JSON schemas as expressions."""

from typing import Any

from redraft.constrain.expression import Expression
from redraft.constrain.language import decimal_range
from redraft.constrain.language.json import containers
from redraft.constrain.language.json import logic as schema_logic
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.keywords import ForbiddenError, ImpossibleError, Value, fail
from redraft.constrain.language.json.merge import Merged, Places
from redraft.constrain.language.json.writer import Writer, needed


class ArrayWriter(Writer):
    """Writes arrays."""

    def _array(self, merged: Merged) -> Expression:
        low, high = merged.items
        if any(isinstance(value, list | tuple) and value for value in merged.excluded):
            raise fail(merged.pointer, "the contrary of an array that is given whole is not supported")
        low = max(low, 1) if [] in merged.excluded else low
        if high is not None and high < low:
            raise fail(merged.pointer, f"'minItems' {low} is above 'maxItems' {high}", ImpossibleError)
        if merged.unique and (high is None or high > 1):
            return self._unique(merged, low, high)
        if any(one.min > 0 or one.max is not None for one in merged.contains):
            return self._containing(merged, low, high)
        prefix: list[Expression] = []
        for places in merged.prefix[:high]:
            item = self._unless_forbidden(places)
            if isinstance(item, ForbiddenError):
                if len(prefix) < low:
                    raise needed(item, merged, f"item {len(prefix)} is not possible, 'minItems' is {low}")
                return json_text.array_text(self._layout, prefix, None, low, len(prefix))
            prefix.append(item)
        if high is not None and high == len(prefix):
            return json_text.array_text(self._layout, prefix, None, low, high)
        return self._array_with_rest(merged, prefix, low, high)

    def _array_with_rest(self, merged: Merged, prefix: list[Expression], low: int, high: int | None) -> Expression:
        if merged.rest is None:
            # After declared items only as many are written as 'minItems' asks for.
            high = max(low, len(prefix)) if prefix else high
            return json_text.array_text(self._layout, prefix, self._any_part, low, high)
        rest = self._unless_forbidden(merged.rest)
        if not isinstance(rest, ForbiddenError):
            return json_text.array_text(self._layout, prefix, rest, low, high)
        if low > len(prefix):
            raise needed(rest, merged, f"item {len(prefix)} is not possible, 'minItems' is {low}")
        return json_text.array_text(self._layout, prefix, None, low, len(prefix))

    def _unique(self, merged: Merged, low: int, high: int | None) -> Expression:
        """Arrays whose items differ, of a few values."""
        values = None if merged.prefix or merged.contains else self._few_values(merged.rest or ())
        if values is None:
            raise fail(
                merged.pointer,
                "'uniqueItems' is supported for items of a few values, such as an 'enum', or with 'maxItems' 1; leave "
                "it out and check the result",
            )
        high = len(values) if high is None else min(high, len(values))
        if low > high:
            raise fail(merged.pointer, f"'minItems' {low} is above the {len(values)} different items", ImpossibleError)
        texts = [self.fixed_value(value) for value in values]
        return containers.different(self._layout, texts, low, high, merged.pointer)

    def _few_values(self, places: Places) -> list[Any] | None:
        """All values for which ``places`` hold, where they are listed or of a type with few."""
        merged = self._document.merge(places, self._depth)
        values = merged.values
        if values is None:
            if merged.kinds is None or not merged.kinds <= {"boolean", "null", "integer"}:
                return None
            values = [False, True] * ("boolean" in merged.kinds) + [None] * ("null" in merged.kinds)
            if "integer" in merged.kinds:
                listed = decimal_range.listed(merged.lower, merged.upper, containers.MAX_LISTED)
                if listed is None:
                    return None
                values += listed
        values = list({Value.of(value): value for value in values}.values())
        return [value for value in values if schema_logic.satisfies(self._document, merged, value)]

    def _containing(self, merged: Merged, low: int, high: int | None) -> Expression:
        """Arrays with so many items for which a schema holds."""
        one = merged.contains[0]
        if len(merged.contains) > 1 or merged.prefix or merged.unique or (one.max or 0) > containers.MAX_COUNTED:
            raise fail(
                merged.pointer, "'contains' is supported once, without 'prefixItems', 'uniqueItems' and high counts"
            )
        rest = merged.rest or ()
        held = self._unless_impossible((*rest, *one.places))
        if held is None and one.min > 0:
            raise fail(merged.pointer, "no item satisfies 'contains' and 'items' together", ImpossibleError)
        if one.max is None:
            other = self._unless_impossible(rest)
        else:
            other = self._unless_impossible((*rest, *(place.contrary() for place in one.places)))
        return containers.containing(self._layout, held, other, one, (low, high))

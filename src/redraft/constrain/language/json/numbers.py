"""Numbers of JSON schemas as expressions."""

from typing import Any

from redraft.constrain.expression import NOTHING, AllOf, Expression, Without, any_of
from redraft.constrain.language import decimal_range, multiples
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.keywords import ImpossibleError, fail
from redraft.constrain.language.json.merge import Merged
from redraft.constrain.language.json.writer import Writer


class NumberWriter(Writer):
    """Writes numbers."""

    def _number(self, merged: Merged, kind: str) -> Expression:
        kinds = merged.written_kinds
        whole = kind == "integer" or bool(merged.multiples)
        excluded = [value for value in merged.excluded if _is_number(value)]
        if kind == "fraction" and "integer" not in kinds:
            if whole:
                raise fail(merged.pointer, "no multiple of an integer is a fraction", ImpossibleError)
            return self._proper_fraction(merged, excluded)
        if merged.lower is None and merged.upper is None:
            result: Expression = json_text.INTEGER if whole else json_text.NUMBER
            if excluded and not whole:
                result = json_text.DECIMAL
        else:
            within = decimal_range.integers if whole else decimal_range.decimals
            result = within(merged.lower, merged.upper)
            if result == NOTHING:
                raise fail(merged.pointer, "no number lies within 'minimum' and 'maximum'", ImpossibleError)
        for multiple in merged.multiples:
            result = AllOf((result, multiples.integers(multiple)))
        if excluded:
            result = Without(result, any_of(*map(json_text.spellings, excluded)))
        if not isinstance(result, AllOf | Without):
            return result
        return self._possible(result, merged, "no number satisfies all that holds here")

    def _proper_fraction(self, merged: Merged, excluded: list[Any]) -> Expression:
        """Numbers that are no integers, without an exponent."""
        result: Expression = json_text.PROPER_FRACTION
        if merged.lower is not None or merged.upper is not None:
            result = AllOf((result, decimal_range.decimals(merged.lower, merged.upper)))
        if excluded:
            result = Without(result, any_of(*map(json_text.spellings, excluded)))
        return self._possible(result, merged, "no number satisfies all that holds here")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

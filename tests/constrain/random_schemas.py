"""Random JSON schemas over the supported keywords, and values near the valid ones."""

import copy
import random
from collections.abc import Callable
from typing import Any

from tests.constrain.judges import FORMATS

Schema = dict[str, Any]
Draw = Callable[[int], Schema]

PATTERNS = ["^a+b?$", "^[0-9]{2,3}$", "x", "^(ab|cd)", "[a-c]{2}$", "^$|q", "\\d\\.\\d", '"', "^\\n", "a|^b|c$"]
# Dialects read these differently.
PATTERNS += ["^\\w+$", "^\\S+\\s\\S+$", "\\D", "^.{1,3}$", "^[^\\d\\s]*$", "\\W"]
ANNOTATIONS = {"title": "t", "description": "d", "$comment": "c", "default": 1, "examples": ["e"], "deprecated": True}
ANNOTATIONS |= {"readOnly": False, "writeOnly": True}
NAMES = ["a", "b", "ab", "name", 'q"t', "é/~"]


class RandomSchemas:
    """Draws schemas, by default with all types said outright, and whether objects are closed or open; if ``loose``,
    these are often left out, and options of 'oneOf' may overlap."""

    def __init__(self, seed: int, *, loose: bool = False) -> None:
        self.chance = random.Random(seed)
        self.loose = loose
        self.definitions: dict[str, object] = {}
        self.place = "$defs"

    def draw(self) -> Schema:
        self.definitions = {}
        self.place = self.chance.choice(["$defs", "$defs", "definitions"])
        schema = self.schema(3)
        if self.definitions:
            schema[self.place] = self.definitions
        about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/schema"}
        return {**about, **schema} if self.maybe(0.1) else schema

    def schema(self, depth: int) -> Schema:
        kinds: list[Callable[[int], Schema]] = [
            self.text,
            self.integer,
            self.number,
            self.scalar,
            self.options,
            self.fixed,
        ]
        containers: list[Draw] = [self.members, self.items, self.any_of, self.one_of, self.all_of, self.reference]
        schema = self.chance.choice(kinds + containers * (depth > 0))(depth - 1)
        if self.maybe(0.1):
            schema |= {name: ANNOTATIONS[name] for name in self.chance.sample(sorted(ANNOTATIONS), 2)}
        return {key: value for key, value in schema.items() if not (self.loose and self.may_miss(key))}

    def may_miss(self, keyword: str) -> bool:
        return keyword in ("type", "additionalProperties", "items", "required") and self.maybe(0.3)

    def maybe(self, probability: float = 0.5) -> bool:
        return self.chance.random() < probability

    def count(self, low: int, high: int) -> int | float:
        """From low up to below high, once in a while with a point."""
        number = self.chance.randrange(low, high)
        return float(number) if self.maybe(0.1) else number

    def text(self, _: int) -> Schema:
        schema: Schema = {"type": "string"}
        if self.maybe(0.4):
            schema["minLength"] = self.count(0, 3)
        if self.maybe(0.4):
            schema["maxLength"] = self.count(3, 7)
        if self.maybe(0.3):
            schema["pattern"] = self.chance.choice(PATTERNS)
        elif self.maybe(0.6) and "maxLength" not in schema:
            schema["format"] = self.chance.choice(FORMATS)
        return schema

    def bounds(self, draw: Callable[[], float]) -> Schema:
        low, high = sorted([draw(), draw()])
        schema: Schema = {}
        if self.maybe():
            schema[self.chance.choice(["minimum", "exclusiveMinimum"])] = low
        if self.maybe() and low < high:
            schema[self.chance.choice(["maximum", "exclusiveMaximum"])] = high
        return schema

    def integer(self, _: int) -> Schema:
        return {"type": "integer", **self.bounds(lambda: self.chance.randrange(-30, 150))}

    def number(self, _: int) -> Schema:
        return {"type": "number", **self.bounds(lambda: round(self.chance.uniform(-12, 12), self.chance.randrange(4)))}

    def scalar(self, _: int) -> Schema:
        return {"type": self.chance.choice(["boolean", "null", ["string", "null"], ["integer", "boolean"], "string"])}

    def value(self) -> Any:
        return self.chance.choice([None, True, 1, -2, 0.5, "a", "ab", "é\n", [], [1, "a"], {"a": 1, "b": [None]}, {}])

    def options(self, _: int) -> Schema:
        return {"enum": [self.value() for _ in range(self.chance.randrange(1, 5))]}

    def fixed(self, _: int) -> Schema:
        return {"const": self.value()}

    def members(self, depth: int) -> Schema:
        names = self.chance.sample(NAMES, self.chance.randrange(5))
        schema: Schema = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        schema["additionalProperties"] = self.schema(depth) if self.maybe(0.25) else self.maybe(0.25)
        schema["required"] = [name for name in names if self.maybe()]
        return schema

    def items(self, depth: int) -> Schema:
        schema: Schema = {"type": "array"}
        if self.maybe(0.3):
            schema["prefixItems"] = [self.schema(depth) for _ in range(self.chance.randrange(1, 4))]
        schema["items"] = self.chance.choice([True, False]) if self.maybe(0.2) else self.schema(depth)
        if self.maybe(0.4) and (schema["items"] or "prefixItems" in schema):
            schema["minItems"] = self.count(0, 1 if schema["items"] is False else 3)
        if self.maybe(0.4):
            schema["maxItems"] = self.count(2, 5)
        if self.maybe(0.1):
            schema["uniqueItems"] = False
        return schema

    def any_of(self, depth: int) -> Schema:
        return {"anyOf": [self.schema(depth) for _ in range(self.chance.randrange(1, 4))]}

    def one_of(self, depth: int) -> Schema:
        if self.loose:
            return {**self.chance.choice([{}, self.schema(depth)]), "oneOf": [self.schema(depth), self.schema(depth)]}
        tags = self.chance.sample(["x", "y", "z"], self.chance.randrange(1, 4))
        options = []
        for tag in tags:
            option = self.members(depth)
            option["properties"] = {"kind": {"const": tag}, **option["properties"]}
            option["required"].append("kind")
            options.append(option)
        return {"oneOf": options + [{"type": ["integer", "null"]}] * self.maybe(0.3)}

    def all_of(self, depth: int) -> Schema:
        if self.loose:
            return {**self.schema(depth), "allOf": [self.schema(depth)], "anyOf": [self.schema(depth), {}]}
        if self.maybe(0.3):
            return {"allOf": [self.integer(depth), {"type": "number", "maximum": 200}], "minimum": -100}
        if self.maybe(0.3):
            return {"anyOf": [{"minLength": 1}, {"maxLength": 3, "type": "string"}], "type": ["string", "null"]}
        return {"allOf": [self.members(depth), {"properties": {"a": {"type": ["integer", "string"]}}}]}

    def reference(self, depth: int) -> Schema:
        if self.maybe(0.1):
            return {"$ref": "#"}
        name = self.chance.choice("uvw")
        if name not in self.definitions:
            self.definitions[name] = True
            self.definitions[name] = self.schema(depth)
        return {"$ref": f"#/{self.place}/{name}"}

    def near(self, value: Any) -> Any:
        """A value like another one, somewhere a little different."""
        value = copy.deepcopy(value)
        if isinstance(value, dict) and value and self.maybe(0.7):
            name = self.chance.choice(list(value))
            if self.maybe(0.3):
                del value[name]
            else:
                value[name] = self.near(value[name])
            return value
        if isinstance(value, list) and value and self.maybe(0.7):
            index = self.chance.randrange(len(value))
            if self.maybe(0.3):
                value.insert(index, self.value())
            elif self.maybe(0.4):
                del value[index]
            else:
                value[index] = self.near(value[index])
            return value
        if isinstance(value, dict) and self.maybe(0.6):
            return {**value, self.chance.choice([*NAMES, "zz"]): self.value()}
        if isinstance(value, str) and self.maybe(0.7):
            at = self.chance.randrange(len(value) + 1)
            return value[:at] + self.chance.choice(["", "a", "b", "1", '"', "\n", "é", "😀", "xx"]) + value[at + 1 :]
        if isinstance(value, int | float) and self.maybe(0.7):
            return value + self.chance.choice([-1, 1, 0.5, -0.25, 10])
        return self.value()

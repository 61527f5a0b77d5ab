"""The form in which a family of models writes what it thinks before it answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ThoughtSyntax:
    """The texts of the tokens between which a model thinks, and what it writes first there."""

    opening: str
    closing: str
    name: str = ""
    """The text behind the opening marker that names the block; it is no part of the thought."""

    @property
    def empty(self) -> str:
        """The block of a model that is not to think."""
        return f"{self.opening}{self.name}{self.closing}"

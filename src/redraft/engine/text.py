"""Turns finished canvases into text that never has to be taken back."""

from collections.abc import Callable, Sequence

# What decoders put for bytes that do not yet make a character.
_INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes a growing answer; holds back unfinished characters and whatever may yet become a stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        self._decode, self._stop = decode, stop
        self._given = 0
        self.token_ids: list[int] = []
        self.text = ""
        self.stopped = False

    def add(self, tokens: Sequence[int], last: bool) -> str:
        """Append a canvas's tokens; returns the new text that is safe to hand out. ``last``: nothing follows."""
        before = len(self.token_ids)
        self.token_ids.extend(tokens)
        self.text = self._decode(self.token_ids)
        # The stop string that is complete first counts, as it would if the answer came letter by letter.
        found = min(((at + len(s), at) for s in self._stop if (at := self.text.find(s)) >= 0), default=None)
        if found is not None:
            self.text, self.stopped = self.text[: found[1]], True
            del self.token_ids[self._tokens_until_stop(before) :]
        safe = len(self.text) if last or self.stopped else self._safe_length()
        new, self._given = self.text[self._given : safe], max(self._given, safe)
        return new

    def _tokens_until_stop(self, before: int) -> int:
        """The least number of tokens whose text has a stop string; more than ``before``, or it was found earlier."""
        low, high = before + 1, len(self.token_ids)
        while low < high:
            middle = (low + high) // 2
            text = self._decode(self.token_ids[:middle])
            if any(stop in text for stop in self._stop):
                high = middle
            else:
                low = middle + 1
        return low

    def _safe_length(self) -> int:
        text = self.text.rstrip(_INCOMPLETE)
        held = 0
        for stop in self._stop:
            longest = min(len(stop) - 1, len(text))
            held = max(held, next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0))
        return len(text) - held

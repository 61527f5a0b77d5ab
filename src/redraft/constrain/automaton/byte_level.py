"""GPT-2's letters for the 256 bytes, in which byte-level tokenizers name their tokens."""


def _alphabet() -> dict[int, int]:
    """Printable letters of Latin-1 stand for themselves, the other bytes' letters follow from U+0100 on.

    The letters that are left of U+0080..U+00FF, which stand for no byte, go where Latin-1 cannot encode them.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [value for value in range(256) if value not in printable]
    outside = {value: 0x10FFFF for value in others}
    return outside | {256 + index: value for index, value in enumerate(others)}


_ALPHABET = _alphabet()


def from_letters(name: str) -> bytes:
    """Return the bytes that a token's name spells, which need not be whole characters."""
    try:
        return name.translate(_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        # An added token is written as it is, unless the alphabet has all of its letters.
        return name.encode()

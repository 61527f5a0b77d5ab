"""The tokenizer that a GGUF file's metadata describes, made for the ``tokenizers`` library."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from redraft.errors import CheckpointError
from redraft.formats.gguf.header import Header

# What a token is: made by merging, never text, or text that is always one token.
_MERGED, _CONTROL, _DECLARED = 1, 3, 4
_SPACE = "\u2581"
_PREFIX = "tokenizer.ggml."
_SPECIAL = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "mask": "mask"}
# Llama 3's words, before they are spelled in bytes; https://github.com/meta-llama/llama3 (tokenizer.py).
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Before the bytes, by what ``tokenizer.ggml.pre`` calls them.
_WORDS: dict[str, list[pre_tokenizers.PreTokenizer]] = {
    "default": [],
    "gpt-2": [],
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
    "llama-bpe": [pre_tokenizers.Split(Regex(_LLAMA3_WORDS), "isolated")],
}
_WHOLE_WORDS_FIRST = ("llama-bpe",)


@dataclass(frozen=True)
class DescribedTokenizer:
    """A tokenizer, the texts that a chat template knows as ``bos_token`` and so on, and the chat template."""

    tokenizer: Tokenizer
    special: dict[str, str]
    template: str | None


def read_tokenizer(header: Header) -> DescribedTokenizer:
    """Make the tokenizer. Raises CheckpointError for a kind that is not read, naming those that are."""
    kind = header.field(f"{_PREFIX}model")
    makers = {"gpt2": _byte_level, "llama": _sentencepiece, "gemma4": _merged_sentencepiece}
    if kind not in makers:
        raise CheckpointError(
            f"{header.path}: {_PREFIX}model {kind!r} is not supported; supported are {', '.join(map(repr, makers))}"
        )
    pieces, kinds = _pieces(header, kind), header.field(f"{_PREFIX}token_type")
    tokenizer = makers[kind](header, pieces, kinds)
    _declare(tokenizer, pieces, kinds)
    ids = {name: header.metadata.get(f"{_PREFIX}{name}_token_id") for name in _SPECIAL}
    special = {f"{_SPECIAL[name]}_token": pieces[token] for name, token in ids.items() if token is not None}
    _add_ends(header, tokenizer, special, kind)
    return DescribedTokenizer(tokenizer, special, header.metadata.get("tokenizer.chat_template"))


def _pieces(header: Header, kind: str) -> list[str]:
    pieces = header.field(f"{_PREFIX}tokens")
    if kind != "gpt2":
        # Declared tokens are written with the spaces that SentencePiece has a sign for.
        pieces = [piece.replace(" ", _SPACE) for piece in pieces]
    if not isinstance(pieces, list) or len(set(pieces)) < len(pieces):
        raise CheckpointError(f"{header.path}: {_PREFIX}tokens must be texts, each another one")
    return pieces


def _byte_level(header: Header, pieces: Sequence[str], kinds: Sequence[int]) -> Tokenizer:
    """GPT-2's: words spelled in bytes, that are merged."""
    name = header.field(f"{_PREFIX}pre", "default")
    if name not in _WORDS:
        known = ", ".join(map(repr, _WORDS))
        raise CheckpointError(f"{header.path}: {_PREFIX}pre {name!r} is not supported; supported are {known}")
    whole = name in _WHOLE_WORDS_FIRST
    tokenizer = Tokenizer(models.BPE(_vocabulary(pieces), _given_merges(header), ignore_merges=whole))
    own_words = _WORDS[name]
    # Its own words are GPT-2's; whoever has others needs the bytes alone.
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not whole)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*own_words, in_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(header: Header, pieces: Sequence[str], kinds: Sequence[int]) -> Tokenizer:
    """SentencePiece's byte-pair encoding, as Llama 2 and Gemma 3 have it: no merges are listed, a higher score comes
    first."""
    merges = list(_merges_of_scores(_vocabulary(pieces), kinds, header.field(f"{_PREFIX}scores")))
    return _spelled(header, pieces, merges)


def _merged_sentencepiece(header: Header, pieces: Sequence[str], kinds: Sequence[int]) -> Tokenizer:
    """Gemma 4's: the same, with its merges listed."""
    return _spelled(header, pieces, _given_merges(header))


def _spelled(header: Header, pieces: Sequence[str], merges: list[tuple[str, str]]) -> Tokenizer:
    unknown = pieces[header.field(f"{_PREFIX}unknown_token_id", 0)]
    tokenizer = Tokenizer(models.BPE(_vocabulary(pieces), merges, unk_token=unknown, byte_fallback=True, fuse_unk=True))
    prefixed = header.field(f"{_PREFIX}add_space_prefix", True)
    space = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), space]) if prefixed else space
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return tokenizer


def _vocabulary(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: token for token, piece in enumerate(pieces)}


def _given_merges(header: Header) -> list[tuple[str, str]]:
    pairs = []
    for line in header.field(f"{_PREFIX}merges"):
        # A piece may begin with what parts the two, but none is empty.
        rest, parted, right = line[1:].partition(" ")
        if not (parted and right):
            raise CheckpointError(f"{header.path}: {_PREFIX}merges has {line!r}, which is no pair")
        pairs.append((line[0] + rest, right))
    return pairs


def _merges_of_scores(
    vocabulary: dict[str, int], kinds: Sequence[int], scores: Sequence[float]
) -> Iterator[tuple[str, str]]:
    """All pairs of pieces that make a piece; what is made of declared text comes first, then what scores best."""
    made = [
        (kinds[token] != _DECLARED, -scores[token], token, piece)
        for piece, token in vocabulary.items()
        if kinds[token] in (_MERGED, _DECLARED)
    ]
    token_of = vocabulary.get
    for *_, piece in sorted(made):
        # Two million cuts of a large vocabulary: the second part is looked for where the first one is known.
        known = [
            (left, right, cut)
            for cut in range(1, len(piece))
            if (left := token_of(piece[:cut])) is not None and (right := token_of(piece[cut:])) is not None
        ]
        for *_, cut in sorted(known):
            yield piece[:cut], piece[cut:]


def _declare(tokenizer: Tokenizer, pieces: Sequence[str], kinds: Sequence[int]) -> None:
    """Control tokens are special, but for those that are there to be given a meaning: like those that are published as
    ``<unused7>``, these are written out like text."""
    control = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _CONTROL]
    unused = {piece for piece in control if piece.startswith("<unused")}
    tokenizer.add_special_tokens([AddedToken(p, normalized=False) for p in control if p not in unused])
    written = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _DECLARED or piece in unused]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in written])


def _add_ends(header: Header, tokenizer: Tokenizer, special: dict[str, str], kind: str) -> None:
    """Have the tokenizer put the tokens before and behind a text that the file says belong there."""
    # SentencePiece's begin with a token where nothing is said.
    wanted = {
        "bos_token": header.field(f"{_PREFIX}add_bos_token", kind != "gpt2"),
        "eos_token": header.field(f"{_PREFIX}add_eos_token", False),
    }
    before, behind = ([special[name]] if said and name in special else [] for name, said in wanted.items())
    if before or behind:
        ids = [(piece, tokenizer.token_to_id(piece)) for piece in dict.fromkeys(before + behind)]
        text = " ".join([*before, "$A", *behind])
        tokenizer.post_processor = processors.TemplateProcessing(text, special_tokens=ids)

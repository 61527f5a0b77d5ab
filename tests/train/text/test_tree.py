"""A tree computes what serving computes: the same logits for every canvas, whatever else stands in its row."""

from typing import Any

import torch
from torch import Tensor

from redraft.models.base import Span
from redraft.models.checkpoint import Checkpoint
from redraft.models.llama_diffusion.model import LlamaDiffusion
from redraft.train.text.batch import Batch, pack
from redraft.train.text.encoding import EncodedRecord, Encoder
from redraft.train.text.objective import Example, MaskObjective, ObjectiveConfig
from redraft.train.text.tree import Tree
from tests.models.driving import encoded
from tests.train.text.conftest import several


def objective(encoder: Encoder) -> MaskObjective:
    return MaskObjective(ObjectiveConfig(causal_share=1.0, complementary=1.0), encoder.mask_token, 4096)


def served(model: LlamaDiffusion, before: list[int], canvas: Tensor) -> Tensor:
    """Logits [C, V] of a canvas after a context, by the forward that serving uses."""
    cache = encoded(model, torch.tensor(before), chunk=7)
    with torch.inference_mode():
        (hidden,) = model.forward([Span(torch.cat([torch.tensor(before[-1:]), canvas]), cache, "denoise", reread=1)])
        assert hidden is not None
        return model.logits(hidden[:-1])


@torch.no_grad()
def trained(model: LlamaDiffusion, batch: Batch) -> list[Tensor]:
    """Logits [C, V] of all canvases of a batch."""
    hidden = model.trees(batch.tokens, batch.positions, batch.visible)
    return [model.logits(hidden[one.first : one.first + len(one.clean)]) for one in batch.canvases]


def contexts(record: EncodedRecord) -> dict[tuple[int, ...], list[list[int]]]:
    """The contexts in which each clean canvas of a record stands."""
    found: dict[tuple[int, ...], list[list[int]]] = {}
    for question in record.questions:
        before = list(question.prompt)
        for canvas in question.canvases:
            found.setdefault(canvas.tokens, []).append(list(before))
            before += canvas.tokens
    return found


def test_logits_in_training_are_those_of_serving(found: Checkpoint, encoder: Encoder) -> None:
    model: Any = found.load("float32")
    record = encoder.encode(several())
    assert max(len(question.canvases) for question in record.questions) > 1
    examples = [one for index in range(3) for one in objective(encoder).examples(record, index, 0.0)]
    assert len(examples) > 1
    batch = pack(examples)
    of = contexts(record)
    compared = 0
    for canvas, own in zip(batch.canvases, trained(model, batch), strict=True):
        shown = torch.where(canvas.hidden, encoder.mask_token, canvas.clean)
        closest = min(
            float((served(model, before, shown) - own).abs().max()) for before in of[tuple(canvas.clean.tolist())]
        )
        assert closest < 1e-4
        compared += 1
    assert compared >= 4 * len(record.questions)


def test_a_canvas_does_not_see_its_own_clean_copy(found: Checkpoint, encoder: Encoder) -> None:
    """Nor anything else than what serving has before it: its loss stays when all other tokens change."""
    model: Any = found.load("float32")
    (example,) = objective(encoder).examples(encoder.encode(several()), 0, 0.0)
    batch = pack([example])
    before = trained(model, batch)
    tree = example.tree
    for canvas in example.canvases:
        number = next(n for n, segment in enumerate(tree.segments) if segment.start == canvas.start)
        own = {number}
        parent = tree.segments[number].parent
        while parent is not None:
            own.add(parent)
            parent = tree.segments[parent].parent
        changed = pack([example])
        for other, segment in enumerate(tree.segments):
            if other not in own:
                own_tokens = changed.tokens[segment.start : segment.end]
                own_tokens.copy_((own_tokens + 1) % model.config.vocab_size)
        assert len(own) < len(tree.segments)
        index = next(i for i, placed in enumerate(batch.canvases) if placed.first == canvas.start)
        after = trained(model, changed)
        torch.testing.assert_close(after[index], before[index], atol=1e-5, rtol=0)
        assert any((one - two).abs().max() > 1e-2 for one, two in zip(after, before, strict=True))


def test_a_clean_copy_is_causal_and_sees_the_whole_prompt() -> None:
    tree = Tree()
    root = tree.add([5, 6, 7], None)
    copy = tree.add([8, 9], root)
    canvas = tree.add_canvas([1, 2], copy)
    assert tree.tokens == [5, 6, 7, 8, 9, 9, 1, 2]
    assert tree.positions == [0, 1, 2, 3, 4, 4, 5, 6]
    assert tree.segments[canvas].start == 5
    rows = ["".join("x" if one else "." for one in row) for row in tree.visible().tolist()]
    assert rows == [
        *("x.......", "xx......", "xxx....."),
        *("xxxx....", "xxxxx..."),
        # The canvas sees itself, and of its context all but the token that it runs again.
        *("xxxx.xxx", "xxxx.xxx", "xxxx.xxx"),
    ]


def test_trees_in_one_batch_are_computed_as_alone(found: Checkpoint, encoder: Encoder) -> None:
    model: Any = found.load("float32")
    record = encoder.encode(several())
    examples: list[Example] = [objective(encoder).examples(record, index, 0.0)[0] for index in range(2)]
    short = Example()
    short.tree.add([4, 5, 6], None)
    together = trained(model, pack([examples[0], short, examples[1]]))
    alone = [one for example in examples for one in trained(model, pack([example]))]
    for one, two in zip(together, alone, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_in_bfloat16_a_tree_computes_the_same_to_its_rounding(found: Checkpoint, encoder: Encoder) -> None:
    """Attention goes another way there: what each row sees, and that trees do not see each other, stays."""
    batch = pack([one for n in range(3) for one in objective(encoder).examples(encoder.encode(several()), n, 0.0)])
    exact, rounded = (trained(found.load(dtype), batch) for dtype in ("float32", "bfloat16"))  # type: ignore[arg-type]
    scale = torch.cat(exact).std()
    error = torch.cat([(one - other).flatten() for one, other in zip(exact, rounded, strict=True)])
    # bfloat16 has 8 bits; a row that saw one token too many or too few would be off by the whole spread.
    assert error.square().mean().sqrt() < 0.02 * scale

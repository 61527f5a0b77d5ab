"""What is hidden, how often, and what counts how much."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from redraft.errors import DataError
from redraft.models.checkpoint import Checkpoint
from redraft.train.text.adapters import Full, TrainedModel
from redraft.train.text.batch import pack, score
from redraft.train.text.encoding import CleanCanvas, EncodedQuestion, EncodedRecord, Encoder
from redraft.train.text.objective import Example, MaskObjective, ObjectiveConfig
from tests.train.text.conftest import several

# Position 0 is pinned, position 4 a filler.
CANVAS = CleanCanvas((9, 8, 7, 1, 1), (False, True, True, True, True), (0.0, 1.0, 1.0, 1.0, 0.15))
RECORD = EncodedRecord((EncodedQuestion((4, 5, 6), (CANVAS,), "say"),), 3, "x")
MASK = 3
PLAIN = ObjectiveConfig(fully_masked=0.0, causal_share=0.0)


def drawn(config: ObjectiveConfig, count: int = 2000, progress: float = 0.0) -> list[Example]:
    objective = MaskObjective(config, MASK, 64, seed=1)
    return [example for index in range(count) for example in objective.examples(RECORD, index, progress)]


def test_every_number_of_masks_is_as_likely_and_so_is_every_place() -> None:
    """As with t ~ U(0, 1), where the number of masks among n is uniform."""
    examples = drawn(PLAIN)
    masks = [example.canvases[0].hidden for example in examples]
    sizes = Counter(int(hidden.sum()) for hidden in masks)
    assert sorted(sizes) == [1, 2, 3, 4]
    assert all(count / len(masks) == pytest.approx(1 / 4, abs=0.04) for count in sizes.values())
    shares = np.mean(masks, axis=0)
    # (1 + 2 + 3 + 4) / 4 masks of 4 places.
    assert shares == pytest.approx([0, 0.625, 0.625, 0.625, 0.625], abs=0.05)


def test_masks_stand_on_the_canvas_and_all_else_is_clean() -> None:
    for example in drawn(PLAIN, 50):
        (canvas,) = example.canvases
        assert example.tree.tokens[:3] == [4, 5, 6]
        assert example.tree.tokens[3] == 6
        shown = example.tree.tokens[canvas.start + 1 :]
        expected = [MASK if hidden else token for hidden, token in zip(canvas.hidden, CANVAS.tokens, strict=True)]
        assert shown == expected


def test_shares_of_whole_masks_causal_answers_and_complements() -> None:
    whole = drawn(replace(PLAIN, fully_masked=0.4))
    # A quarter of the others are whole by themselves.
    share = np.mean([example.canvases[0].hidden.sum() == 4 for example in whole])
    assert share == pytest.approx(0.4 + 0.6 / 4, abs=0.04)
    causal = drawn(replace(PLAIN, causal_share=0.3))
    assert np.mean([bool(example.causal) for example in causal]) == pytest.approx(0.3, abs=0.04)
    twice = drawn(replace(PLAIN, complementary=1.0), 200)
    for example in twice:
        views = [canvas.hidden for canvas in example.canvases]
        assert len(views) == (1 if views[0].sum() == 4 else 2)
        assert (sum(view.astype(int) for view in views) == np.array(CANVAS.free)).all()


def test_views_show_a_canvas_several_times_with_few_and_with_many_masks() -> None:
    """A canvas of four free positions, shown twice: one or two masks first, three or four then, on drawn places."""
    examples = drawn(replace(PLAIN, fully_masked=0.0, views=2), 1000)
    counts = np.array([[int(canvas.hidden.sum()) for canvas in example.canvases] for example in examples])
    assert set(map(tuple, counts)) == {(few, many) for few in (1, 2) for many in (3, 4)}
    assert counts.mean() == pytest.approx(2.5, abs=0.1)
    first = np.mean([example.canvases[0].hidden for example in examples], axis=0)
    assert first[np.array(CANVAS.free)] == pytest.approx(1.5 / 4, abs=0.06)
    # More views than free positions still hide one at least.
    (many,) = drawn(replace(PLAIN, fully_masked=0.0, views=9), 1)
    assert sorted({int(canvas.hidden.sum()) for canvas in many.canvases}) == [1, 2, 3, 4]
    # What is read by all views stands once.
    (once,) = drawn(PLAIN, 1)
    assert len(many.tree) - len(once.tree) == 8 * (1 + len(CANVAS.tokens))
    with pytest.raises(ValueError, match="views 0 must be at least 1"):
        replace(PLAIN, views=0)


def test_rollouts_begin_with_masks_alone_and_late_in_the_run() -> None:
    config = replace(PLAIN, rollout_share=0.5, rollout_from=0.6, rollout_steps=2)
    assert all(example.canvases[0].sampled_steps == 0 for example in drawn(config, 200, progress=0.59))
    late = [example.canvases[0] for example in drawn(config, progress=0.6)]
    rolled = [canvas for canvas in late if canvas.sampled_steps]
    assert len(rolled) / len(late) == pytest.approx(0.5, abs=0.04)
    assert {canvas.sampled_steps for canvas in rolled} == {1, 2}
    assert all((canvas.hidden == np.array(CANVAS.free)).all() for canvas in rolled)


def test_the_loss_is_the_weighted_mean_over_masks_and_causal_targets(found: Checkpoint, encoder: Encoder) -> None:
    """Against cross-entropies taken one at a time from the logits of every row."""
    config = ObjectiveConfig(causal_share=1.0)
    objective = MaskObjective(config, encoder.mask_token, 4096)
    record = encoder.encode(several())
    batch = pack(objective.examples(record, 0, 0.0))
    model = TrainedModel("tiny", found, found.load("float32"), Full())
    targets = batch.targets()
    result = score(model, batch, targets)
    with torch.no_grad():
        logprobs = F.log_softmax(model.logits(model.hidden(batch)), -1)
    total, mass, masks = 0.0, 0.0, 0
    for canvas in batch.canvases:
        for place in range(len(canvas.clean)):
            if canvas.hidden[place]:
                total -= float(canvas.weights[place] * logprobs[canvas.first + place, canvas.clean[place]])
                mass += float(canvas.weights[place])
                masks += 1
    # The clean answers: token j follows on token j - 1 of the same text, the first on the prompt.
    (visible,) = batch.visible
    ends = 0
    for row, token, weight in batch.causal:
        total -= weight * float(logprobs[row, token])
        mass += weight
        ends += token == encoder.end_token
        assert int(visible[row].nonzero().max()) == row
        following = [int(batch.tokens[next_row]) for next_row, next_token, _ in batch.causal if next_row == row + 1]
        assert not following or following[0] == token
    # An end of each text; on the canvas of slots three in the first, and one in the last, whose fillers say nothing.
    assert ends == 3 + 3 + 1
    assert result.canvas_count == masks
    assert result.total.item() / targets.mass == pytest.approx(total / mass, rel=1e-5)


def test_the_bound_weighs_each_canvas_by_its_share_of_masks() -> None:
    """n / k times the sum over k masks, over all n positions: the mean over draws is that of the plain mean at equal
    losses, whatever k is."""
    for example in drawn(replace(PLAIN, loss="mask-weighted"), 30):
        targets = pack([example]).targets()
        hidden = example.canvases[0].hidden
        weights = np.array(CANVAS.weights)[hidden]
        assert targets.weights.tolist() == pytest.approx((weights * 4 / hidden.sum()).tolist())
        assert targets.mass == pytest.approx(3.15)


def test_draws_depend_on_seed_and_number_alone() -> None:
    def hidden(seed: int, index: int) -> list[bool]:
        (example,) = MaskObjective(PLAIN, MASK, 64, seed).examples(RECORD, index, 0.0)
        return example.canvases[0].hidden.tolist()

    first = [hidden(0, index) for index in range(20)]
    assert [hidden(0, index) for index in reversed(range(20))] == first[::-1]
    assert [hidden(1, index) for index in range(20)] != first


def test_questions_that_do_not_fit_one_tree_are_spread_over_several(encoder: Encoder) -> None:
    record = encoder.encode(several())
    whole = MaskObjective(PLAIN, encoder.mask_token, 4096).examples(record, 0, 0.0)
    parts = MaskObjective(PLAIN, encoder.mask_token, 150).examples(record, 0, 0.0)
    assert len(whole) == 1
    assert len(parts) > 1
    assert all(len(part.tree) <= 150 for part in parts)
    hidden = [[canvas.hidden.tolist() for part in kind for canvas in part.canvases] for kind in (whole, parts)]
    assert hidden[0] == hidden[1]
    with pytest.raises(DataError, match=r"several: question \d takes \d+ tokens, and a batch has 30"):
        MaskObjective(PLAIN, encoder.mask_token, 30).examples(record, 0, 0.0)


@pytest.mark.parametrize(
    "fault",
    [{"loss": "other"}, {"causal_share": 1.2}, {"rollout_steps": 0}, {"rollout_threshold": 0.0}, {"fully_masked": -1}],
)
def test_settings_out_of_range_are_refused(fault: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(fault))):
        ObjectiveConfig(**fault)

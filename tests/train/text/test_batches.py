"""Batches keep to their budget and go through all trees, one after the other."""

from redraft.train.text.batches import Batches, Place
from redraft.train.text.encoding import Encoder
from redraft.train.text.objective import MaskObjective, ObjectiveConfig
from tests.train.text.conftest import SOURCE


def batches(encoder: Encoder, tokens: int) -> Batches:
    return Batches(SOURCE, encoder, MaskObjective(ObjectiveConfig(), encoder.mask_token, tokens), tokens)


def test_every_record_is_trained_once_within_the_budget(encoder: Encoder) -> None:
    for tokens in (90, 300):
        made, place, total = batches(encoder, tokens), Place(), 0
        while place.record < 12:
            batch, following = made.draw(place, 0.0)
            assert batch.count <= tokens
            assert following > place
            place, total = following, total + batch.count
        objective = MaskObjective(ObjectiveConfig(), encoder.mask_token, tokens)
        trees = [
            [len(example.tree) for example in objective.examples(encoder.encode(SOURCE.draw(index)), index, 0.0)]
            for index in range(place.record + 1)
        ]
        assert total == sum(map(sum, trees[: place.record])) + sum(trees[place.record][: place.tree])


def test_a_batch_is_a_function_of_its_place(encoder: Encoder) -> None:
    one = batches(encoder, 200)
    _, second = one.draw(Place(), 0.0)
    batch, third = one.draw(second, 0.0)
    again, same = batches(encoder, 200).draw(second, 0.0)
    assert third == same
    assert (batch.tokens == again.tokens).all()

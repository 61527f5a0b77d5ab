"""A source is a pure function of its seed and a number: that is what a run resumes by."""

from collections import Counter

import pytest

from redraft.errors import DataError
from redraft.train.text.records import parse
from redraft.train.text.source import FileSource, GeneratedSource, mixed
from tests.train.text.conftest import generated

RECORDS = [parse({"prompt": f"p{i}", "response": "r", "task": "ab"[i % 2]}, f"line {i}") for i in range(10)]


def test_every_epoch_has_every_record_once_in_an_order_of_its_own() -> None:
    source = FileSource(RECORDS, seed=3)
    epochs = [[source.draw(10 * epoch + place).where for place in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(record.where for record in RECORDS) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [FileSource(RECORDS, seed=3).draw(i).where for i in (25, 4)] == [epochs[2][5], epochs[0][4]]
    assert [FileSource(RECORDS, seed=4).draw(i).where for i in range(10)] != epochs[0]


def test_a_fault_of_a_generator_is_named_by_its_number() -> None:
    source = GeneratedSource(lambda seed, index: {"prompt": "a", "response": None}, 5, "mine")
    with pytest.raises(DataError, match="record 7 of mine, seed 5: 'response' is NoneType"):
        source.draw(7)


@pytest.mark.parametrize("weights", [{"fill": 1.0, "say": 3.0}, {"fill": 2.0, "say": 1.0}, {"fill": 1.0}])
def test_a_mix_thins_tasks_to_the_proportions_of_their_weights(weights: dict[str, float]) -> None:
    plain = GeneratedSource(generated, 0, "letters")
    thinned = mixed(plain, [plain.draw(i) for i in range(8)], weights, seed=1)
    drawn = [thinned.draw(i) for i in range(1500)]
    counts = Counter(question.task for record in drawn for question in record.questions)
    for task in ("fill", "say"):
        wanted = weights.get(task, 0.0) / sum(weights.values())
        assert counts[task] / counts.total() == pytest.approx(wanted, abs=0.035)
    assert [thinned.draw(i) for i in (17, 3)] == [drawn[17], drawn[3]]


def test_a_task_that_nobody_asks_is_named() -> None:
    with pytest.raises(DataError, match="no question is of task 'c'; the data has a, b"):
        mixed(FileSource(RECORDS, 0), RECORDS, {"c": 1.0}, seed=0)

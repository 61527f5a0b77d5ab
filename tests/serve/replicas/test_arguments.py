"""What an application is started with: each fault is named before anything is started."""

import pickle
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from redraft.cli import serve
from redraft.errors import CheckpointError, RedraftError, RequestError
from redraft.serve.replicas.arguments import KEY_VARIABLE, Arguments


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"replicas": 0}, "replicas"),
        ({"replicas": 2, "max_replicas": 3}, "leave out max_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "fewer than min_replicas"),
        ({"model": ["a", "b"], "name": "x"}, "1 names for 2 models"),
        ({"model": ["x/a", "y/a"]}, "two models are called 'a'"),
        ({"memory": "much"}, "memory 'much' is no size"),
        ({"api_keys": [" "]}, "API key"),
        ({"allowed_hosts": ["a:80"]}, "allowed host"),
        ({"digest": "xyz"}, "digest"),
        ({"replica": 2}, "replica"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Arguments(**given)


def test_the_number_of_replicas_follows_the_queue_where_a_range_is_given() -> None:
    assert not Arguments(replicas=3).scales
    assert not Arguments().scales
    assert Arguments(max_replicas=3).scales
    assert Arguments.model_validate({"model": "x/a"}).names == ["a"]
    assert pickle.loads(pickle.dumps(Arguments(replicas=3, mode="diffusion"))) == Arguments(
        replicas=3, mode="diffusion"
    )


def test_all_models_that_ship_are_served_where_none_is_named() -> None:
    assert Arguments().names == ["pocket", "sudoku"]
    with pytest.raises(ValidationError, match="revision is for one model, and 2 are to be served"):
        Arguments(revision="main")
    assert Arguments(model=["pocket"], revision="main").names == ["pocket"]


def test_keys_come_from_the_environment_of_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "good other")
    assert Arguments().settings().api_keys == ["good", "other"]
    assert Arguments(api_keys=["own"]).settings().api_keys == ["own"]
    monkeypatch.setenv(KEY_VARIABLE, "")
    with pytest.raises(RequestError, match="set and empty"):
        Arguments().settings()


def test_another_digest_than_was_asked_for_is_no_replica() -> None:
    settings = Arguments().settings()
    engines = Arguments(model=["sudoku"]).engines(settings)
    digest = engines["sudoku"].origin.digest
    assert Arguments(model=["sudoku"], digest=digest[:12]).engines(settings)
    with pytest.raises(CheckpointError, match=f"has the digest {digest}, and 00000000 was asked for"):
        Arguments(model=["sudoku"], digest="00000000").engines(settings)


def test_replicas_without_ray_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "redraft.serve.ray", raising=False)
    monkeypatch.delattr("redraft.serve.ray", raising=False)
    with pytest.raises(RedraftError, match=r"replicas need Ray, .* pip install 'redraft\[serve,ray\]'"):
        serve._serve_replicas(model=["sudoku"], replicas=2)

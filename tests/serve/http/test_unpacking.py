"""Packed bodies: what clients pack is unpacked, and never beyond the limit."""

import gzip
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from typesafe_sdk import Noul, TypeSafeClient

from redraft.api import Engine
from redraft.serve.http.limits import RequestLimits
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Served, serving

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "seed": 1}
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
MOST = 20_000


@pytest.fixture(scope="module")
def small(engine: Engine) -> Iterator[Served]:
    with serving(engine, ServerSettings(NAME, limits=RequestLimits(body_bytes=MOST))) as up:
        yield up


def post(served: Served, content: Any, encoding: str, path: str = "/v1/chat/completions") -> httpx.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    return httpx.post(f"{served.url}{path}", content=content, headers=headers, timeout=600)


def padded(size: int) -> bytes:
    body = json.dumps(CHAT).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("encoding", PACK)
def test_a_packed_request_is_answered_as_if_it_were_not(small: Served, encoding: str) -> None:
    expected = small.post("/v1/chat/completions", CHAT).json()["choices"]
    packed = PACK[encoding](json.dumps(CHAT).encode())
    assert post(small, packed, encoding).json()["choices"] == expected
    assert post(small, packed, encoding.upper()).json()["choices"] == expected
    pieces = (packed[start : start + 10] for start in range(0, len(packed), 10))
    assert post(small, pieces, encoding).json()["choices"] == expected
    streamed = post(small, PACK[encoding](json.dumps({**CHAT, "stream": True}).encode()), encoding)
    assert streamed.text.endswith("[DONE]\n\n"), "the connection is watched all the same"


@pytest.mark.parametrize("encoding", PACK)
def test_the_limit_is_that_of_the_unpacked_body(small: Served, encoding: str) -> None:
    assert post(small, PACK[encoding](padded(MOST)), encoding).status_code == 200
    refused = post(small, PACK[encoding](padded(MOST + 1)), encoding)
    assert refused.status_code == 413
    assert f"{MOST} bytes" in refused.json()["error"]["message"]
    assert post(small, b"x" * (MOST + 1), encoding).status_code == 413


@pytest.mark.parametrize("encoding", PACK)
def test_of_a_bomb_no_more_is_unpacked_than_the_limit(small: Served, encoding: str) -> None:
    bomb = PACK[encoding](bytes(15 << 20))
    assert len(bomb) < MOST
    # What a first request imports and keeps is no part of it.
    assert post(small, bomb, encoding).status_code == 413
    tracemalloc.start()
    try:
        assert post(small, bomb, encoding).status_code == 413
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", PACK)
def test_what_is_not_packed_as_it_says_is_refused(small: Served, encoding: str) -> None:
    packed = PACK[encoding](json.dumps(CHAT).encode())
    for content in (b"x" * 50, packed[:-1], packed + packed, packed + b"x"):
        refused = post(small, content, encoding)
        assert refused.status_code == 400
        assert encoding in refused.json()["error"]["message"]
    assert post(small, b"", encoding).status_code == 400
    assert httpx.get(f"{small.url}/health", headers={"content-encoding": encoding}).status_code == 200


def test_a_window_larger_than_a_body_may_need_is_refused(small: Served) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    packed = compressor.compress(json.dumps(CHAT).encode()) + compressor.flush()
    assert post(small, packed, "zstd").status_code == 400


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "gzip, gzip"])
def test_other_encodings_are_refused_by_name(small: Served, encoding: str) -> None:
    refused = post(small, b"x", encoding)
    assert refused.status_code == 415
    assert repr(encoding) in refused.json()["error"]["message"]
    assert refused.headers["accept-encoding"] == "gzip, zstd"
    assert post(small, b"x", encoding, "/v1/messages").json()["type"] == "error"


def test_the_client_that_packs_by_itself(small: Served) -> None:
    with TypeSafeClient(base_url=small.url, api_key="none", model=NAME) as client:
        result = client.system_one(state="the " * 300, questions={"billing": Noul(instructions="Is it?")})
    assert result.raw_http_response.request.headers["content-encoding"] == "zstd"
    assert 0 <= result.nouls["billing"].noul <= 1

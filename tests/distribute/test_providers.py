"""Which provider is asked: the least busy one, in the user's order where they are equally busy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from distribute.cid import RAW, Cid
from distribute.transports._gateway import Blocks, Provider
from distribute.transports._providers import Providers


class Waiting(Provider):
    """Answers when everybody who is to be asked at the same time has been."""

    def __init__(self, name: str, barrier: threading.Barrier | None = None) -> None:
        self.label = name
        self.barrier = barrier
        self.asked = 0

    def block(self, cid: Cid, limit_bytes: int = 0) -> bytes:
        self.asked += 1
        if self.barrier is not None:
            self.barrier.wait(20)
        return b"block"

    def car(self, cid: Cid, first: int, last: int, *, whole: bool) -> Blocks | None:
        return None


def test_requests_at_the_same_time_go_to_different_gateways() -> None:
    barrier = threading.Barrier(3)
    gateways = [Waiting(name, barrier) for name in "abc"]
    providers = Providers(gateways, threading.Event())
    cid = Cid.of(RAW, b"block")
    with ThreadPoolExecutor(3) as pool:  # would break the barrier if one gateway got two of the requests
        assert list(pool.map(lambda _: providers.block(cid), range(3))) == [b"block"] * 3
    assert [gateway.asked for gateway in gateways] == [1, 1, 1]


def test_one_after_the_other_they_go_to_the_first() -> None:
    gateways = [Waiting(name) for name in "abc"]
    providers = Providers(gateways, threading.Event())
    for _ in range(5):
        providers.block(Cid.of(RAW, b"block"))
    assert [gateway.asked for gateway in gateways] == [5, 0, 0]

# amaranth: UnusedElaboratable=no

"""Requests of three users at one memory: order, priority, whose response it is, and the limit of reads under way."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from hdl.machine.arbiter import Arbiter
from hdl.machine.jobs import Beats

WRITE, READ, FETCH = "write", "read", "fetch"
USERS = (WRITE, READ, FETCH)
"""Highest priority first."""

BEATS = Beats(4, 256)
CYCLES_MAX = 5000

Request = tuple[str, int, int]
"""User, address and data, 0 for reads."""


def content(address: int) -> tuple[int, int]:
    """(data, error) of what memory answers."""
    return address * 0x01030507 & 0xFFFFFFFF, address % 5 == 0


@dataclass
class Outcome:
    """taken: requests that users gave, in order, with the cycle. done: those that memory accepted. answers: by user.
    under_way: most reads between a user and the memory's answer. cycles: until all was answered."""

    taken: list[tuple[int, Request]] = field(default_factory=list)
    done: list[Request] = field(default_factory=list)
    answers: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {READ: [], FETCH: []})
    under_way: int = 0
    cycles: int = 0


def run(
    requests: dict[str, list[Request]],
    *,
    outstanding: int = 8,
    offer: float = 1.0,
    accept: float = 1.0,
    latency: int = 3,
) -> Outcome:
    """Every user gives its requests in order; checks priority, patience of a request and `o_empty` in every cycle.

    offer, accept: chance per cycle that a user has a request and that memory takes one. latency: of memory, at least 1.
    """
    dut = Arbiter(BEATS, outstanding=outstanding)
    rng = np.random.default_rng(1)
    outcome = Outcome()
    left = {user: list(requests.get(user, [])) for user in USERS}
    offered: dict[str, Request | None] = dict.fromkeys(USERS)
    answering: list[tuple[int, int]] = []
    waiting: Any = None

    def give(ctx: Any, user: str) -> None:
        if offered[user] is None and left[user] and rng.random() < offer:
            offered[user] = left[user].pop(0)
        request, port = offered[user], getattr(dut, user)
        ctx.set(port.valid, request is not None)
        if request is not None:
            ctx.set(port.payload, {"address": request[1], "data": request[2]} if user == WRITE else request[1])

    def take(ctx: Any) -> None:
        wanting = [user for user in USERS if offered[user] is not None]
        accepted = [user for user in wanting if ctx.get(getattr(dut, user).ready)]
        assert accepted in ([], wanting[:1]), "the first user that has a request goes first"
        for user in accepted:
            request = offered[user]
            assert request is not None
            outcome.taken.append((outcome.cycles, request))
            offered[user] = None

    def serve(ctx: Any, ready: bool) -> None:
        nonlocal waiting
        request, valid = ctx.get(dut.port.request.payload), ctx.get(dut.port.request.valid)
        assert ctx.get(dut.o_empty) == (len(outcome.taken) == len(outcome.done)) == (not valid)
        assert waiting is None or waiting == request, "a request that is offered stays"
        waiting = request if valid and not ready else None
        if valid and ready:
            user = outcome.taken[len(outcome.done)][1][0]
            outcome.done.append((user, request.address, request.data if request.write else 0))
            assert request.write == (user == WRITE)
            if not request.write:
                answering.append((outcome.cycles + latency, request.address))

    async def drive(ctx: Any) -> None:
        while any(left.values()) or any(offered.values()) or len(outcome.done) < len(outcome.taken) or answering:
            for user in USERS:
                give(ctx, user)
            ready = bool(rng.random() < accept)
            ctx.set(dut.port.request.ready, ready)
            due = bool(answering) and answering[0][0] <= outcome.cycles
            data, error = content(answering[0][1]) if due else (0, 0)
            ctx.set(dut.port.response.valid, due)
            ctx.set(dut.port.response.payload, {"data": data, "error": error})
            assert ctx.get(dut.port.response.ready)
            if due:
                answering.pop(0)
            for user, found in outcome.answers.items():
                port = getattr(dut, f"{user}_response")
                if ctx.get(port.valid):
                    found.append((ctx.get(port.payload.data), ctx.get(port.payload.error)))
            serve(ctx, ready)
            take(ctx)
            reads = sum(user != WRITE for _, (user, _, _) in outcome.taken)
            outcome.under_way = max(outcome.under_way, reads - sum(map(len, outcome.answers.values())))
            await ctx.tick()
            outcome.cycles += 1
            assert outcome.cycles < CYCLES_MAX, "a request is stuck"

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return outcome


def requests_of(count: int, users: tuple[str, ...] = USERS) -> dict[str, list[Request]]:
    rng = np.random.default_rng(2)

    def one(user: str) -> Request:
        return user, int(rng.integers(BEATS.count)), int(rng.integers(1 << BEATS.bits)) if user == WRITE else 0

    return {user: [one(user) for _ in range(count)] for user in users}


@pytest.mark.parametrize(
    "pressure",
    [
        {},
        {"offer": 0.3},
        {"accept": 0.4, "latency": 1},
        {"offer": 0.5, "accept": 0.6, "latency": 20},
        {"offer": 0.5, "outstanding": 2},
    ],
    ids=["none", "gaps", "refusals", "slow", "two"],
)
def test_requests_in_order_and_responses_to_whoever_asked(pressure: dict[str, Any]) -> None:
    requests = requests_of(60)
    outcome = run(requests, **pressure)
    assert outcome.done == [request for _, request in outcome.taken]
    for user in USERS:
        assert [request for request in outcome.done if request[0] == user] == requests[user]
    for user in (READ, FETCH):
        assert outcome.answers[user] == [content(address) for _, address, _ in requests[user]]
    assert outcome.under_way <= pressure.get("outstanding", 8)


def test_a_request_per_cycle_writer_before_reader_before_fetch() -> None:
    outcome = run(requests_of(20), outstanding=16)
    assert [cycle for cycle, _ in outcome.taken] == list(range(60))
    assert [user for _, (user, _, _) in outcome.taken] == [user for user in USERS for _ in range(20)]


@pytest.mark.parametrize("outstanding", [2, 5])
def test_reads_wait_for_responses_and_writes_do_not(outstanding: int) -> None:
    outcome = run(requests_of(30, (READ, FETCH)), outstanding=outstanding, latency=40)
    assert outcome.under_way == outstanding
    both = run(requests_of(30, (READ, WRITE)), outstanding=outstanding, latency=40)
    assert [cycle for cycle, request in both.taken if request[0] == WRITE] == list(range(30))


@pytest.mark.parametrize("outstanding", [1, 1025])
def test_a_limit_out_of_range_is_refused(outstanding: int) -> None:
    with pytest.raises(ValueError, match=rf"outstanding={outstanding} must be in 2..1024; nearest valid value"):
        Arbiter(BEATS, outstanding=outstanding)

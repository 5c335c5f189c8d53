"""When a registry counts as away and as back, and what is told of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.node.registrar import CALL_S, CLOSE_S, Registrar
from registry.base import BadEntry, LeaseLost, Registry, RegistryUnavailable
from registry.memory import MemoryRegistry, MemoryStore

AWAY = RegistryUnavailable("registry memory", "no route")


async def fails(_: Registry) -> None:
    raise AWAY


async def refuses(_: Registry) -> None:
    raise LeaseLost("registry entry eu/n1", "it ran out")


async def is_bad(_: Registry) -> None:
    raise BadEntry("registry entry", "too long")


async def works(_: Registry) -> str:
    return "answer"


async def test_it_is_away_with_the_first_failure_and_back_with_the_first_answer(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    registrar = Registrar(MemoryRegistry(MemoryStore()))
    assert (registrar.available, registrar.last_success) == (None, None)
    assert await registrar.ask(works) == "answer"
    assert registrar.available is True
    for _ in range(3):
        with pytest.raises(RegistryUnavailable):
            await registrar.ask(fails)
    assert (registrar.available, registrar.failures, registrar.calls) == (False, 3, 4)
    assert registrar.problem == "registry memory: no route"
    went = registrar.since
    woken: list[float] = []

    async def wait() -> None:
        await registrar.back.wait()
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(7.0)
        assert not woken
        await registrar.ask(works)
    assert woken == [went + 7.0]
    assert (registrar.available, registrar.problem, registrar.last_success) == (True, "", went + 7.0)
    said = capsys.readouterr().out
    assert said.count("registry unavailable") == 1, "told when it goes, and not again"
    assert said.count("registry is back") == 1
    assert "away_s=7.0" in said


async def test_a_refusal_is_an_answer_and_what_was_never_asked_is_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    registrar = Registrar(MemoryRegistry(MemoryStore()))
    with pytest.raises(BadEntry):
        await registrar.ask(is_bad)
    assert registrar.available is None
    registrar.failed(AWAY)
    with pytest.raises(LeaseLost):
        await registrar.ask(refuses)
    assert (registrar.available, registrar.failures) == (True, 1)


async def test_no_call_takes_longer_than_its_bound_and_no_end_either(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Stuck(MemoryRegistry):
        async def aclose(self) -> None:
            await trio.sleep_forever()

    async def hangs(_: Registry) -> None:
        await trio.sleep_forever()

    registrar = Registrar(Stuck(MemoryStore()))
    begun = trio.current_time()
    with pytest.raises(RegistryUnavailable, match="no answer within 5 s"):
        await registrar.ask(hangs)
    assert trio.current_time() - begun == CALL_S
    assert registrar.available is False
    await registrar.close()
    assert trio.current_time() - begun == CALL_S + CLOSE_S


async def test_a_watch_that_broke_off_wakes_who_calls_regularly_and_judges_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    registrar = Registrar(MemoryRegistry(MemoryStore()))
    await registrar.ask(works)
    registrar.doubt(AWAY)
    assert registrar.doubted.is_set()
    assert (registrar.available, registrar.watch_problem) == (True, "no route")


async def test_the_calls_of_the_last_minute_are_counted_and_no_older_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    registry = MemoryRegistry(MemoryStore())
    registrar = Registrar(registry)
    assert registrar.per_minute() == 0
    for _ in range(90):
        await registrar.ask(lambda one: one.list())
        await trio.sleep(1.0)
    assert 59 <= registrar.per_minute() <= 61
    await trio.sleep(30.0)
    assert 29 <= registrar.per_minute() <= 61
    for _ in range(3):
        await trio.sleep(30.0)
        last = registrar.per_minute()
    assert last == 0
    assert registry.statistics().calls == 90

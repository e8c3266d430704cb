"""What fails behind a collector is no fault of its: it goes on being chosen."""

from __future__ import annotations

import pytest
from tests.collective.fleet import fleet, serve, settled, until

from dodici.collective import Retry


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("method", ["Fail", "FailSafely"])
async def test_a_collector_on_the_way_is_not_blamed_for_the_one_behind_it(status: int, method: str) -> None:
    never = {"retry": Retry(attempts=1)}
    async with fleet(a=never, b=never, c={}, d={}) as (a, b, c, d):
        works = [serve(each) for each in (c, d)]
        serve(d, "Other")
        await b.connect_to(c.address)
        await a.connect_to(b.address)
        await a.connect_to(d.address)
        await until(lambda: a._router.table.reaches("c"))  # type: ignore[attr-defined]
        for _ in range(12):
            failed = await a.dispatch("shop", "Work", method, status, target="c", metadata={"x-trace": "1"})
            assert (failed.status, failed.handled_by_collector_id) == (status, "c")
            # Whoever called has nothing to do with how collectors tell each other.
            assert not [name for name in failed.metadata if name.startswith("x-dodici")]
        figures = a.stats().peers["b"]
        assert (figures.breakers["shop"], figures.ejected_for) == ("closed", 0.0)
        assert (await a.dispatch("shop", "Work", "Who", target="c")).output == "c"
        assert works[0].counts == {"Fail": 12, "Who": 1}
        # The one that was called by the one that failed knows better.
        assert b.stats().peers["c"].breakers["shop"] == ("open" if status == 503 else "closed")


async def test_who_fails_itself_is_still_left_alone() -> None:
    async with fleet(a={"retry": Retry(attempts=1)}, c={}, d={}) as (a, c, d):
        for each in (c, d):
            serve(each)
            await a.connect_to(each.address)
        await settled(a, "c", "d")
        for _ in range(5):
            assert (await a.dispatch("shop", "Work", "Fail", 500, target="c")).status == 500
        assert a.stats().peers["c"].ejected_for > 0
        for _ in range(5):
            assert (await a.dispatch("shop", "Work", "Fail", 503, target="d")).status == 503
        assert a.stats().peers["d"].breakers["shop"] == "open"

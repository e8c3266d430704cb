"""`dodici up` in a process: many reloads at once, and ends that meet one another or a reload."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.server.up_kit import Held, up, write

import dodici

for needed in ("click", "httptools", "prometheus_client", "psutil", "rich", "uvicorn", "watchfiles"):
    pytest.importorskip(needed)

SHOP = """
[services.shop]
app = "sample:app"
path = "/"
cwd = "APPS"
"""


async def test_hang_ups_that_come_together_are_one_reload_or_two(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        held = await Held(running).begin()  # keeps the first one from ending
        running.signal(signal.SIGHUP)
        await running.until(r"worker \d+ ready")
        for count in range(5):
            running.signal(signal.SIGHUP)
            while running.text.count("SIGHUP: reloading") < count + 2:
                await asyncio.sleep(0.01)
        await held.release()
        await running.until("reloaded")
        await running.until("reloaded")
        # A reload of somebody else's comes behind all of them.
        await running.ask("reload")
        await running.until("reloaded")
        assert running.text.count("| reloaded") == 3


async def test_second_stop_command_waits_like_the_first(tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        held = await Held(running).begin()
        first = asyncio.ensure_future(running.command("stop"))
        await running.until("stopping; 1 requests")
        await running.ask("stop")
        # Nothing is begun any more, and whoever asks for it is told.
        assert (await running.ask("reload"))["problems"] == ["the server is stopping: nothing was reloaded"]
        assert await held.release()
        assert await running.wait() == 0
        assert "stopping now" not in running.text
        assert "reloaded" not in running.text
        assert "exited with" not in running.text
        assert (await first)[0] == 0


@pytest.mark.parametrize("how", ["signal", "command"])
async def test_end_now_includes_workers_that_were_replaced(how: str, tmp_path: Path) -> None:
    async with up(tmp_path, write(tmp_path, SHOP)) as running:
        held = await Held(running).begin()
        running.signal(signal.SIGHUP)
        await running.until(r"worker \d+ ready")
        if how == "signal":
            running.signal(signal.SIGTERM)
            await running.until("stopping; 1 requests")
            running.signal(signal.SIGTERM)
        else:
            await running.ask("stop", now=True)
        async with asyncio.timeout(10):  # and not drain_timeout
            assert await running.wait() == 0
        with pytest.raises(dodici.DodiciError):
            await held.release()

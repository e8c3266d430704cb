"""One worker: where it runs, how it starts, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile

import pytest
from tests.mesh.member_kit import APP, APPS, alive, eventually, mesh, nothing_left

from dodici import InvalidArgumentError, NoTargetError, WorkerExitedError, WorkerStartError
from dodici.mesh import Worker, WorkerInterceptor, current, wire
from dodici.mesh.spawn import _Output

KINDS = ("process", "thread", "loop")


@pytest.mark.parametrize("kind", KINDS)
async def test_starts_answers_and_leaves_nothing(kind):
    async with nothing_left():
        async with mesh() as m:
            worker = await m.start("api", kind=kind)
            assert worker.state == "ready"
            assert worker.accepting
            assert not worker.paused
            seen = await m.get("api")
            assert seen == {"pid": worker.pid, "id": worker.id, "accepting": True}
            assert (seen["pid"] == os.getpid()) == (kind != "process")
        assert worker.state == "exited"
        assert await worker.wait() == 0
        assert worker.exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_current_is_each_workers_own(kind):
    async with mesh() as m:
        one, two = await m.start("api", 2, kind=kind)
        assert await m.ids("api", 4) == {one.id, two.id}
    with pytest.raises(LookupError):
        current()


@pytest.mark.parametrize("kind", KINDS)
async def test_stats(kind):
    async with mesh() as m:
        worker = await m.start("api", kind=kind)
        for _ in range(3):
            await m.get("api")
        waiting = asyncio.create_task(m.get("api", "/wait?seconds=0.2"))
        while (stats := await worker.stats()).running != 1:
            await asyncio.sleep(0)
        assert stats.requests == 4
        assert (stats.errors, stats.websockets) == (0, 0)
        assert 5_000_000 < stats.rss < 2_000_000_000
        assert 0 < stats.uptime < 30
        assert 0 <= stats.loop_lag < 5
        await waiting
        assert (await worker.stats()).running == 0
    with pytest.raises(InvalidArgumentError):
        await worker.stats()


async def test_stats_name_a_blocked_loop():
    async with mesh() as m:
        worker = await m.start("api")
        await m.get("api", "/block?seconds=0.7")
        assert (await worker.stats()).loop_lag > 0.15


@pytest.mark.parametrize("kind", KINDS)
async def test_a_factory_is_called(kind):
    async with mesh() as m:
        worker = await m.start("api", target=f"{APPS}:make()", kind=kind)
        assert (await m.get("api"))["id"] == worker.id


@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_an_app_object(kind):
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(current().worker_id).encode()})

    async with mesh() as m:
        worker = await m.start("api", target=app, kind=kind, lifespan="off")
        assert await m.get("api") == worker.id
        assert "app" in worker.name


async def test_environment_and_folder(tmp_path):
    (tmp_path / "only_here_app.py").write_text(f"from {APPS} import app as found\n")
    async with mesh() as m:
        await m.start("api", target="only_here_app:found", env={"DODICI_TEST": "12"}, cwd=tmp_path)
        found = await m.get("api", "/env?name=DODICI_TEST")
        assert found == {"value": "12", "cwd": str(tmp_path)}
        assert (await m.get("api", "/env?name=PATH"))["value"] == os.environ["PATH"]


async def test_output_is_given_line_by_line():
    lines = []
    async with mesh() as m:
        worker = await m.start("api", on_output=lambda *line: lines.append(line))
        await m.get("api", "/print?text=hello")
        await eventually(lambda: len(lines) >= 2)
        assert sorted(lines, key=str) == sorted(
            [(worker, "stdout", "hello"), (worker, "stderr", "HELLO")], key=str
        )


async def test_the_last_line_is_given_without_its_end(tmp_path):
    (tmp_path / "talks_app.py").write_text(
        "import os\nos.write(2, b'x' * 70000 + b'\\nlast words')\nos._exit(9)\n"
    )
    lines = []
    worker = Worker(
        "talks_app:app", cwd=tmp_path, on_output=lambda worker, stream, line: lines.append((stream, line))
    )
    async with mesh() as m:
        with pytest.raises(WorkerStartError) as failed:
            await m.interceptor.route("api", worker)
    assert failed.value.exit_code == 9
    assert lines[-1] == ("stderr", "last words")
    assert sum(len(line) for _, line in lines[:-1]) == 70000


async def test_who_goes_on_writing_after_its_end_is_not_heard_for_ever(monkeypatch):
    """A program that the app has left behind may write faster than lines are taken."""
    heard = []
    read, write = os.pipe()
    output = _Output(asyncio.get_running_loop(), read, "stdout", lambda stream, line: heard.append(line))
    never_empty = iter([b"noise\n" * 10_000] * 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", lambda descriptor, size: next(never_empty))
        output.finish()
    assert 1 << 20 <= 6 * len(heard) < 2 << 20
    with pytest.raises(BrokenPipeError):
        os.write(write, b"noise")
    os.close(write)


# -- starting ------------------------------------------------------------------------------------------


FAILURES = {
    "no module": ("nowhere_to_be_found:app", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "no attribute": (f"{APPS}:ap", "Did you mean 'app'"),
    "factory": (f"{APPS}:broken()", "ValueError: the factory is broken"),
    "lifespan": (f"{APPS}:failing_lifespan", "no database"),
    "no app": (f"{APPS}:APPS", "has no attribute"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", FAILURES)
async def test_a_worker_that_does_not_start_says_why(case, kind, monkeypatch):
    monkeypatch.setattr(
        "dodici.mesh.running._EXIT_CODE", 10.0
    )  # a busy machine takes its time to end a process
    target, text = FAILURES[case]
    async with mesh() as m:
        worker = Worker(target, kind=kind)
        with pytest.raises(WorkerStartError) as failed:
            await m.interceptor.route("api", worker)
        assert text in str(failed.value)
        assert failed.value.exit_code == 1
        assert await worker.wait() == 1
        assert worker.state == "exited"
        assert m.interceptor.snapshot().routes == {}
        with pytest.raises(NoTargetError):
            await m.get("api")


async def test_the_remote_traceback_is_there():
    async with mesh() as m:
        with pytest.raises(WorkerStartError) as failed:
            await m.interceptor.route("api", Worker(f"{APPS}:broken()"))
    assert 'raise ValueError("the factory is broken")' in failed.value.remote_traceback
    assert failed.value.remote_traceback.rstrip() in str(failed.value)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_import_that_exits_ends_its_worker_alone(kind, monkeypatch):
    monkeypatch.setattr("dodici.mesh.running._EXIT_CODE", 20.0)  # a busy machine is slow to end a process
    async with mesh() as m:
        worker = Worker(f"{APPS}:exits()", kind=kind)
        with pytest.raises(WorkerStartError, match="did not start: SystemExit: 3") as failed:
            await m.interceptor.route("api", worker)
        assert failed.value.exit_code == await worker.wait() == 3
        assert "in exits" in failed.value.remote_traceback


@pytest.mark.parametrize(
    ("function", "text", "code"),
    [("exits()", "did not start: SystemExit", 3), ("dies()", "exited with code 4 before it was ready", 4)],
)
async def test_a_process_that_exits_at_once(function, text, code, monkeypatch):
    monkeypatch.setattr("dodici.mesh.running._EXIT_CODE", 20.0)
    async with mesh() as m:
        await m.start("other")
        worker = Worker(f"{APPS}:{function}")
        began = time.monotonic()
        with pytest.raises(WorkerStartError, match=text) as failed:
            await m.interceptor.route("api", worker)
        assert failed.value.exit_code == code
        assert time.monotonic() - began < 10


async def test_start_timeout():
    async with mesh() as m:
        worker = Worker.entry(
            f"{APPS}:late_entry", args=["/nonexistent/file"], start_timeout=0.5, kind="loop"
        )
        with pytest.raises(WorkerStartError, match=r"not ready within 0\.5 s"):
            await m.interceptor.route("api", worker)
        assert await worker.wait() != 0


async def test_a_worker_that_failed_may_be_tried_again(tmp_path):
    async with mesh() as m:
        worker = Worker("appears_later_app:app", cwd=tmp_path)
        with pytest.raises(WorkerStartError):
            await m.interceptor.route("api", worker)
        first = worker.id
        (tmp_path / "appears_later_app.py").write_text(f"from {APPS} import app\n")
        await m.interceptor.route("api", worker)
        assert worker.id != first
        assert (await m.get("api"))["id"] == worker.id


async def test_start_up_may_use_the_mesh():
    async with mesh() as m:
        api = await m.start("api")
        await m.start("asking", target=f"{APPS}:asking_lifespan")
        assert (await m.get("asking"))["id"] == api.id


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"target": "no colon"}, "module:app"),
        ({"target": ":"}, "module:app"),
        ({"target": 5}, "must be an app"),
        ({"target": print}, "by name"),
        ({"target": APP, "kind": "fork"}, "kind must be"),
        ({"target": APP, "lifespan": "maybe"}, "lifespan must be"),
        ({"target": APP, "interface": "cgi"}, "interface must be"),
        ({"target": APP, "app_errors": "ignore"}, "app_errors must be"),
        ({"target": APP, "wsgi_threads": 0}, "wsgi_threads"),
        ({"target": APP, "accepting": 1}, "accepting"),
        ({"target": APP, "start_timeout": -1}, "start_timeout"),
        ({"target": APP, "on_output": "file"}, "on_output"),
        ({"target": APP, "start_timeout": True}, "start_timeout"),
        ({"target": APP, "start_timeout": 0}, "start_timeout"),
        ({"target": APP, "args": [1]}, "args"),
        ({"target": APP, "args": 5}, "args"),
        ({"target": APP, "name": 5}, "name"),
        ({"target": APP, "name": ""}, "name"),
        ({"target": APP, "env": ["A=1"]}, "env"),
        ({"target": APP, "env": {"A=B": "1"}}, "env"),
        ({"target": APP, "env": {"": "1"}}, "env"),
        ({"target": APP, "env": {"A": "1\0"}}, "env"),
        ({"target": APP, "cwd": 5}, "cwd"),
        ({"target": APP, "cwd": "a\0b"}, "cwd"),
        ({"target": "http://host/path"}, "is no address"),
    ],
)
def test_wrong_arguments(arguments, text):
    with pytest.raises(InvalidArgumentError, match=text):
        Worker(**arguments)


def test_arguments_of_a_process_are_json():
    with pytest.raises(InvalidArgumentError, match="JSON"):
        Worker.entry(f"{APPS}:entry", args=[object()])
    Worker.entry(f"{APPS}:entry", args=[object()], kind="loop")


# -- entries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_an_entry_is_ready_when_it_is_wired_with_an_app(kind, tmp_path):
    flag = tmp_path / "flag"
    async with mesh() as m:
        ready = await m.start("api", kind=kind)
        late = Worker.entry(f"{APPS}:late_entry", args=[str(flag)], kind=kind)
        routing = asyncio.create_task(m.interceptor.route("api", late))
        await eventually(lambda: late.id in m.interceptor.snapshot().members)
        assert await m.ids("api", 4) == {ready.id}
        assert not routing.done()
        assert late.state == "starting"
        flag.touch()
        await routing
        assert await m.ids("api", 4) == {ready.id, late.id}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_entry_ends_its_worker(kind, tmp_path):
    flag = tmp_path / "flag"
    async with mesh() as m:
        worker = Worker.entry(f"{APPS}:short_entry", args=[str(flag)], kind=kind)
        await m.interceptor.route("api", worker)
        await m.get("api")
        flag.touch()
        async with asyncio.timeout(10):
            assert await worker.wait() == 0
        assert m.interceptor.snapshot().routes == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raising_entry", "RuntimeError: main is broken"),
        ("not_async", "is not an async function"),
    ],
)
async def test_an_entry_that_fails(name, text, kind):
    async with mesh() as m:
        with pytest.raises(WorkerStartError, match=text):
            await m.interceptor.route("api", Worker.entry(f"{APPS}:{name}", kind=kind))


async def test_an_entry_that_returns_before_it_is_ready():
    async with mesh() as m:
        with pytest.raises(WorkerStartError, match="exited with code 0 before it was ready"):
            await m.interceptor.route("api", Worker.entry(f"{APPS}:returning_entry"))


async def test_a_second_wire_is_refused():
    async with mesh() as m:
        with pytest.raises(InvalidArgumentError, match="replace_server"):
            await _second_wire(m)


async def _second_wire(m):
    refused = asyncio.get_running_loop().create_future()

    async def main():
        await wire(None)
        try:
            await wire(None)
        except InvalidArgumentError as error:
            refused.set_exception(error)

    worker = Worker.entry(main, kind="loop")
    routing = asyncio.create_task(m.interceptor.route("api", worker))
    try:
        await refused
    finally:
        await asyncio.gather(routing, return_exceptions=True)


async def test_wrong_arguments_in_a_worker_are_its_own_mistakes():
    """They are refused where they are made: the coordinator would end a worker that tells it nonsense."""
    refused = []

    async def main():
        for arguments in ({"accepting": 1}, {"lifespan": "maybe"}, {"wsgi_threads": 0}):
            with pytest.raises(InvalidArgumentError) as error:
                await wire(None, **arguments)
            refused.append(str(error.value).split()[0])
        wired = await wire(app_of_the_test)
        for seconds in (-1, "1", None):
            with pytest.raises(InvalidArgumentError, match="drain_timeout"):
                await wired.close(seconds)
        with pytest.raises(InvalidArgumentError, match="True or False"):
            await wired.set_accepting(1)
        await wired.closed.wait()

    async def app_of_the_test(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1"})

    async with mesh() as m:
        worker = Worker.entry(main, kind="loop", lifespan="off")
        await m.interceptor.route("api", worker)
        assert await m.get("api") == 1
        assert worker.accepting
    assert refused == ["accepting", "lifespan", "wsgi_threads"]


async def test_wire_outside_of_a_worker():
    with pytest.raises(InvalidArgumentError, match=r"Worker\.entry"):
        await wire(None)


# -- ending --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "code"), [("/exit?code=5", 5), ("/sysexit?code=6", 6), ("/exit", 0)])
async def test_an_app_that_ends_its_process(path, code):
    async with mesh() as m:
        worker = await m.start("api")
        other = await m.start("other")
        with pytest.raises(WorkerExitedError):
            await m.get("api", path)
        assert await worker.wait() == code
        assert worker.id not in m.interceptor.snapshot().members
        with pytest.raises(NoTargetError):
            await m.get("api")
        assert await m.ids("other", 1) == {other.id}


@pytest.mark.parametrize("kind", KINDS)
async def test_kill(kind):
    async with mesh() as m:
        worker, sibling = await m.start("api", 2, kind=kind)
        await m.ids("api", 2)
        waiting = [asyncio.create_task(m.get("api", "/wait?seconds=20")) for _ in range(10)]
        while (await sibling.stats()).running < 5:
            await asyncio.sleep(0)
        worker.kill()
        async with asyncio.timeout(5):
            assert await worker.wait() == -signal.SIGKILL
        async with asyncio.timeout(5):
            done, pending = await asyncio.wait(waiting, timeout=2)
        assert len(done) == 5
        assert all(isinstance(task.exception(), WorkerExitedError) for task in done)
        assert await m.ids("api", 4) == {sibling.id}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        worker.kill()  # of one that is gone


@pytest.mark.parametrize("kind", KINDS)
async def test_stop_lets_running_requests_end(kind):
    async with mesh() as m:
        worker = await m.start("api", kind=kind)
        waiting = asyncio.create_task(m.get("api", "/wait?seconds=0.3"))
        while (await worker.stats()).running < 1:
            await asyncio.sleep(0)
        stops = [asyncio.create_task(worker.stop()) for _ in range(3)]
        await asyncio.sleep(0)
        assert worker.state == "closing"
        assert await waiting == {}
        assert [await stop for stop in stops] == [0, 0, 0]
        with pytest.raises(NoTargetError):
            await m.get("api")


@pytest.mark.parametrize("kind", KINDS)
async def test_stop_aborts_what_takes_longer(kind):
    async with mesh() as m:
        worker = await m.start("api", kind=kind)
        waiting = asyncio.create_task(m.get("api", "/wait?seconds=30"))
        while (await worker.stats()).running < 1:
            await asyncio.sleep(0)
        assert await worker.stop(grace=0.1) == 0
        with pytest.raises(WorkerExitedError):
            await waiting


async def test_stop_before_the_start_and_wrong_graces():
    worker = Worker(APP)
    assert await worker.stop() is None
    worker.kill()
    assert (worker.pid, worker.id, worker.exit_code) == (None, "", None)
    for grace in (-1, None, "1", float("nan")):
        with pytest.raises(InvalidArgumentError):
            await worker.stop(grace)


async def test_sigterm_drains():
    async with mesh() as m:
        worker = await m.start("api")
        waiting = asyncio.create_task(m.get("api", "/wait?seconds=0.3"))
        while (await worker.stats()).running < 1:
            await asyncio.sleep(0)
        os.kill(worker.pid, signal.SIGTERM)
        assert await waiting == {}
        assert await worker.wait() == 0


async def test_sigint_is_the_coordinators_business():
    async with mesh() as m:
        worker = await m.start("api")
        await m.get("api", "/interrupt")
        assert await m.ids("api", 2) == {worker.id}
        assert await m.get("api", "/program") == {"default": True}


async def test_a_frozen_process_is_killed(monkeypatch):
    monkeypatch.setattr("dodici.mesh.running._SHUTDOWN", 0.3)
    async with mesh(propagation_timeout=0.2) as m:
        worker = await m.start("api")
        os.kill(worker.pid, signal.SIGSTOP)
        began = time.monotonic()
        stopping = asyncio.create_task(worker.stop(grace=0))
        assert await stopping == -signal.SIGKILL
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("what", ["thread", "executor", "stubborn"])
async def test_what_an_app_leaves_behind_does_not_hold_up_its_process(what):
    said = []
    async with mesh() as m:
        worker = await m.start("api", on_output=lambda worker, stream, line: said.append(line))
        await m.get("api", f"/leave_behind?what={what}")
        began = time.monotonic()
        await asyncio.wait_for(m.interceptor.close(1), 10)
        # By itself: a worker that has left in order is killed after 5 s.
        assert worker.exit_code == 0
        assert 1.5 < time.monotonic() - began < 4.5
    assert any("its app still runs" in line for line in said)


async def test_a_wsgi_request_that_never_ends_does_not_hold_up_its_process():
    async with mesh() as m:
        worker = await m.start("api", target=f"{APPS}:stuck_wsgi", on_output=lambda *_: None)
        stuck = asyncio.create_task(m.get("api"))
        while (await worker.stats()).running < 1:
            await asyncio.sleep(0)
        await asyncio.wait_for(m.interceptor.close(0), 10)
        assert worker.exit_code == 0
        with pytest.raises(WorkerExitedError):
            await stuck


async def test_a_process_imports_what_its_program_could(tmp_path):
    """From folders and archives that the program has added, whatever lies in the working directory."""
    archive, work = tmp_path / "apps.zip", tmp_path / "work"
    work.mkdir()
    (work / "signal.py").write_text("raise RuntimeError('not this one')")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", "from tests.mesh.member_apps import app")
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, sys\n"
        "from dodici.mesh import Worker, WorkerInterceptor\n"
        "sys.path.insert(0, 'apps.zip')\n"
        "async def main():\n"
        "    async with WorkerInterceptor() as mesh:\n"
        "        worker = Worker('zipped:app', cwd='work')\n"
        "        await mesh.route('api', worker)\n"
        "        print(worker.state)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.returncode) == ("ready\n", 0), done.stderr


def test_a_process_has_the_options_of_its_interpreter():
    code = "from dodici.mesh.spawn import _interpreter_options; print(*_interpreter_options())"
    run = subprocess.run([sys.executable, "-O", "-X", "utf8", "-c", code], capture_output=True, text=True)
    assert {"-O", "-X", "utf8"} <= set(run.stdout.split())


async def test_an_app_does_not_see_how_its_process_was_started():
    async with mesh() as m:
        await m.start("api")
        assert await m.get("api", "/arguments") == ["-c"]


async def test_what_a_fork_inherits_keeps_no_link_open():
    children = []
    try:
        async with mesh() as m:
            worker = await m.start("api")
            for _ in range(3):
                children.append((await m.get("api", "/child"))["pid"])
            waiting = [asyncio.create_task(m.get("api", "/wait?seconds=20")) for _ in range(5)]
            while (await worker.stats()).running < 5:
                await asyncio.sleep(0)
            began = time.monotonic()
            os.kill(worker.pid, signal.SIGKILL)
            for task in waiting:
                with pytest.raises(WorkerExitedError):
                    await task
            assert time.monotonic() - began < 10
            assert all(map(alive, children))
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


async def test_an_address():
    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        host = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"host:"))
        body = json.dumps({"id": "outside", "host": host.decode()}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, family=socket.AF_INET)
    port = server.sockets[0].getsockname()[1]
    async with server, mesh() as m:
        worker = await m.start("api", target=f"http://127.0.0.1:{port}")
        assert (worker.kind, worker.pid, worker.state) == ("address", None, "ready")
        assert (await m.get("api"))["id"] == "outside"
        await m.interceptor.pause_worker(worker)
        with pytest.raises(NoTargetError):
            await m.get("api")
        await m.interceptor.resume_worker(worker)
        await m.get("api")
        assert await worker.stop() == 0
        with pytest.raises(NoTargetError):
            await m.get("api")


async def test_a_worker_belongs_to_one_mesh():
    async with mesh() as m, mesh() as other:
        worker = await m.start("api", kind="loop")
        with pytest.raises(InvalidArgumentError, match="another WorkerInterceptor"):
            await other.interceptor.route("api", worker)


async def test_workers_end_with_their_coordinator(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, sys, os, signal\n"
        "from dodici.mesh import Worker, WorkerInterceptor\n"
        "async def main():\n"
        "    mesh = WorkerInterceptor()\n"
        f"    workers = [Worker({APP!r}) for _ in range(2)]\n"
        "    await mesh.route('api', workers)\n"
        "    print(*(worker.pid for worker in workers), flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    try:
        pids = [int(pid) for pid in (await asyncio.to_thread(process.stdout.readline)).split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        process.kill()
        await eventually(lambda: not any(map(alive, pids)))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_mesh_per_loop():
    interceptor = WorkerInterceptor()

    async def main():
        worker = Worker(APP, kind="loop")
        await interceptor.route("api", worker)
        await interceptor.close()
        interceptor.restart()

    asyncio.run(main())
    asyncio.run(main())


async def test_without_pidfd_a_thread_watches(monkeypatch):
    def forbidden(pid):
        raise PermissionError("not in this sandbox")

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    async with mesh() as m:
        worker, other = await m.start("api", 2)
        worker.kill()
        assert await worker.wait() == -signal.SIGKILL
        assert await m.ids("api", 2) == {other.id}
    assert other.exit_code == 0


async def test_a_worker_that_imports_is_not_waited_for():
    async with mesh() as m:
        worker = Worker(f"{APPS}:slow()")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await m.interceptor.route("api", worker)
        assert worker.exit_code == -signal.SIGKILL
        began = time.monotonic()
        with pytest.raises(WorkerStartError, match="broken"):
            await m.interceptor.route("api", [Worker(f"{APPS}:slow()"), Worker(f"{APPS}:broken()")])
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["thread", "loop"])
async def test_hooks_of_the_server(kind):
    seen = []
    async with mesh() as m:
        await m.start(
            "api",
            kind=kind,
            on_server_request=lambda scope: seen.append(scope["path"]),
            on_server_response=[lambda scope, status_code, headers: seen.append(status_code)],
        )
        await m.get("api", "/who")
    assert seen == ["/who", 200]


def test_hooks_do_not_cross_into_a_process():
    with pytest.raises(InvalidArgumentError, match="on_server_error: functions do not cross"):
        Worker(APP, on_server_error=print)

    async def hook(scope): ...

    with pytest.raises(InvalidArgumentError, match="asynchronous"):
        Worker(APP, kind="loop", on_server_request=hook)

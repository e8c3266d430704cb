"""Apps and entries that the tests of workers start by name."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qsl

import dodici
from dodici.mesh import current, wire


async def answer(send, status=200, body=b"", headers=()):
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


async def app(scope, receive, send):
    """Does what the path says, and answers with JSON."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    action = scope["path"].strip("/").partition("/")[0] or "who"
    arguments = dict(parse_qsl(scope["query_string"].decode()))
    result = await globals()[f"do_{action}"](arguments)
    await answer(send, body=json.dumps(result).encode())


async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def do_who(arguments):
    try:
        return {"pid": os.getpid(), "id": current().worker_id, "accepting": current().accepting}
    except LookupError:
        return {"pid": os.getpid(), "id": None, "accepting": None}


async def do_env(arguments):
    return {"value": os.environ.get(arguments["name"]), "cwd": os.getcwd()}


async def do_accepting(arguments):
    await current().set_accepting(arguments["value"] == "1")
    return {}


async def do_replace(arguments):
    await current().replace_server(arguments.get("with"))
    return {}


async def do_fetch(arguments):
    """As app code does, without knowing of the mesh."""
    response = await dodici.request(arguments["url"])
    return {"status": response.status_code, "body": await response.json()}


async def do_ask(arguments):
    """Through this worker's own wire; many times, in a row."""
    found = []
    for _ in range(int(arguments.get("times", "1"))):
        try:
            response = await current().request(arguments["url"])
            found.append((await response.json())["id"])
        except dodici.DodiciError as error:
            found.append(type(error).__name__)
    return {"found": found}


async def do_exit(arguments):
    os._exit(int(arguments.get("code", "0")))


async def do_sysexit(arguments):
    sys.exit(int(arguments.get("code", "0")))


async def do_block(arguments):
    time.sleep(float(arguments["seconds"]))
    return {}


async def do_wait(arguments):
    await asyncio.sleep(float(arguments["seconds"]))
    return {}


async def do_print(arguments):
    print(arguments["text"], flush=True)
    print(arguments["text"].upper(), file=sys.stderr, flush=True)
    return {}


async def do_interrupt(arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return {}


async def do_descriptors(arguments):
    return {"open": sorted(os.listdir("/proc/self/fd")), "links": len(current()._member._links)}


async def do_arguments(arguments):
    return sys.argv


async def do_leave_behind(arguments):
    """Something that does not end with the worker."""
    if arguments["what"] == "thread":
        threading.Thread(target=time.sleep, args=(60,)).start()
    elif arguments["what"] == "executor":
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
    else:
        app.stubborn = asyncio.create_task(stubborn())
    return {}


async def stubborn():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


def stuck_wsgi(environ, start_response):
    time.sleep(60)


async def do_child(arguments):
    """Leave a process behind that has inherited every descriptor."""
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    return {"pid": child}


async def do_program(arguments):
    """What a program that the app starts does with SIGINT."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    return {"default": out.decode().strip() == "True"}


def make():
    return app


def broken():
    raise ValueError("the factory is broken")


def exits():
    sys.exit(3)


def dies():
    os._exit(4)


async def failing_lifespan(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def asking_lifespan(scope, receive, send):
    """Its start-up uses the mesh."""
    if scope["type"] == "lifespan":
        await receive()
        response = await current().request("http://api.local/")
        scope["state"]["seen"] = (await response.json())["id"]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await answer(send, body=json.dumps({"id": scope["state"]["seen"]}).encode())


async def entry(*names):
    """Not ready until another worker, or a test, says so through a file."""
    wired = await wire(app)
    await wired.closed.wait()


async def late_entry(path):
    wired = await wire(None)
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    await wired.replace_server(app)
    await wired.closed.wait()


async def short_entry(path):
    await wire(app)
    while not os.path.exists(path):
        await asyncio.sleep(0.01)


async def raising_entry():
    raise RuntimeError("main is broken")


async def returning_entry():
    return


async def twice_entry():
    await wire(app)
    await wire(app)


def not_async():
    pass


def slow():
    """An import that takes long: the loop is held meanwhile."""
    time.sleep(30)

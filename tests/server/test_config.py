"""The configuration: what is read, what is refused and where it says so, and that the page has every key."""

from __future__ import annotations

import re
from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path

import pytest

from dodici.core.errors import InvalidArgumentError
from dodici.server.address import Address
from dodici.server.collector.config import CollectorConfig
from dodici.server.collector.served import ServedConfig
from dodici.server.config import Config, ServiceConfig, for_app, load, parse
from dodici.server.lines import key_lines
from dodici.server.schema import ConfigError

PAGE = Path(__file__).parents[2] / "docs" / "config.md"
SMALL = '[services.shop]\napp = "shop:app"\npath = "/"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop.toml"


def problems(text: str, file: Path) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text, file=file)
    assert caught.value.code == "DODICI_ERR_CONFIG"
    assert str(file) in str(caught.value)
    return [(each.line, ".".join(each.path), each.message) for each in caught.value.problems]


def test_small_file_has_the_defaults(file: Path) -> None:
    config = parse(SMALL, file=file)
    assert config.gateway.listen == (Address("127.0.0.1", 8000),)
    assert config.gateway.request_size == 100 * 1024 * 1024
    [service] = config.services
    assert (service.name, service.app, service.workers, service.kind) == ("shop", "shop:app", 1, "process")
    assert service.path == ("/",)
    assert service.cwd == file.parent
    assert config.admin.listen is None
    assert config.mesh.domain == ".local"
    with pytest.raises(FrozenInstanceError):
        service.workers = 2  # type: ignore[misc]


def test_every_key_is_read(file: Path) -> None:
    (file.parent / "src").mkdir()
    config = parse(
        """
[gateway]
listen = ["[::1]:8080", "unix:/run/shop.sock"]
backlog = 10
max_connections = 20
header_size = "8KiB"
header_timeout = 1
keep_alive = 2.5
request_size = "1.5MiB"
request_timeout = 0
body_timeout = 7
websocket_size = 1000
trusted_proxies = ["10.0.0.0/8", "::1", "unix"]
access_log = true
[services.shop]
app = "shop.api:make()"
workers = 3
path = ["/api/", "/v2"]
host = "API.example.com"
strip_path = true
request_size = "1kB"
request_timeout = 3
env = { A = "b", N = 3, T = true }
cwd = "src"
interface = "wsgi"
lifespan = "off"
wsgi_threads = 2
start_timeout = 5
drain_timeout = 6
max_requests = 100
max_requests_jitter = 10
max_rss = "512MiB"
crash_limit = 2
crash_window = 9
[admin]
listen = "0.0.0.0:9100"
allow_remote = true
[reload]
enabled = true
paths = ["src"]
include = ["*.py", "*.html"]
exclude = ["test_*"]
[mesh]
domain = "MESH.internal"
timeout = 1
body_timeout = 2
propagation_timeout = 3
""",
        file=file,
    )
    gateway, [shop] = config.gateway, config.services
    assert [str(each) for each in gateway.listen] == ["[::1]:8080", "unix:/run/shop.sock"]
    assert (gateway.header_size, gateway.request_size) == (8192, 1572864)
    assert [str(each) for each in gateway.trusted_proxies] == ["10.0.0.0/8", "::1/128", "unix"]
    assert shop.path == ("/api", "/v2")
    assert shop.host == ("api.example.com",)
    assert shop.env == {"A": "b", "N": "3", "T": "1"}
    assert shop.cwd == file.parent / "src"
    assert (shop.request_size, shop.max_rss) == (1000, 512 * 1024 * 1024)
    assert config.reload.paths == (file.parent / "src",)
    assert config.mesh.domain == ".mesh.internal"


@pytest.mark.parametrize(
    ("text", "line", "path", "message"),
    [
        ('[services.shop]\napp = "a:b"\nworker = 2\n', 3, "services.shop.worker", "did you mean 'workers'?"),
        ('[gatewax]\nlisten = "a:1"\n', 1, "gatewax", "unknown table; did you mean 'gateway'?"),
        ("[gateway]\nzzz = 1\n", 2, "gateway.zzz", "unknown key; there are: access_log"),
        ('[gateway]\n\n# here\nlisten = "8000"\n', 4, "gateway.listen", "'8000' is no address"),
        ('[gateway]\nlisten = ":80"\n', 2, "gateway.listen", "'127.0.0.1:80' for this machine alone"),
        ('[gateway]\nlisten = "a:99999"\n', 2, "gateway.listen", "is no address"),
        ('[gateway]\nlisten = "[1.2.3.4]:80"\n', 2, "gateway.listen", "no IPv6 address in the brackets"),
        ('[gateway]\nlisten = "unix:shop.sock"\n', 2, "gateway.listen", "is absolute"),
        ("[gateway]\nlisten = []\n", 2, "gateway.listen", "at least one address"),
        ("[gateway]\nkeep_alive = 0\n", 2, "gateway.keep_alive", "more than 0 seconds"),
        ("[gateway]\nkeep_alive = true\n", 2, "gateway.keep_alive", "must be a number of seconds"),
        ("[gateway]\nbody_timeout = inf\n", 2, "gateway.body_timeout", "must be a number of seconds"),
        ('[gateway]\nrequest_size = "1 potato"\n', 2, "gateway.request_size", "such as '512MiB'"),
        ('[gateway]\ntrusted_proxies = ["proxy"]\n', 2, "gateway.trusted_proxies", "must be an address"),
        ('[gateway]\naccess_log = "yes"\n', 2, "gateway.access_log", "must be true or false"),
        ("gateway = 1\n", 1, "gateway", "must be a table, not an integer"),
        ("[services.shop]\nworkers = 1\n", 1, "services.shop", "'app' is missing"),
        ('[services.shop]\napp = "shop"\n', 2, "services.shop.app", "did you mean 'shop:app'?"),
        ('[services.shop]\napp = "a:b"\nworkers = 0\n', 3, "services.shop.workers", "1 or more, not 0"),
        (
            '[services.shop]\napp = "a:b"\nkind = "processx"\n',
            3,
            "services.shop.kind",
            "did you mean 'process'?",
        ),
        ('[services.shop]\napp = "a:b"\npath = "api"\n', 3, "services.shop.path", "beginning of a path"),
        ('[services.shop]\napp = "a:b"\npath = "/a/../b"\n', 3, "services.shop.path", "dots"),
        ('[services.shop]\napp = "a:b"\nhost = "a:80"\n', 3, "services.shop.host", "without a port"),
        ('[services.shop]\napp = "a:b"\ncwd = "no"\n', 3, "services.shop.cwd", "there is no folder"),
        (
            '[services.shop]\napp = "a:b"\nenv = { "A=B" = "1" }\n',
            3,
            "services.shop.env",
            "environment variable",
        ),
        ('[services.shop]\napp = "a:b"\nenv = { A = [] }\n', 3, "services.shop.env", "must be a string"),
        ('[services.shop]\napp = "a:b"\nstrip_path = true\n', 1, "services.shop", "strip_path needs a path"),
        (
            '[services.shop]\napp = "a:b"\nkind = "thread"\nmax_rss = 9\n',
            1,
            "services.shop",
            "share one memory",
        ),
        (
            '[services.shop]\napp = "http://localhost:1"\nworkers = 2\n',
            1,
            "services.shop",
            "no workers of its own",
        ),
        ('[services.Shop_1]\napp = "a:b"\n', 1, "services.Shop_1", "lower-case letters"),
        ('[services]\nshop = "a:b"\n', 2, "services.shop", "must be a table, [services.shop]"),
        ("services = 3\n", 1, "services", "must be tables"),
        ('[admin]\nlisten = "0.0.0.0:1"\n', 1, "admin", "allow_remote = true"),
        ('[mesh]\ndomain = "a b"\n', 2, "mesh.domain", "must be a domain"),
        ("[reload]\npaths = 'gone'\n", 2, "reload.paths", "there is no"),
        ("[gatewai.x]\na = 1\n", 1, "gatewai", "did you mean 'gateway'?"),
        ("[gateway]\nbacklog = 3_000_000_000\n", 2, "gateway.backlog", "2147483647 at most"),
        (f"[gateway]\nkeep_alive = 1{'0' * 400}\n", 2, "gateway.keep_alive", "not 1000"),
        (f"[gateway]\nheader_size = '{'9' * 400}GiB'\n", 2, "gateway.header_size", "not '9999"),
        ('[gateway]\nlisten = "unix:/a\\u0000b"\n', 2, "gateway.listen", "absolute"),
        ('[services.shop]\napp = "a:b"\ncwd = "a\\u0000b"\n', 3, "services.shop.cwd", "NUL"),
        ('[services.shop]\napp = "a:b"\ncwd = "~nobody.such/x"\n', 3, "services.shop.cwd", "home folder"),
    ],
)
def test_mistake_is_told_with_its_line(text: str, line: int, path: str, message: str, file: Path) -> None:
    if "services" not in text:
        text += SMALL
    found = problems(text, file)
    assert len(found) == 1, found
    assert found[0][:2] == (line, path)
    assert message in found[0][2]


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    found = problems('[gateway]\nfoo = 1\nbacklog = 0\n[services.a]\napp = "a:b"\nkind = 3\n', file)
    assert [(line, path) for line, path, _ in found] == [
        (2, "gateway.foo"),
        (3, "gateway.backlog"),
        (6, "services.a.kind"),
    ]


def test_toml_that_is_none_has_its_line(file: Path) -> None:
    [(line, _, message)] = problems("[gateway]\nlisten = \n", file)
    assert line == 2
    assert message.startswith("not TOML: ")


def test_file_without_a_service(file: Path) -> None:
    [(line, _, message)] = problems('[gateway]\nlisten = "127.0.0.1:1"\n', file)
    assert line is None
    assert "add a table such as [services.shop]" in message


def test_two_services_at_one_place(file: Path) -> None:
    text = '[services.a]\napp = "a:b"\npath = ["/x", "/y"]\n[services.b]\napp = "a:b"\npath = "/y/"\n'
    [(line, path, message)] = problems(text, file)
    assert (line, path) == (6, "services.b.path")
    assert message == "'/y' is routed to service 'a' already"
    # Beside it, on another host, it is fine.
    parse(text + 'host = "b.example"\n', file=file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "gone.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.toml:1: not UTF-8"):
        load(tmp_path / "latin.toml")


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000], ids=["digits", "brackets"])
def test_what_the_reader_of_toml_cannot_do(value: str, file: Path) -> None:
    [(_, _, message)] = problems(f"a = {value}", file)
    assert message == "a number is too long, or brackets are nested too deeply"


def test_files_of_other_systems(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_bytes(
        b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode() + b"x = 1\r\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "other.toml")
    [problem] = caught.value.problems
    assert problem.line == SMALL.count("\n") + 1
    assert problem.message.startswith("unknown key")


def test_lines_of_keys_in_all_their_forms() -> None:
    text = (
        'top = 1\n[a . "b.c"]\nx = """\n[no]\ny = 1\n"""  # a "comment\n'
        "d.e = [  # [\n  1,\n  {f = 2},\n]\n'quoted' = '''\nz = 1'''\n[[g]]\nh = {i = 1}\nj = '#'\nk = 2\n[[g]]"
    )
    assert key_lines(text) == {
        ("top",): 1,
        ("a",): 2,
        ("a", "b.c"): 2,
        ("a", "b.c", "x"): 3,
        ("a", "b.c", "d"): 7,
        ("a", "b.c", "d", "e"): 7,
        ("a", "b.c", "quoted"): 11,
        ("g",): 13,
        ("g", "1"): 13,
        ("g", "1", "h"): 14,
        ("g", "1", "j"): 15,
        ("g", "1", "k"): 16,
        ("g", "2"): 17,
    }


def test_configuration_of_one_app() -> None:
    config = for_app("shop.api:app", workers=3, listen=["127.0.0.1:0", "unix:/tmp/x"], kind=None)
    [service] = config.services
    assert (service.name, service.workers, service.path, service.cwd) == ("shop-api", 3, ("/",), Path.cwd())
    assert config.file is None
    assert len(config.gateway.listen) == 2
    with pytest.raises(ConfigError, match="module:app"):
        for_app("shop")
    with pytest.raises(ConfigError, match="is no address"):
        for_app("shop:app", listen=["nowhere"])


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("example.com:1", False),
    ],
)
def test_addresses(text: str, loopback: bool) -> None:
    address = Address.parse(text)
    assert str(address) == text
    assert address.loopback is loopback


def test_address_in_use_and_stale_socket(tmp_path: Path) -> None:
    taken = Address.parse("127.0.0.1:0")
    first = taken.listen()
    with first, pytest.raises(OSError, match="the address is in use"):
        taken.bound(first).listen()
    path = Address(path=str(tmp_path / "s"))
    listener = path.listen()
    with listener, pytest.raises(OSError, match="the address is in use"):
        path.listen()
    # Nobody answers there any more.
    with path.listen():
        path.release()
    assert not (tmp_path / "s").exists()
    (tmp_path / "s").write_text("a file")
    with pytest.raises(OSError, match="no socket"):
        path.listen()
    with pytest.raises(InvalidArgumentError, match="at most"):
        Address.parse("unix:/" + "x" * 200)


COLLECTOR = """[services.shop]
app = "shop:app"
[services.stock]
app = "http://Stock.test.collective"
[collector]
id = "a"
namespaces = ["test"]
[collector.services."test.Shop"]
origin = "http://shop.local"
"""


def test_collector_is_a_part_of_the_file(file: Path) -> None:
    assert parse(SMALL, file=file).collector is None
    config = parse(COLLECTOR, file=file)
    assert config.collector is not None
    assert (config.collector.id, config.collector.namespaces) == ("a", ("test",))
    assert config.collector.folder == file.parent
    [served] = config.collector.services
    assert (served.service, served.origin, served.handler) == ("Shop", "http://shop.local", None)
    shop, stock = config.services
    assert (shop.is_collective, stock.is_collective, stock.is_address) == (False, True, False)


@pytest.mark.parametrize(
    ("before", "after", "line", "path", "message"),
    [
        ("[collector]\n", "[collectors]\n", 5, "collectors", "did you mean 'collector'?"),
        ('id = "a"', "idd = 1", 6, "collector.idd", "did you mean 'id'?"),
        ('id = "a"', 'id = "a"\nlisten = "0.0.0.0:1"', 7, "collector.listen", "insecure = true"),
        ("Stock.test", "Stock", 4, "services.stock.app", "is 'http://SERVICE.NAMESPACE.collective'"),
        ("Stock.test", "Stock.tset", 4, "services.stock.app", "not in the namespace 'tset': add it to collector"),
        (".collective", ".collective:80", 4, "services.stock.app", "has neither port nor path"),
        ("http://Stock", "https://Stock", 4, "services.stock.app", "TLS is the collectors' affair"),
        (".collective", ".collective/x", 4, "services.stock.app", "must be 'http://stock.test.collective'"),
        ("shop.local", "shopp.local", 9, 'collector.services.test.Shop.origin', "there are: shop, stock"),
        ("shop.local", "stock.local", 9, 'collector.services.test.Shop.origin', "go round in circles"),
        ("shop.local", "Stock.test.collective", 9, 'collector.services.test.Shop.origin', "in circles"),
        ("http://shop.local", "shop.local", 9, 'collector.services.test.Shop.origin', "such as 'http://orders"),
        ("http://shop.local", "http://shop.local/x", 9, 'collector.services.test.Shop.origin', "must be the origin"),
        ('origin = "http://shop.local"', 'methods = ["A"]', 8, "collector.services.test.Shop", "is missing"),
        ("local\"\n", "local\"\nhandler = \"a:b\"\n", 8, "collector.services.test.Shop", "one of them"),
        ("local\"\n", "local\"\nidempotent = [\"A\"]\n", 8, "collector.services.test.Shop", "not in methods"),
        ("local\"\n", "local\"\nmethods = {A = {verv = 1}}\n", 10, "collector.services.test.Shop.methods", "there are: verb"),
        ("local\"\n", "local\"\ncodec = \"jsn\"\n", 10, "collector.services.test.Shop.codec", "did you mean 'json'?"),
        ('collective"\n', 'collective"\nworkers = 2\n', 3, "services.stock", "leave out workers"),
        ('collective"\n', 'collective"\nmax_rss = "1MiB"\n', 3, "services.stock", "leave out max_rss"),
    ],
)  # fmt: skip
def test_mistakes_about_the_collective(
    before: str, after: str, line: int, path: str, message: str, file: Path
) -> None:
    assert before in COLLECTOR
    found = problems(COLLECTOR.replace(before, after, 1), file)
    assert any(each[:2] == (line, path) and message in each[2] for each in found), found


def test_service_of_the_collective_needs_a_collector(file: Path) -> None:
    text = COLLECTOR[: COLLECTOR.index("[collector]")]
    assert problems(text, file) == [
        (
            4,
            "services.stock.app",
            "is in the collective, and there is no collector here: add a table [collector]",
        )
    ]
    with pytest.raises(ConfigError, match="add a table"):
        for_app("http://Stock.test.collective")


def test_collector_without_its_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dodici.server.config.installed", lambda name: name != "grpc")
    [(line, path, message)] = problems(COLLECTOR, file)
    assert (line, path) == (5, "collector")
    assert message == "needs grpc, which the extra 'collective' installs: pip install 'dodici[collective]'"


def documented() -> dict[str, dict[str, str]]:
    """By section: the keys of the page's tables, and their defaults."""
    found: dict[str, dict[str, str]] = {}
    keys: dict[str, str] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"## `\[(.+)\]`", line):
            keys = found.setdefault(heading[1], {})
        elif line.startswith("## "):
            keys = {}
        elif row := re.match(r"\| `(\w+)` \|(.*?)\|", line):
            assert row[1] not in keys
            keys[row[1]] = row[2].strip()
    return found


def test_page_has_every_key_with_its_default() -> None:
    page = documented()
    kinds = {
        **Config.SECTIONS,
        "services.NAME": ServiceConfig,
        "collector": CollectorConfig,
        'collector.services."NAMESPACE.Service"': ServedConfig,
    }
    assert page.keys() == kinds.keys()
    for section, kind in kinds.items():
        known = {each.name: each for each in fields(kind) if "read" in each.metadata}
        assert list(page[section]) == list(known), section
        for name, each in known.items():
            default = each.metadata["shown"]
            if default is None:
                default = f'"{each.default}"' if isinstance(each.default, str) else str(each.default)
                default = default.lower() if isinstance(each.default, bool) else default
            if each.default is MISSING and each.default_factory is MISSING:
                default = ""
            assert page[section][name].strip("`") == default, f"{section}.{name}"


def test_example_of_the_page_is_one() -> None:
    example = PAGE.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    assert parse(example, file=Path("shop.toml")).services[0].path == ("/",)


def test_address_whose_host_cannot_be_one() -> None:
    with pytest.raises(OSError, match="is no host name"):
        Address.parse(f"{'a' * 70}:1").listen()

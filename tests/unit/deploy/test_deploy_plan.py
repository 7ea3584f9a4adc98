"""From a compose file to processes.

Should happen: the processes of this machine find each other, their data and their ports as the services of the file would.
Should not happen: a process that others reach although the file does not say so; a variable of the caller's shell that sets up
a service; a start that must fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pygrid.deploy.compose import Restart, parse_compose
from pygrid.deploy.plan import Launch, passed_on, plan_processes
from pygrid.errors import InvalidConfig

GRID = """
services:
  dan:
    image: pygrid-worker
    command: [--domain, "http://alice:5000"]
    environment: {PYGRID_WORKER_TOKEN: t}
    profiles: [worker]
    depends_on: {alice: {condition: service_healthy}}
  alice:
    image: pygrid-domain
    environment:
      NODE_ID: alice
      PORT: 5000
      ADDRESS: http://alice:5000
      NETWORK: http://network:7000/
      DATABASE_URL: sqlite:////data/domain.db
      SECRET_KEY: "http://alice-but-no-host /database"
    ports: ["127.0.0.1:6000:5000"]
    volumes: ["alice:/data", "./records:/records:ro"]
    depends_on: {network: {condition: service_healthy}, cache: {condition: service_healthy, required: false}}
    restart: unless-stopped
    stop_grace_period: 30s
  network:
    image: pygrid-network
    ports: ["0.0.0.0:8000:7000"]
  cache:
    image: redis:7
    profiles: [cache]
"""


def plan(text: str = GRID, chosen: Iterable[str] = (), profiles: Iterable[str] = ()) -> tuple[Launch, ...]:
    ports = iter(range(40000, 41000))
    return plan_processes(
        parse_compose(text, "compose.yml", {}),
        tuple(chosen),
        tuple(profiles),
        folder=Path("/grid"),
        data_dir=Path("/kept"),
        free_port=lambda: next(ports),
    )


def test_services_become_processes_in_an_order_in_which_they_can_start() -> None:
    network, alice = plan()
    assert (network.name, network.app, network.arguments) == ("network", "network", ("network",))
    assert (network.host, network.port, network.address) == ("0.0.0.0", 8000, "http://127.0.0.1:8000")
    assert alice.environment == {
        "NODE_ID": "alice",
        "ADDRESS": "http://127.0.0.1:6000",
        "NETWORK": "http://127.0.0.1:8000/",
        "DATABASE_URL": "sqlite:////kept/alice/domain.db",
        "SECRET_KEY": "http://alice-but-no-host /database",
        "GRID_NODE_HOST": "127.0.0.1",
        "GRID_NODE_PORT": "6000",
        "PYGRID_DATA_DIR": "/kept/alice",
    }
    assert alice.wait_for == {"network": True}
    assert (alice.data_dir, alice.restart, alice.stop_grace_s) == (Path("/kept/alice"), Restart("unless-stopped"), 30)


def test_a_worker_gets_its_domain_and_a_place_for_files() -> None:
    dan = plan(profiles=["worker"])[-1]
    assert dan.arguments == ("worker", "--domain", "http://127.0.0.1:6000")
    assert dan.environment == {"PYGRID_WORKER_TOKEN": "t", "XDG_CACHE_HOME": "/kept/dan"}
    assert (dan.port, dan.address) == (None, None)


def test_chosen_services_bring_what_they_depend_on_and_nothing_else() -> None:
    assert [launch.name for launch in plan(chosen=["network"])] == ["network"]
    assert [launch.name for launch in plan(chosen=["dan"])] == ["network", "alice", "dan"]


def test_a_port_is_offered_on_this_machine_unless_the_file_says_otherwise() -> None:
    text = "services:\n  a: {image: pygrid-domain, ports: ['5000:5000']}\n  b: {image: pygrid-domain}\n"
    text += "  c: {image: pygrid-domain, ports: ['[::]:5002:5000']}\n"
    a, b, c = plan(text)
    assert (a.host, a.port) == ("127.0.0.1", 5000)
    assert (b.host, b.port) == ("127.0.0.1", 40000)
    assert (c.host, c.address) == ("::", "http://[::1]:5002")


def test_folders_of_this_machine_take_the_place_of_those_mounted() -> None:
    text = "services:\n  a:\n    image: pygrid-domain\n    volumes: ['./records:/data', '/srv/x:/in']\n"
    text += "    command: [--database-url, 'sqlite:////in/a.db', --other=/inside]\n"
    (a,) = plan(text)
    assert a.data_dir == Path("/grid/records")
    assert a.environment["PYGRID_DATA_DIR"] == "/grid/records"
    assert a.arguments == ("domain", "--database-url", "sqlite:////srv/x/a.db", "--other=/inside")


def test_nothing_of_the_shell_sets_up_a_service() -> None:
    shell = {"PATH": "/bin", "HOME": "/root", "LC_ALL": "C", "OMP_NUM_THREADS": "1", "http_proxy": "p", "HTTPS_PROXY": "p"}
    settings = {"SECRET_KEY": "s", "NODE_ID": "x", "DATABASE_URL": "d", "NETWORK": "n", "PYGRID_LEGACY_OPEN": "1", "PORT": "1"}
    assert passed_on(shell | settings) == shell


@pytest.mark.parametrize(
    ("text", "chosen", "profiles", "told"),
    [
        (GRID, ["erin"], [], "there is no service erin; there are dan, alice, network, cache"),
        (GRID, [], ["gpu"], "no service is in a profile gpu; there are cache, worker"),
        (GRID, [], ["cache"], "cache is the image redis:7, which is none of pygrid's"),
        (
            "services: {a: {image: pygrid-domain, depends_on: [b]}, b: {image: pygrid-domain, depends_on: [a]}}",
            [],
            [],
            "a -> b -> a",
        ),
        (
            "services: {a: {image: pygrid-domain, environment: {NETWORK: 'http://b:7000'}}, b: {image: pygrid-network}}",
            ["a"],
            [],
            "service a: NETWORK speaks to b, which is not started",
        ),
        (
            "services: {a: {image: pygrid-domain, environment: {NETWORK: 'http://b'}}, b: {image: pygrid-network}}",
            [],
            [],
            "speaks to b, but b listens on port 7000",
        ),
        (
            "services: {a: {image: pygrid-domain, ports: ['1:5001']}}",
            [],
            [],
            "publishes its port 5001, but listens on 5000; set PORT",
        ),
        ("services: {a: {image: pygrid-domain, environment: {PORT: x}}}", [], [], "PORT is 'x'"),
        (
            "services: {a: {image: pygrid-domain, ports: ['9:5000']}, b: {image: pygrid-network, ports: ['9:7000']}}",
            [],
            [],
            "services a and b both publish the port 9",
        ),
        ("services: {a: {image: pygrid-worker, ports: ['9:9']}}", [], [], "a Worker listens on none"),
        ("services: {a: {image: pygrid-domain, command: ['--port=1']}}", [], [], "has --port=1 in its command"),
        ("services: {a: {image: pygrid-domain, volumes: ['v:/else']}}", [], [], "at /else; pygrid up knows one for each"),
    ],
)
def test_what_processes_cannot_give_is_refused_before_any_starts(
    text: str, chosen: list[str], profiles: list[str], told: str
) -> None:
    with pytest.raises(InvalidConfig) as refused:
        plan(text, chosen, profiles)
    assert told in refused.value.detail

"""Compose files: what is read from them, and what is refused, with words that say where and what to do.

Should happen: variables are filled in as engines do; both spellings of each key give the same.
Should not happen: something asked for in the file that silently does not hold; a secret in a message.
"""

from __future__ import annotations

import pytest

from pygrid.deploy.apps import app_of
from pygrid.deploy.compose import ComposeFile, Dependency, Mount, PublishedPort, Restart, parse_compose
from pygrid.deploy.interpolation import Interpolation, read_env_file
from pygrid.errors import InvalidConfig


def parse(text: str, **variables: str) -> ComposeFile:
    return parse_compose(text, "compose.yml", variables)


def refusal(text: str, **variables: str) -> InvalidConfig:
    with pytest.raises(InvalidConfig) as refused:
        parse(text, **variables)
    return refused.value


def test_a_service_with_everything() -> None:
    file = parse(
        """
        name: grid
        x-shared: &shared
          restart: on-failure:3
          cap_drop: [ALL]
        services:
          alice:
            <<: *shared
            image: registry.example:5000/grid/pygrid-domain:0.1@sha256:00
            command: [--num-workers, 4]
            environment: {NODE_ID: alice, PORT: 5000, NETWORK: "${NETWORK:-http://network:7000}"}
            ports: ["127.0.0.1:6000:5000"]
            volumes: ["alice:/data", "./records:/records:ro"]
            depends_on: {network: {condition: service_healthy, required: false}}
            profiles: [hospitals]
            stop_grace_period: 1m30s
          network:
            image: pygrid-network
        volumes: {alice: {}}
        """
    )
    alice = file.services["alice"]
    assert alice.app == "domain"
    assert alice.command == ("--num-workers", "4")
    assert alice.environment == {"NODE_ID": "alice", "PORT": "5000", "NETWORK": "http://network:7000"}
    assert alice.port == PublishedPort("127.0.0.1", 6000, 5000)
    assert alice.mounts == (Mount("alice", "/data"), Mount("./records", "/records"))
    assert [mount.is_named for mount in alice.mounts] == [True, False]
    assert alice.depends_on == (Dependency("network", ready=True, required=False),)
    assert alice.restart == Restart("on-failure", 3)
    assert (alice.profiles, alice.stop_grace_s) == ({"hospitals"}, 90)
    assert file.ignored == {"cap_drop"}
    assert list(file.services) == ["alice", "network"]


def test_the_short_spellings() -> None:
    service = parse(
        """
        services:
          a: {image: pygrid-domain, environment: ["NODE_ID=a=b", EMPTY=], ports: [5000], depends_on: [b], restart: no}
          b: {image: pygrid-network, ports: ["7001:7000/tcp"]}
        """
    ).services
    assert service["a"].environment == {"NODE_ID": "a=b", "EMPTY": ""}
    assert service["a"].port == PublishedPort(None, None, 5000)
    assert service["b"].port == PublishedPort(None, 7001, 7000)
    assert service["a"].depends_on == (Dependency("b", ready=False),)
    assert service["a"].restart == Restart()


@pytest.mark.parametrize(
    ("image", "app"),
    [
        ("pygrid-domain", "domain"),
        ("pygrid-network:0.1.0", "network"),
        ("registry.example:5000/x/pygrid-worker@sha256:ab", "worker"),
        ("postgres:17", None),
        ("pygrid-domains", None),
        ("pygrid-domain/other", None),
    ],
)
def test_an_image_names_its_app(image: str, app: str | None) -> None:
    assert app_of(image) == app


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("$SET and ${SET}", "here and here"),
        ("$$SET", "$SET"),
        ("${EMPTY:-default}|${EMPTY-default}", "default|"),
        ("${NONE:-a}${NONE-b}", "ab"),
        ("${SET:-a}", "here"),
        ("${SET:+yes}|${EMPTY:+yes}|${EMPTY+yes}|${NONE+yes}", "yes||yes|"),
        ("${NONE:-${EMPTY:-${SET}}}!", "here!"),
        ("${SET:?why}${EMPTY?why}", "here"),
        ("${NONE:-}", ""),
        ("x${NONE}y", "xy"),
    ],
)
def test_variables_are_filled_in(text: str, filled: str) -> None:
    interpolation = Interpolation({"SET": "here", "EMPTY": ""})
    assert interpolation.fill({"k": [text]}, "") == {"k": [filled]}
    assert interpolation.unset == ({"NONE"} if text == "x${NONE}y" else set())


def test_a_variable_that_is_needed_is_asked_for_in_the_words_of_the_file() -> None:
    text = "services: {a: {image: pygrid-domain, environment: {SECRET_KEY: '${SECRET_KEY:?make one with pygrid}'}}}"
    for variables in ({}, {"SECRET_KEY": ""}):
        error = refusal(text, **variables)
        assert error.code == "variable_missing"
        assert error.detail == (
            "services.a.environment.SECRET_KEY needs the variable SECRET_KEY, which is not set: make one with pygrid"
        )
    assert parse(text, SECRET_KEY="s").services["a"].environment == {"SECRET_KEY": "s"}


def test_what_is_not_understood_is_named_with_what_is() -> None:
    error = refusal("services: {alice: {image: pygrid-domain, entrypoint: [sh]}}")
    assert error.code == "compose_key_not_understood"
    assert "compose.yml: services.alice.entrypoint is not understood" in error.detail
    assert "understood: command, depends_on, environment" in error.detail
    assert "cap_drop" in error.detail
    assert "secrets is not understood" in refusal("secrets: {}\nservices: {a: {image: x}}").detail


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ("[]", "services.a is no table"),
        ("{}", "services.a has no image"),
        ("{image: x, command: pygrid domain}", "services.a.command is no list"),
        ("{image: x, environment: {A: yes}}", "services.a.environment.A is no text or number; put it in quotes"),
        ("{image: x, environment: {A: }}", "services.a.environment.A is no text"),
        ("{image: x, environment: [A]}", "write A=${A} to pass on"),
        ("{image: x, environment: 3}", "services.a.environment is neither"),
        ("{image: x, ports: ['1:2', '3:4']}", "must be a list of one port"),
        ("{image: x, ports: ['5000:5000/udp']}", "write [HOST:][PUBLISHED:]TARGET"),
        ("{image: x, ports: ['1-5:1-5']}", "write [HOST:][PUBLISHED:]TARGET"),
        ("{image: x, ports: ['70000:1']}", "ports go to 65535"),
        ("{image: x, ports: [0]}", "ports go to 65535"),
        ("{image: x, ports: [true]}", "holds True"),
        ("{image: x, volumes: [/data]}", "write SOURCE:/PATH"),
        ("{image: x, volumes: [{type: bind}]}", "write SOURCE:/PATH"),
        ("{image: x, depends_on: [c]}", "depend on c, which is no service"),
        ("{image: x, depends_on: {a: {condition: service_completed_successfully}}}", "use service_started or service_healthy"),
        ("{image: x, depends_on: {a: {until: ready}}}", "has until"),
        ("{image: x, restart: sometimes}", "services.a.restart is 'sometimes'"),
        ("{image: x, restart: 'always:3'}", "on-failure:TIMES"),
        ("{image: x, stop_grace_period: soon}", "write a time like 30s"),
        ("{image: x, environment: {A: '${'}}", "a ${ without its }"),
        ("{image: x, environment: {A: '${A!b}'}}", "known are :- - :? ? :+ +"),
        ("{image: x, environment: {A: '5$'}}", "write $$ for the character itself"),
        ("{image: x, environment: {A: '${1}'}}", "that no name follows"),
        ("{image: x, image: y}", "has the key image twice"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(service: str, told: str) -> None:
    error = refusal(f"services:\n  a: {service}\n")
    assert error.code == "invalid_compose_file"
    assert told in error.detail


@pytest.mark.parametrize("text", ["", "[]", "services: {}", "services: [a]", "{}"])
def test_a_file_without_services_is_told_so(text: str) -> None:
    assert "has no services" in refusal(text).detail


def test_what_is_not_yaml_is_told_with_the_line() -> None:
    assert (
        "compose.yml line 2 is not YAML" in refusal("services:\n  a: {image: x\n").detail
        or "line 3" in refusal("services:\n  a: {image: x\n").detail
    )
    assert "line 4 has the key a twice" in refusal("services:\n  a: {image: x}\n  b: {image: x}\n  a: {image: y}\n").detail


def test_an_env_file() -> None:
    text = """
    # a comment
    PLAIN=a b  # said of it
    export EXPORTED = x=y
    SINGLE='a # $b'   # said
    DOUBLE="a \\"b\\"\\n$c"
    EMPTY=
    HASH=a#b
    """
    assert read_env_file(text, ".env") == {
        "PLAIN": "a b",
        "EXPORTED": "x=y",
        "SINGLE": "a # $b",
        "DOUBLE": 'a "b"\n$c',
        "EMPTY": "",
        "HASH": "a#b",
    }


@pytest.mark.parametrize("line", ["hunter2", "A='hunter2", 'A="hunter2" x', "1A=hunter2"])
def test_a_line_of_an_env_file_that_is_none_is_named_and_not_repeated(line: str) -> None:
    with pytest.raises(InvalidConfig, match=r"\.env line 2") as refused:
        read_env_file(f"B=1\n{line}\n", ".env")
    assert refused.value.code == "invalid_env_file"
    assert "hunter2" not in refused.value.detail

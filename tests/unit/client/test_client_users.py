"""Users and roles through the SDK and the command line, against a Domain and a Network in this process.

Should happen: people are named by e-mail and roles by name; a Model Owner hosts and nothing else; a refusal names the
permission, the app, the roles that have it and an Owner.
Should not happen: a number of a user or a role is shown; somebody gives what they do not have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner

import pygrid.client
from pygrid.cli import app
from pygrid.client import DomainClient, connect
from pygrid.client.users import permissions_of
from pygrid.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from pygrid.messages.accounts import PERMISSIONS
from pygrid.network import build_network
from pygrid.settings import load_network_settings
from pygrid.transport import AsgiTransport
from support.sdk import EMAIL, PASSWORD, host, owner_of, running_domain


@pytest.fixture
def site(tmp_path: Path) -> Iterator[AsgiTransport]:
    with running_domain(tmp_path) as transport:
        yield transport


@pytest.fixture
def owner(site: AsgiTransport) -> DomainClient:
    return owner_of(site)


@contextlib.contextmanager
def command_line(client: DomainClient) -> Iterator[CliRunner]:
    with mock.patch.object(pygrid.client, "connect", return_value=client):
        yield CliRunner()


def run(client: DomainClient, *words: str, stdin: str = "") -> str:
    with command_line(client) as runner:
        done = runner.invoke(app, words, input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_people_by_email_and_roles_by_name(site: AsgiTransport, owner: DomainClient) -> None:
    made = owner.users.add("Bob@example.org", PASSWORD, "model owner")
    assert made.role.name == "Model Owner"
    assert owner.users[" bob@EXAMPLE.org "].email == "Bob@example.org"
    assert [(user.email, user.role.name) for user in owner.users()] == [
        (EMAIL, "Owner"),
        ("Bob@example.org", "Model Owner"),
    ]
    assert owner.users.set_role("bob@example.org", "Compliance Officer").role.name == "Compliance Officer"
    owner.users.set_password("bob@example.org", "another " + PASSWORD)
    bob = connect(transport=site).login("bob@example.org", "another " + PASSWORD)
    assert [user.email for user in bob.users()] == [EMAIL, "Bob@example.org"]
    owner.users.remove("bob@example.org")
    with pytest.raises(Unauthenticated):
        bob.users()


def test_names_that_do_not_exist(owner: DomainClient) -> None:
    owner.users.add("bob@example.org", PASSWORD)
    with pytest.raises(NotFound, match=r"did you mean bob@example\.org"):
        owner.users["bob@example"]
    with pytest.raises(NotFound, match=r"no user 'eve@example\.org'$"):
        owner.users["eve@example.org"]
    with pytest.raises(NotFound, match="it has: User, Compliance Officer, Administrator, Owner, Model Owner"):
        owner.users.set_role("bob@example.org", "Boss")
    with pytest.raises(InvalidInput, match="'can_fly' is not a permission"):
        owner.roles.add("Pilot", ["can_fly"])


def test_a_model_owner_hosts_and_nothing_else(site: AsgiTransport, owner: DomainClient) -> None:
    owner.users.add("bob@example.org", PASSWORD, "Model Owner")
    bob = connect(transport=site).login("bob@example.org", PASSWORD)
    assert host(bob).finish().state == "finished"
    for refused in (bob.users, bob.roles, lambda: bob.workers.let_in("gpu")):
        with pytest.raises(Forbidden):
            refused()
    assert permissions_of(owner.roles["Model Owner"]) == ["can_host_models"]


def test_a_refusal_names_permission_app_roles_and_an_owner(site: AsgiTransport, owner: DomainClient) -> None:
    owner.users.add("bob@example.org", PASSWORD)
    bob = connect(transport=site).login("bob@example.org", PASSWORD)
    name = owner.identity().name
    with pytest.raises(Forbidden) as refused:
        host(bob)
    assert refused.value.detail == (
        f"your role User on {name} lacks can_host_models; ask an Owner ({EMAIL}) for a role that has it: "
        "Administrator, Owner, Model Owner"
    )
    owner.roles.add("Trainer", ["can_host_models"])
    owner.users.add("second@example.org", PASSWORD, "Owner")
    owner.users.set_role(EMAIL, "Administrator")
    with pytest.raises(Forbidden, match=r"ask an Owner \(second@example.org\).*Model Owner, Trainer$"):
        host(bob)
    with pytest.raises(Unauthenticated) as unknown:
        host(connect(transport=site))
    assert "@" not in unknown.value.detail


def test_an_invitation_by_a_plain_user_names_the_permission_that_counts(
    site: AsgiTransport, owner: DomainClient
) -> None:
    owner.users.add("bob@example.org", PASSWORD)
    bob = connect(transport=site).login("bob@example.org", PASSWORD)
    with pytest.raises(Forbidden, match="lacks can_create_users"):
        bob.users.invite("eve@example.org")


def test_nobody_gives_what_they_do_not_have(site: AsgiTransport, owner: DomainClient) -> None:
    owner.users.add("admin@example.org", PASSWORD, "Administrator")
    admin = connect(transport=site).login("admin@example.org", PASSWORD)
    with pytest.raises(Forbidden):
        admin.users.add("eve@example.org", PASSWORD, "Owner")
    with pytest.raises(Forbidden):
        admin.users.set_role("admin@example.org", "Owner")
    with pytest.raises(Forbidden):
        admin.users.set_password(EMAIL, PASSWORD)
    with pytest.raises(Forbidden):
        admin.roles.add("More", ["can_edit_roles"])
    with pytest.raises(Forbidden, match="last Owner"):
        owner.users.remove(EMAIL)
    assert admin.users.add("bob@example.org", PASSWORD, "Model Owner").role.name == "Model Owner"


def test_a_role_in_use_stays(owner: DomainClient) -> None:
    role = owner.roles.add("Trainer", ["can_host_models", "can_upload_data"])
    assert permissions_of(role) == ["can_upload_data", "can_host_models"]
    owner.users.add("bob@example.org", PASSWORD, "Trainer")
    with pytest.raises(Conflict):
        owner.roles.remove("Trainer")
    owner.users.remove("bob@example.org")
    owner.roles.remove("trainer")
    assert "Trainer" not in [role.name for role in owner.roles()]


def test_the_commands(owner: DomainClient) -> None:
    said = run(
        owner, "user", "add", "bob@example.org", "--role", "Model Owner", "--password-stdin", stdin=f"{PASSWORD}\n"
    )
    assert said == f"bob@example.org has an account on {owner.url}, with the role Model Owner\n"
    assert run(owner, "user", "role", "bob@example.org", "administrator").endswith("has the role Administrator\n")
    run(owner, "user", "password", "bob@example.org", "--password-stdin", stdin=f"another {PASSWORD}\n")
    listed = run(owner, "user", "list").splitlines()
    assert listed == ["e-mail\trole\tgroups", f"{EMAIL}\tOwner\t", "bob@example.org\tAdministrator\t"]
    run(owner, "role", "add", "Trainer", "-p", "can_host_models")
    assert "Trainer\tcan_host_models" in run(owner, "role", "list")
    shown = run(owner, "role", "show", "trainer")
    assert f"can_host_models\tyes\t{PERMISSIONS['can_host_models']}" in shown
    assert "can_manage_nodes" not in shown
    run(owner, "role", "remove", "Trainer")
    run(owner, "user", "remove", "bob@example.org", "--yes")
    assert "bob" not in run(owner, "user", "list")


def test_a_role_of_its_own_invites_people_and_makes_roles(site: AsgiTransport, owner: DomainClient) -> None:
    owner.roles.add("Recruiter", ["can_create_users"])
    owner.roles.add("Role Editor", ["can_edit_roles", "can_host_models"])
    owner.users.add("rita@example.org", PASSWORD, "Recruiter")
    owner.users.add("ed@example.org", PASSWORD, "Role Editor")
    rita = connect(transport=site).login("rita@example.org", PASSWORD)
    assert rita.users.add("new@example.org", PASSWORD).role.name == "User"
    assert rita.users.invite("newer@example.org", "user").code
    with pytest.raises(Forbidden):
        rita.users.invite("newest@example.org", "Owner")
    ed = connect(transport=site).login("ed@example.org", PASSWORD)
    assert permissions_of(ed.roles.add("Trainer", ["can_host_models"])) == ["can_host_models"]
    new = connect(transport=site).login("new@example.org", PASSWORD)
    with pytest.raises(Forbidden, match="lacks can_triage_requests"):
        new.roles()


def test_a_network_has_users_and_roles_too(tmp_path: Path) -> None:
    with contextlib.closing(AsgiTransport(build_network(load_network_settings({}, data_dir=tmp_path)))) as transport:
        owner = owner_of(transport)
        assert [role.name for role in owner.roles()] == ["User", "Administrator", "Owner"]
        assert owner.users.add("bob@example.org", PASSWORD, "Administrator").role.name == "Administrator"
        assert permissions_of(owner.roles.add("Registrar", ["can_manage_nodes"])) == ["can_manage_nodes"]
        bob = connect(transport=transport).login("bob@example.org", PASSWORD)
        with pytest.raises(Forbidden, match=rf"lacks can_edit_roles; ask an Owner \({EMAIL}\)"):
            bob.roles.add("More", [])


def test_an_invitation_a_reset_and_a_token(
    site: AsgiTransport, owner: DomainClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    said = run(owner, "user", "invite", "bob@example.org", "--role", "Model Owner").splitlines()
    assert said[0].startswith("bob@example.org can create an account as Model Owner until ")
    code = said[-1].removeprefix(f"pygrid account accept {owner.url} ")
    assert run(owner, "user", "invitations").splitlines()[1].startswith("bob@example.org\tModel Owner\t")
    newcomer = connect(transport=site)
    run(newcomer, "account", "accept", owner.url, code, "--password-stdin", stdin=f"{PASSWORD}\n")
    assert newcomer.users is not None
    assert owner.users["bob@example.org"].role.name == "Model Owner"
    token = run(newcomer, "token", "make", "nightly", "--scope", "read").strip()
    script = connect(transport=site, token=token)
    assert script.processes() == []
    with pytest.raises(Forbidden, match="scope read"):
        host(script)
    assert "nightly\tread\t" in run(newcomer, "token", "list")
    run(newcomer, "token", "revoke", "nightly")
    with pytest.raises(Unauthenticated, match=r"^this API token .*: make another one, with `pygrid token make NAME`"):
        script.processes()
    code = run(owner, "user", "reset", "bob@example.org").split()[-1]
    forgetful = connect(transport=site)
    run(forgetful, "account", "recover", owner.url, code, "--password-stdin", stdin=f"another {PASSWORD}\n")
    assert forgetful.processes() == []
    with pytest.raises(Unauthenticated):
        newcomer.processes()
    owner.users.invite("carol@example.org")
    run(owner, "user", "withdraw", "carol@example.org")
    with pytest.raises(NotFound, match="no open invitation"):
        owner.users.withdraw("carol@example.org")

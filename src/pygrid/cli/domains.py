"""``pygrid domains``: the Domains of a Network; for Owners and Administrators, decisions and invitations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pygrid.cli.common import JsonOption, NetworkOption, connect_network
from pygrid.cli.help import App
from pygrid.cli.output import say, say_facts, say_json, say_table

if TYPE_CHECKING:
    from pygrid.client import NetworkClient

app = App("Show the Domains of a Network; accept, deny and invite Domains.\n\nExample: pygrid domains list")

Name = Annotated[str, typer.Argument(help="Name of the Domain.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Reason, shown to the Owner of the Domain.")]
Identity = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Identity, if several ask for the name; see `pygrid domains list pending`."),
]
Association = Literal["accepted", "pending", "denied", "revoked", "left", "all"]


@app.command("list")
def list_domains(
    association: Annotated[
        Association, typer.Argument(help="State of the Domains; without an account, only accepted.")
    ] = "accepted",
    network: NetworkOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the Domains of a Network with their health. No account is needed.

    Example: pygrid domains list pending --network http://127.0.0.1:7000
    """
    with connect_network(network) as client:
        found = client.domains(association)
    words = {"accepted": "no Domain belongs to the Network", "all": "the Network knows no Domain"}
    empty = words.get(association, f"no Domain is {association}")
    say_json(found) if as_json else say_table(found, empty)


@app.command()
def show(name: Name, network: NetworkOption = None, as_json: JsonOption = False) -> None:
    """Show a Domain as the Network knows it.

    Example: pygrid domains show hospital-a
    """
    import msgspec

    with connect_network(network) as client:
        found = client.show(name)
    if as_json:
        say_json(found)
        return
    fields = {name: value for name, value in msgspec.to_builtins(found).items() if value not in (None, "", {})}
    for name, value in fields.items():
        if isinstance(value, dict):
            fields[name] = "\n".join(f"{what}: {number}" for what, number in value.items())
    say_facts((name.replace("_", " "), value) for name, value in fields.items())


@app.command()
def accept(name: Name, identity: Identity = None, reason: Reason = "", network: NetworkOption = None) -> None:
    """Accept a Domain, also one that was denied or revoked, or has left. For Owners and Administrators.

    Anybody can ask for a name, so compare the identity with the one that the Domain's Owner told you. Without
    --identity, the command shows it, and asks for confirmation in a terminal. Only the identity that was shown is
    accepted.

    Example: pygrid domains accept hospital-a
    """
    from pygrid.plans.text import printable

    with connect_network(network) as client:
        if identity is None and (identity := _find_only_one(client, name)) is not None:
            say(f"{printable(name)} is {printable(identity)}")
            if sys.stdin.isatty():
                typer.confirm("Is that the identity that its Owner told you?", abort=True)
        say(f"{client.accept(name, reason, identity).name} belongs to the Network now")


def _find_only_one(client: NetworkClient, name: str) -> str | None:
    """The identity of the only Domain that asks for the name, else of the only one that has it; None if several do."""
    named = [found for found in client.domains("all") if found.name.casefold() == name.casefold()]
    asking = [found for found in named if found.association == "pending"] or named
    return asking[0].identity if len(asking) == 1 else None


@app.command()
def deny(name: Name, identity: Identity = None, reason: Reason = "", network: NetworkOption = None) -> None:
    """Deny a Domain that waits for a decision. For Owners and Administrators.

    Example: pygrid domains deny hospital-b --reason "we do not know you"
    """
    with connect_network(network) as client:
        say(f"{client.deny(name, reason, identity).name} is denied")


@app.command()
def revoke(name: Name, reason: Reason = "", network: NetworkOption = None) -> None:
    """Revoke a Domain; its key is refused until it is accepted again. For Owners and Administrators.

    Example: pygrid domains revoke hospital-b
    """
    with connect_network(network) as client:
        say(f"{client.revoke(name, reason).name} no longer belongs to the Network")


@app.command()
def forget(name: Name, identity: Identity = None, network: NetworkOption = None) -> None:
    """Delete a Domain and the decision on it; the name is free, and it may ask again. For Owners and Administrators.

    Without --identity, all Domains that have the name or ask for it are deleted.

    Example: pygrid domains forget hospital-b
    """
    with connect_network(network) as client:
        client.forget(name, identity)
    say(f"{name} is forgotten")


@app.command()
def invite(
    domain: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the Domain that may use it; default: any.")
    ] = None,
    uses: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Number of Domains that can use it.")] = 1,
    days: Annotated[int, typer.Option(min=1, max=366, metavar="N", help="Days until it expires.")] = 7,
    network: NetworkOption = None,
) -> None:
    """Create an invitation and print its token, which is not shown again. For Owners and Administrators.

    A Domain with an invitation is accepted at once: PYGRID_INVITATION=TOKEN pygrid domain --network URL.

    Example: pygrid domains invite --domain hospital-a > token
    """
    with connect_network(network) as client:
        new = client.invite(domain, max_uses=uses, expires_in_s=days * 86400)
    say(new.token)
    whom = f"the Domain {domain}" if domain else f"{uses} Domain{'s' if uses > 1 else ''}"
    say(f"invitation {new.invitation.id}, for {whom}, until {new.invitation.expires_at:%Y-%m-%d %H:%M} UTC", err=True)


@app.command()
def invitations(network: NetworkOption = None, as_json: JsonOption = False) -> None:
    """List the invitations that were not taken back, without their tokens. For Owners and Administrators.

    Example: pygrid domains invitations
    """
    with connect_network(network) as client:
        found = client.invitations()
    say_json(found) if as_json else say_table(found, "there is no invitation")


@app.command("take-back")
def take_back(
    invitation: Annotated[int, typer.Argument(metavar="N", help="Number of the invitation.")],
    network: NetworkOption = None,
) -> None:
    """Take an invitation back; Domains that used it stay accepted. For Owners and Administrators.

    Example: pygrid domains take-back 1
    """
    with connect_network(network) as client:
        client.take_back(invitation)
    say(f"invitation {invitation} is no longer valid")

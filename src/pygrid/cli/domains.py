"""``pygrid domains``: the Domains of a Network, for everybody; and for those who run it, who gets in."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pygrid.cli.common import friendly
from pygrid.cli.output import say, say_json

if TYPE_CHECKING:
    from pygrid.client import NetworkClient

app = typer.Typer(
    help="The Domains of a Network: look at them, let them in.", no_args_is_help=True, add_completion=False
)

NetworkOption = Annotated[
    str | None,
    typer.Option("--network", envvar="PYGRID_NETWORK_URL", help="Address of the Network.", show_default=False),
]
Name = Annotated[str, typer.Argument(help="Name of the Domain.")]
Reason = Annotated[str, typer.Option(help="The Domain's owner is told.")]
Identity = Annotated[
    str | None,
    typer.Option(help="Which one, if several have asked for the name: as `pygrid domains list pending` shows it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Association = Literal["accepted", "pending", "denied", "revoked", "left", "all"]


@app.command("list")
@friendly
def list_domains(
    association: Annotated[
        Association, typer.Argument(help="Which: others than accepted ones are for those who run the Network.")
    ] = "accepted",
    network: NetworkOption = None,
    as_json: Json = False,
) -> None:
    """List the Domains of a Network, and how they are. It needs no account.

    Example: pygrid domains list pending --network http://127.0.0.1:7000
    """
    from pygrid.cli.output import print_table
    from pygrid.client import connect_network

    with connect_network(network) as client:
        found = client.domains(association)
    empty = "no Domain belongs to the Network" if association == "accepted" else "there is none"
    say_json(found) if as_json else print_table(found, empty)


@app.command()
@friendly
def show(name: Name, network: NetworkOption = None, as_json: Json = False) -> None:
    """Show what a Network knows of a Domain.

    Example: pygrid domains show hospital-a
    """
    import msgspec

    from pygrid.client import connect_network
    from pygrid.plans.text import printable

    with connect_network(network) as client:
        found = client.show(name)
    if as_json:
        say_json(found)
        return
    for key, value in msgspec.to_builtins(found).items():
        if value not in (None, "", {}):
            words = (
                ", ".join(f"{each}: {number}" for each, number in value.items()) if isinstance(value, dict) else value
            )
            say(f"{key.replace('_', ' '):16}  {printable(str(words))}")


@app.command()
@friendly
def accept(name: Name, identity: Identity = None, reason: Reason = "", network: NetworkOption = None) -> None:
    """Let a Domain belong to the Network; also one that was denied or revoked, or has left. For those who run the
    Network.

    Anybody can ask for a name, so compare the identity with the one that the owner told you. Without --identity the
    command shows it, and asks you if it runs in a terminal. Nobody but the one that was shown is accepted.

    Example: pygrid domains accept hospital-a --identity ed25519:abc...
    """
    from pygrid.client import connect_network
    from pygrid.plans.text import printable

    with connect_network(network) as client:
        if identity is None and (identity := _find_only_one(client, name)) is not None:
            say(f"{printable(name)} is {printable(identity)}")
            if sys.stdin.isatty():
                typer.confirm("Is that the identity that its owner told you?", abort=True)
        say(f"{client.accept(name, reason, identity).name} belongs to the Network now")


def _find_only_one(client: NetworkClient, name: str) -> str | None:
    """The identity of the Domain that asks for the name, or else of the one that has it; None: there is not one
    alone.
    """
    named = [found for found in client.domains("all") if found.name.casefold() == name.casefold()]
    asking = [found for found in named if found.association == "pending"] or named
    return asking[0].identity if len(asking) == 1 else None


@app.command()
@friendly
def deny(name: Name, identity: Identity = None, reason: Reason = "", network: NetworkOption = None) -> None:
    """Turn down a Domain that waits for a decision. For those who run the Network.

    Example: pygrid domains deny hospital-b --reason "we do not know you"
    """
    from pygrid.client import connect_network

    with connect_network(network) as client:
        say(f"{client.deny(name, reason, identity).name} is denied")


@app.command()
@friendly
def revoke(name: Name, reason: Reason = "", network: NetworkOption = None) -> None:
    """Put a Domain out of the Network; its key gets in no more unless it is accepted again. For those who run the
    Network.

    Example: pygrid domains revoke hospital-b
    """
    from pygrid.client import connect_network

    with connect_network(network) as client:
        say(f"{client.revoke(name, reason).name} belongs to the Network no more")


@app.command()
@friendly
def forget(name: Name, identity: Identity = None, network: NetworkOption = None) -> None:
    """Forget a Domain and what was decided about it: its name is free, and it may ask again. For those who run the
    Network.

    Without --identity, all that are known by the name, or ask for it.

    Example: pygrid domains forget hospital-b
    """
    from pygrid.client import connect_network

    with connect_network(network) as client:
        client.forget(name, identity)
    say(f"{name} is forgotten")


@app.command()
@friendly
def invite(
    domain: Annotated[str | None, typer.Option(help="Only a Domain of this name may use it; default: any.")] = None,
    uses: Annotated[int, typer.Option(min=1, max=1000, help="For how many Domains it is good.")] = 1,
    days: Annotated[int, typer.Option(min=1, max=366, help="For how long.")] = 7,
    network: NetworkOption = None,
) -> None:
    """Make an invitation, and print its token, which is shown this once. For those who run the Network.

    A Domain that has it is accepted at once: PYGRID_INVITATION=TOKEN pygrid domain --network ADDRESS.

    Example: pygrid domains invite --domain hospital-a > token
    """
    from pygrid.client import connect_network

    with connect_network(network) as client:
        new = client.invite(domain, max_uses=uses, expires_in_s=days * 86400)
    say(new.token)
    whom = f"the Domain {domain}" if domain else f"{uses} Domain{'s' if uses > 1 else ''}"
    say(f"invitation {new.invitation.id}, for {whom}, until {new.invitation.expires_at:%Y-%m-%d %H:%M} UTC", err=True)


@app.command()
@friendly
def invitations(network: NetworkOption = None, as_json: Json = False) -> None:
    """List the invitations that were given and not taken back, without their tokens. For those who run the Network.

    Example: pygrid domains invitations
    """
    from pygrid.cli.output import print_table
    from pygrid.client import connect_network

    with connect_network(network) as client:
        found = client.invitations()
    say_json(found) if as_json else print_table(found, "there is no invitation")


@app.command("take-back")
@friendly
def take_back(
    invitation: Annotated[int, typer.Argument(help="Number of the invitation.")], network: NetworkOption = None
) -> None:
    """Take an invitation back; Domains that came by it stay. For those who run the Network.

    Example: pygrid domains take-back 1
    """
    from pygrid.client import connect_network

    with connect_network(network) as client:
        client.take_back(invitation)
    say(f"invitation {invitation} is good for nothing now")

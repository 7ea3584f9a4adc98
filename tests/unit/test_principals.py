"""Services check who asks: each public method has the principal first, and looks at it.

Should happen: a method of a service refuses by itself, whatever guards its routes have.
Should not happen: a public method without a principal that is not one of `EXEMPT`; a principal that nothing reads.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import pytest

from pygrid.features.accounts.service import AccountService
from pygrid.features.accounts.signing import SignIn
from pygrid.features.associations.domain.service import DomainAssociations
from pygrid.features.associations.network.service import NetworkAssociations
from pygrid.features.datasets.service import DatasetsService
from pygrid.features.datasets.uploads import UploadsService
from pygrid.features.jobs.policies import PoliciesService
from pygrid.features.jobs.service import JobsService
from pygrid.features.models.service import ModelsService
from pygrid.features.processes.drafts import DraftsService
from pygrid.features.processes.service import ProcessesService
from pygrid.features.workers.service import WorkersService
from pygrid.legacy.nodes import LegacyNodes

SERVICES: tuple[type, ...] = (
    AccountService,
    SignIn,
    DatasetsService,
    UploadsService,
    DomainAssociations,
    DraftsService,
    JobsService,
    LegacyNodes,
    ModelsService,
    NetworkAssociations,
    PoliciesService,
    ProcessesService,
    WorkersService,
)
"""`CyclesService` and `ClientRegistry` check request keys; all that `DiscoveryService` and `CatalogService` return is
public."""

EXEMPT = {
    # Sign-in and sign-up
    "SignIn.authenticate",
    "SignIn.authenticate_key",
    "SignIn.find_principal",
    "SignIn.log_in",
    "WorkersService.authenticate",
    "SignIn.has_owner",
    "SignIn.needs_setup_code",
    # Under a draft, for which `receive_trial` has checked the principal
    "UploadsService.try_upload",
    # A checkpoint that `find_checkpoint` has found for the principal
    "ProcessesService.find_state",
    # A Worker's token
    "WorkersService.authenticate_holder",
    "WorkersService.claim",
    "WorkersService.finish",
    "WorkersService.find_file",
    "WorkersService.give_back",
    "WorkersService.lease",
    "WorkersService.max_answer_bytes",
    "WorkersService.renew",
    # A Domain's key, on its control link
    "NetworkAssociations.serve",
    # What `LegacyNodes` has checked, and what the routes of Domains show
    "NetworkAssociations.forget_node",
    "NetworkAssociations.is_waiting",
    "NetworkAssociations.reconcile",
    # Start, tasks and stop
    "DatasetsService.recover",
    "DomainAssociations.recover",
    "DomainAssociations.run",
    "DraftsService.recover",
    "ModelsService.recover",
    "NetworkAssociations.close",
    "NetworkAssociations.forget_stale",
    "NetworkAssociations.load",
    "NetworkAssociations.note_seen",
    "ProcessesService.remove_blobs",
    "SignIn.close",
    "SignIn.remove_expired_sessions",
}


def _public_methods() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for kind in SERVICES:
        (node,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(node, ast.ClassDef)
        for method in node.body:
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and not method.name.startswith("_"):
                yield f"{kind.__name__}.{method.name}", method


METHODS = dict(_public_methods())


@pytest.mark.parametrize("name", sorted(METHODS.keys() - EXEMPT))
def test_a_public_method_takes_the_principal_first_and_reads_it(name: str) -> None:
    method = METHODS[name]
    first = method.args.args[1]
    assert first.arg == "principal"
    assert first.annotation is not None
    assert ast.unparse(first.annotation) in ("Principal", "Principal | None")
    reads = [node for part in method.body for node in ast.walk(part) if isinstance(node, ast.Name)]
    assert "principal" in {node.id for node in reads}


def test_every_exempt_method_exists() -> None:
    assert not EXEMPT - METHODS.keys()

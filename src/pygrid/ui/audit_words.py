"""Entries of the audit log in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACTIONS = {
    "app_started": "The app started",
    "budget_changed": "changed the budget of {dataset}",
    "budget_granted": "gave {account} a share of the budget of {dataset}",
    "budget_opened": "opened a budget of {dataset}",
    "budget_reserved": "reserved the privacy cost of a job",
    "budgets_repriced": "An update of pygrid computed all privacy costs again",
    "charge_failed": "The privacy cost of a failed job stays spent",
    "charge_refunded": "The privacy cost of a job was given back",
    "charge_released": "The privacy cost of a released job is spent",
    "charge_running": "The privacy cost of a running job is spent",
    "checkpoint_evaluated": "A checkpoint was evaluated",
    "checkpoint_restored": "restored a checkpoint",
    "dataset_deleted": "deleted {dataset}",
    "dataset_renamed": "renamed {dataset}",
    "dataset_uploaded": "stored {dataset}",
    "dataset_version_added": "added a version to {dataset}",
    "email_changed": "changed the e-mail of {account}",
    "federated_diff_kept": "A cycle of a federated job was stored",
    "federated_training_begun": "A federated job began to train",
    "federated_training_moved": "A federated job went on with the next cycle",
    "invitation_withdrawn": "withdrew an invitation",
    "job_approved": "approved a job on {dataset}",
    "job_cancelled": "cancelled a job",
    "job_denied": "denied a job on {dataset}",
    "job_failed": "A job failed",
    "job_held": "A result waits for its release",
    "job_presented": "A job waits for a decision",
    "job_put_back": "A job waits again, because no Worker began it",
    "job_rejected": "A job failed on the mock dataset",
    "job_released": "released a result",
    "job_revoked": "revoked an approval",
    "job_started": "A job started",
    "job_submitted": "asked for a job on {dataset}",
    "logins_failed": "Sign-ins failed",
    "network_joined": "joined a Network",
    "password_changed": "changed the password of {account}",
    "password_reset": "chose a new password by a reset",
    "password_reset_made": "made a password reset for {account}",
    "policy_changed": "set the policy of {dataset}",
    "private_key_revoked": "revoked a private key",
    "private_key_rotated": "made a new private key",
    "process_deleted": "deleted the process {name} {version}",
    "process_finished": "finished the process {name} {version}",
    "result_deleted": "A result was deleted after its time",
    "role_changed": "changed the role of {account} from {before} to {role}",
    "role_created": "made the role {name}",
    "role_deleted": "deleted the role {name}",
    "role_edited": "changed the role {name}",
    "same_records_budgeted": "opened a budget of {dataset}, whose records another owner has, too",
    "sessions_ended": "ended sessions of {account}: {count}",
    "token_made": "made an API token",
    "token_revoked": "revoked an API token",
    "user_connected": "connected {account} with a sign-in provider",
    "user_disconnected": "disconnected {account} from its sign-in provider",
    "user_deleted": "deleted {account}",
    "user_invited": "invited a person with the role {role}",
    "user_logged_in": "signed in",
    "user_logged_out": "signed out",
    "user_signed_up": "opened {account} with the role {role}",
    "worker_let_in": "authorized a Worker",
    "worker_revoked": "revoked a Worker",
}
"""Words of each action: a sentence, or what follows its actor. ``{dataset}`` and ``{account}`` have the present name if
the reader may see it, else the number."""
BOOKKEEPING = frozenset(
    action for action in ACTIONS if action.startswith(("charge_", "budget_reserved", "federated_", "user_logged_"))
) | {"checkpoint_evaluated", "job_presented", "job_put_back", "job_started"}
"""Actions that follow from others, which the start page leaves out."""
NO_NAMES: Mapping[str, str] = {}
_OBJECTS = {
    "job_id": ("job", "/admin/jobs/"),
    "dataset_id": ("dataset", "/admin/datasets/"),
    "process_id": ("process", "/admin/processes/"),
    "user_id": ("account", "/admin/people/"),
}


class _Known(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def say_entry(actor: str, action: str, data: Mapping[str, Any], names: Mapping[str, str] = NO_NAMES) -> str:
    """Return an entry as a sentence; an action without words is named.

    Args:
        actor: e-mail of the actor; empty: the app itself.
        names: present name of what ``dataset_id`` and ``user_id`` of the data refer to, if the reader may see it.
    """
    known = _Known(data)
    for kind, key in (("dataset", "dataset_id"), ("account", "user_id")):
        known[kind] = f"{kind} {names.get(key, known[key])}"
    words = ACTIONS.get(action, action.replace("_", " ")).format_map(known)
    if words[:1].isupper():
        return words + (f" ({actor})" if actor else "")
    return f"{actor or 'The app'} {words}"


def find_object(data: Mapping[str, Any]) -> tuple[str, str]:
    """Return what an entry is about, by its number, and the address of its page; empty: nothing that has a page."""
    for key, (kind, path) in _OBJECTS.items():
        value = data.get(key)
        if isinstance(value, int) or (isinstance(value, str) and value.isalnum()):
            return f"{kind} {value}", f"{path}{value}"
    return "", ""

"""A Domain as an organization runs it: PostgreSQL, TLS, sign-in by the organization's provider, roles, a Worker on
another machine, a backup and a restore. docs/tutorials/operate-a-domain.md explains each step.

    scripts/test-provider && .venv/bin/python examples/operate.py
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import numpy as np

from operate_site import Organization
from pygrid.client import connect, mean


def main(folder: Path) -> None:
    with Organization(folder) as organization:
        organization.start_domain(
            PYGRID_OIDC_ROLE_CLAIM="groups",
            PYGRID_OIDC_ROLES="hospital-data=Data Owner; hospital-research=User",
            PYGRID_PREFER_REMOTE_WORKERS="1",
        )
        print(f"the Domain runs at {organization.url}, with PostgreSQL")

        owner = connect(organization.url, ca_file=organization.ca_file)
        owner.sign_up("ann@example.org", secrets.token_urlsafe(16))
        owner.roles.add("Data Owner", ["can_upload_data"])

        dora = organization.sign_in("dora", groups=["hospital-data"])
        bob = organization.sign_in("bob", groups=["hospital-research"])
        for user in owner.users():
            print(f"{user.email} has the role {user.role.name}")

        ages = np.random.default_rng(0).normal(60, 12, 2000).astype(np.float32)
        patients = dora.datasets.upload("patients", {"age": ages}, visibility="listed", progress=False)
        patients.policy(epsilon=4.0, delta=1e-6, epsilon_per_user=2.0, auto_approve=True, allow_remote_workers=True)

        organization.start_worker("worker-1", owner.workers.let_in("worker-1").token)
        asked = mean("age", lower=0, upper=120)
        job = bob.statistics("patients", asked, reason="Age of the cohort", epsilon=1.0, delta=1e-7)
        job.wait(progress=False)
        facts = dora.job(job.id).info().facts or {}
        print(f"mean age {job.answers()[0]['value']:.1f} instead of {ages.mean():.1f}, worked out by {facts['worker']}")

        backup = organization.back_up()
        patients.delete()
        print(f"a mistake: {len(dora.datasets.list())} datasets")
        organization.restore(backup)
        spent = bob.datasets["patients"].budget().yours
        print(f"restored: {len(dora.datasets.list())} dataset, and Bob has spent epsilon {spent:.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="pygrid-operate-") as made:
        main(Path(made))

"""Remove the settings of processes and drafts that never had an effect.

Version 0.1 accepted, for example, a momentum for the optimizer ``sgd`` and ignored it. Such a configuration is refused
when a process is hosted; stored ones lose these fields, so what they do stays the same.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_OPTIMIZERS = {
    "momentum": ("momentum",),
    "beta1": ("adagrad", "adam", "yogi"),
    "beta2": ("adam", "yogi"),
    "tau": ("adagrad", "adam", "yogi"),
}


def upgrade() -> None:
    """Change what is in the tables."""
    connection = op.get_bind()
    tables = sa.MetaData()
    tables.reflect(connection, only=("processes", "drafts"))
    for table in (tables.tables["processes"], tables.tables["drafts"]):
        config = sa.type_coerce(table.c.server_config, sa.JSON)
        for row in connection.execute(sa.select(table.c.id, config)).all():
            kept = _effective(row[1])
            if kept != row[1]:
                connection.execute(table.update().where(table.c.id == row.id).values(server_config=kept))


def _effective(config: dict[str, Any]) -> dict[str, Any]:
    kept = dict(config)
    if "server_optimizer" in kept:
        name = kept["server_optimizer"].get("name", "sgd")
        kept["server_optimizer"] = {
            field: value
            for field, value in kept["server_optimizer"].items()
            if field not in _OPTIMIZERS or name in _OPTIMIZERS[field]
        }
    rule = kept.get("aggregation")
    if rule is not None:
        kept["aggregation"] = {field: rule[field] for field in rule if field not in _unused(rule)}
    authentication = kept.get("authentication") or {}
    is_named = kept.get("named_clients", False)
    if not (authentication.get("secret") or authentication.get("pub_key")) or is_named:
        kept.pop("clients_per_subject", None)
    if kept.get("pool_selection") != "random":
        kept.pop("pool_window_s", None)
    if _has_equal_votes(rule, is_mean=is_named or "outlier_factor" in kept):
        kept.pop("max_weight", None)
    return kept


def _unused(rule: dict[str, Any]) -> set[str]:
    if rule.get("name", "centred_clipping") == "centred_clipping":
        return {"bound", "weight_cap"}
    return {"radius", "weight_cap"} if rule.get("weights") == "equal" else {"radius"}


def _has_equal_votes(rule: dict[str, Any] | None, *, is_mean: bool) -> bool:
    if rule is None:
        return not is_mean
    return rule.get("name", "centred_clipping") == "centred_clipping" or rule.get("weights") == "equal"

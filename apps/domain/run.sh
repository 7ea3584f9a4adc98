#!/usr/bin/env bash
# Starts a Domain; makes the Python environment first if necessary.
#   apps/domain/run.sh --id bob --port 5000 --start_local_db
# Flags and environment variables: apps/domain/run.sh --help, docs/how-to/configure.md.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
"$root/scripts/env"
# exec, so that signals to this process reach the server.
exec "$root/.venv/bin/pygrid" domain "$@"

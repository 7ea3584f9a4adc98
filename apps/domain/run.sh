#!/usr/bin/env bash
# Starts a Domain, making its environment first if need be.
#   apps/domain/run.sh --id bob --port 5000 --start_local_db
# Flags and environment variables: apps/domain/run.sh --help, docs/how-to/configure.md.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
"$root/scripts/env"
# The server takes the place of this shell: a signal to this process is a signal to it.
exec "$root/.venv/bin/pygrid" domain "$@"

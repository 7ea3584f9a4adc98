#!/usr/bin/env bash
# Starts a Network; makes the Python environment first if necessary.
#   apps/network/run.sh --port 7000 --start_local_db
# Flags and environment variables: apps/network/run.sh --help, docs/how-to/configure.md.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
"$root/scripts/env"
# exec, so that signals to this process reach the server.
exec "$root/.venv/bin/pygrid" network "$@"

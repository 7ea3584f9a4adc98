#!/usr/bin/env bash
# Starts a Network, making its environment first if need be.
#   apps/network/run.sh --port 7000 --start_local_db
# Flags and environment variables: apps/network/run.sh --help, docs/how-to/configure.md.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
"$root/scripts/env"
# The server takes the place of this shell: a signal to this process is a signal to it.
exec "$root/.venv/bin/pygrid" network "$@"

#!/usr/bin/env bash
# Runs a Worker for a Domain on another machine, or another `pygrid worker` command; makes the Python environment
# first if necessary. A Domain starts the Workers of its own machine itself.
#   apps/worker/run.sh --domain https://domain.example --token-file token
#   apps/worker/run.sh doctor
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
"$root/scripts/env"
exec "$root/.venv/bin/pygrid" worker "$@"

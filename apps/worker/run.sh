#!/usr/bin/env bash
# A Worker on a machine of its own, and what else has to do with Workers, making the environment first if need be.
# A Domain starts the Workers of its own machine by itself.
#   apps/worker/run.sh --domain https://domain.example --token-file token
#   apps/worker/run.sh doctor
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
"$root/scripts/env"
exec "$root/.venv/bin/pygrid" worker "$@"

#!/usr/bin/env bash
# What has to do with Workers, making the environment first if need be. A Domain starts its Workers by itself.
#   apps/worker/run.sh doctor
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
"$root/scripts/env"
exec "$root/.venv/bin/pygrid" worker "$@"

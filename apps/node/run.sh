#!/usr/bin/env bash
# The older name of a Domain; takes the same flags.
set -euo pipefail
exec "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../domain/run.sh" "$@"

#!/usr/bin/env bash
# All checks: style, types, tests and doctests, in an environment of their own.
#
#   bash scripts/test.sh
#   PYTHON=python3.12 bash scripts/test.sh -x -k scan    # another Python; arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/environment.sh
make_environment test
ruff check .
ruff format --check .
mypy
python -m pytest "$@"

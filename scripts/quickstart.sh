#!/usr/bin/env bash
# From a bare checkout to a picture: makes an environment, writes a Zarr store of photographs, clusters it.
#
#   bash scripts/quickstart.sh
#
# May be run again; it makes .venv, data/photos.zarr and results/quickstart, and nothing else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/environment.sh
make_environment
python scripts/make_photo_store.py data/photos.zarr
daskmeans run configs/quickstart.yaml --overwrite
python scripts/draw_photo_labels.py data/photos.zarr results/quickstart

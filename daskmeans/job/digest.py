"""Tells whether results that label new data are those that were written: a digest of model and configuration.

Damage to a file is seen by it, malice is not: who can write a file can write its digest.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import xarray as xr

from daskmeans.errors import ConfigError
from daskmeans.job import results
from daskmeans.job.places import Place

KEY, FEATURE = "digest", "feature"


def digest_of(clusters: xr.Dataset, config_text: str) -> str:
    """Return a digest of the arrays of a fitted model, their names and attributes, and of the configuration."""
    sha = hashlib.sha256(config_text.encode())
    for name in sorted({*map(str, clusters.data_vars), FEATURE}):
        variable = clusters.variables[name]
        is_text = variable.dtype.kind in "OTU"
        content = repr(variable.values.tolist()).encode() if is_text else np.asarray(variable.values, "<f8").tobytes()
        sha.update(repr((name, variable.dims, variable.shape, sorted(variable.attrs.items()))).encode() + content)
    return sha.hexdigest()


def check_digest(place: Place, clusters: xr.Dataset) -> None:
    """Raise ConfigError if the results at `place`, of which `clusters` was read, are not those that were written."""
    try:
        summary = json.loads(place.read_text(results.SUMMARY))
        expected = summary[KEY]
        found = digest_of(clusters, place.read_text(results.CONFIG))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"RESULT: {place.name} is damaged: {type(error).__name__}: {error}; run the job again"
        ) from error
    if found != expected:
        raise ConfigError(
            f"RESULT: {place.name} is damaged, or was edited: its centers and {results.CONFIG} are not those that were "
            "written. Run the job again; what is to be treated otherwise can be said with --set"
        )

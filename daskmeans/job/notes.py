"""What a run notes on its way for those who read its report: warnings, and how the samples lie."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daskmeans.fit import Journal
from daskmeans.lloyd import State
from daskmeans.samples import Transform
from daskmeans.steps import RowSet, Surveyed

PROJECTION = "projection.json"

# Dots that a picture has room for.
MOST_DOTS = 1000

# Numbers in the rows that are projected: fewer dots where features are very many.
MOST_VALUES = 2**23

Float64s = npt.NDArray[np.float64]


@contextmanager
def noted_warnings() -> Iterator[list[str]]:
    """Yield a list of what is warned of while the body runs, each once; it is shown as always, too."""
    noted: list[str] = []
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            if str(message) not in noted:
                noted.append(str(message))
            show(message, *args, **kwargs)

        warnings.showwarning = note
        yield noted


@dataclass
class SampleNote:
    """A journal that passes on what it hears, and keeps the uniform sample that a fit draws."""

    journal: Journal
    sample: RowSet | None = None

    @property
    def saved(self) -> State | None:
        """Where to go on."""
        return self.journal.saved

    def surveyed(self, found: Surveyed) -> None:
        """Keep some rows of the sample, evenly spread."""
        n_rows, n_features = found.sample.X.shape
        most = max(2, min(MOST_DOTS, MOST_VALUES // max(1, n_features)))
        self.sample = found.sample.take(_spread(n_rows, most))
        self.journal.surveyed(found)

    def save(self, state: State) -> None:
        """Take note of the state after a pass."""
        self.journal.save(state)

    def write_projection(self, folder: Path, centers: Float64s, transform: Transform | None) -> None:
        """Write how sample and centers lie, if there is a plane for them to lie in."""
        if self.sample is not None and len(self.sample.X) > 1 and centers.shape[1] > 1:
            Projection.of(self.sample.X, centers, transform).write(folder)


def _spread(n: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most `most` of the numbers below `n`."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.empty(0, np.int64)


@dataclass(frozen=True)
class Projection:
    """A sample of the rows, and the centers, on the plane in which the sample varies most.

    Attributes
    ----------
    rows : (n_rows, 2), in the units that distances are measured in.
    labels : (n_rows,), the nearest center of each.
    centers : (n_clusters, 2).
    explained : (2,), the share of the sample's variance along each axis.
    """

    rows: list[list[float]]
    labels: list[int]
    centers: list[list[float]]
    explained: list[float]

    @classmethod
    def of(cls, sample: npt.NDArray[Any], centers: Float64s, transform: Transform | None) -> Projection:
        """Project rows, (n_rows, n_features), by the Gram matrix, (n_rows, n_rows), however many features there are.

        Parameters
        ----------
        centers : (n_clusters, n_compared), in the units that distances are measured in.
        transform : what brings rows to these units.
        """
        rows = (sample if transform is None else transform.apply(sample)).astype(np.float64)
        mean = rows.mean(axis=0)
        rows, centers = rows - mean, centers - mean
        values, vectors = np.linalg.eigh(rows @ rows.T)
        values, vectors = values[::-1][:2].clip(min=0), vectors[:, ::-1][:, :2]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
        lengths = np.sqrt(values)
        # No axis along which nothing varies.
        per_length = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 1e-9 * lengths[:1])
        cross = rows @ centers.T
        explained = values / max(float((rows**2).sum()), 1e-300)
        return cls(
            _short(_wide(vectors * lengths)),
            ((centers**2).sum(axis=1) - 2 * cross).argmin(axis=1).tolist(),
            _short(_wide(cross.T @ vectors * per_length)),
            [*explained.tolist(), 0.0][:2],
        )

    def write(self, folder: Path) -> None:
        """Write it as JSON."""
        (folder / PROJECTION).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Projection | None:
        """Return what is in a folder of results; None if there is none."""
        path = folder / PROJECTION
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _wide(places: Float64s) -> Float64s:
    """Return places with two coordinates, of which the second may be missing."""
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _short(places: Float64s) -> list[list[float]]:
    """Return places in as many digits as a picture shows."""
    return [[float(f"{value:.4g}") for value in place] for place in places]

"""Obvious references for what the package does fast."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from daskmeans.samples import Samples
from daskmeans.tasks import FAN_IN


def scan(samples: Samples, step: Any, chunks: list[list[Any]] | None = None) -> Any:
    """One pass without Dask: map each block, merge runs of `FAN_IN`, then runs of what comes of these, finish."""
    loader = samples.loader
    parts = []
    for i in range(samples.grid.n_blocks):
        given = () if chunks is None else chunks[i]
        parts.append(step.map(loader.transformed(loader.load(i, given))))
    while len(parts) > 1:
        runs = [parts[begin : begin + FAN_IN] for begin in range(0, len(parts), FAN_IN)]
        parts = [functools.reduce(step.merge, run) for run in runs]
    return step.finish(parts[0])


def sq_distances(X: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared distances, (n_rows, n_centers), in float64."""
    return ((X.astype(np.float64)[:, None, :] - centers[None, :, :]) ** 2).sum(axis=2)


class Assigned(NamedTuple):
    labels: np.ndarray
    sq_dist: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    inertia: np.ndarray


def assign(X: np.ndarray, weight: np.ndarray | None, centers: np.ndarray) -> Assigned:
    """The nearest center of each row, ties to the lowest label, and weighted sums of each cluster."""
    weight = np.ones(len(X)) if weight is None else weight
    sq_dist = sq_distances(X, centers)
    labels = sq_dist.argmin(axis=1)
    nearest = sq_dist.min(axis=1)
    member = labels[:, None] == np.arange(len(centers))
    return Assigned(
        labels,
        nearest,
        (member * weight[:, None]).T @ X.astype(np.float64),
        (member * weight[:, None]).sum(axis=0),
        (member * (weight * nearest)[:, None]).sum(axis=0),
    )


class Fitted(NamedTuple):
    centers: np.ndarray
    labels: np.ndarray
    inertia: float
    n_iter: int


def lloyd(X: np.ndarray, weight: np.ndarray | None, centers: np.ndarray, max_iter: int = 300) -> Fitted:
    """Lloyd's iteration until no center moves; an empty cluster moves to the farthest row, which leaves its own."""
    weight = np.ones(len(X)) if weight is None else weight
    n_iter = 0
    while n_iter < max_iter:
        found = assign(X, weight, centers)
        sums, counts = found.sums.copy(), found.counts.copy()
        heavy = np.flatnonzero(weight > 0)
        farthest = heavy[np.argsort(-found.sq_dist[heavy], kind="stable")]
        for empty, row in zip(np.flatnonzero(counts == 0), farthest, strict=False):
            if found.sq_dist[row] == 0:
                break
            for cluster, sign in ((empty, 1), (found.labels[row], -1)):
                sums[cluster] += sign * weight[row] * X[row].astype(np.float64)
                counts[cluster] += sign * weight[row]
        full = counts > 0
        moved = centers.copy()
        moved[full] = sums[full] / counts[full, None]
        n_iter += 1
        done = np.allclose(moved, centers, rtol=0, atol=1e-12)
        centers = moved
        if done:
            break
    found = assign(X, weight, centers)
    return Fitted(centers, found.labels, float(found.inertia.sum()), n_iter)


def spherical(X: np.ndarray, weight: np.ndarray | None, centers: np.ndarray) -> Fitted:
    """Spherical k-means (Dhillon & Modha 2001) until no center moves; no cluster may become empty."""
    X, centers = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X, centers))
    n_iter, shift = 0, np.inf
    while shift > 1e-14:
        found = assign(X, weight, centers)
        moved = found.sums / np.linalg.norm(found.sums, axis=1, keepdims=True)
        centers, shift = moved, np.abs(moved - centers).max()
        n_iter += 1
    found = assign(X, weight, centers)
    return Fitted(centers, found.labels, float(found.inertia.sum()), n_iter)

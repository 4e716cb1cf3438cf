"""What a job will read and need, known before it starts; refuses what cannot fit. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from daskmeans.errors import ConfigError
from daskmeans.job.cluster import Workers
from daskmeans.memory import PROCESS_BYTES, Plan, format_bytes

# Of a worker's memory; above it, Dask's workers begin to spill to disk.
USABLE_SHARE = 0.7


@dataclass(frozen=True)
class JobPlan:
    """What the passes of a job read and hold.

    Attributes
    ----------
    rows : sizes of rows, blocks and budget.
    workers : what works on them.
    fixed_passes : passes that are no iterations: the survey, seeding, labels.
    max_iter : iterations, a pass each, at most.
    """

    rows: Plan
    workers: Workers
    fixed_passes: int
    max_iter: int

    @property
    def kept_bytes(self) -> int:
        """Rows that stay in memory between passes, over all workers."""
        return min(self.rows.data_bytes, self.rows.budget.kept_bytes)

    @property
    def worker_bytes(self) -> int:
        """Peak memory of one worker."""
        at_work = self.workers.n_threads * self.rows.in_flight_bytes
        kept = self.kept_bytes // self.workers.n_workers
        return PROCESS_BYTES + at_work + kept + 2 * self._sample_bytes

    @property
    def usable_bytes(self) -> int:
        """What one worker can hold without trouble."""
        return int(USABLE_SHARE * self.workers.memory_bytes)

    @property
    def _sample_bytes(self) -> int:
        return self.rows.sample_rows * self.rows.row_bytes

    def check(self) -> None:
        """Raise ConfigError if a worker cannot hold what it must, and say what to change."""
        if self.worker_bytes <= self.usable_bytes or not self.workers.memory_bytes:
            return
        workers, block = self.workers, format_bytes(self.rows.in_flight_bytes)
        needed = self.worker_bytes / USABLE_SHARE
        raise ConfigError(
            f"a worker would need {format_bytes(self.worker_bytes)}, and may use "
            f"{format_bytes(self.usable_bytes)} ({USABLE_SHARE:.0%} of its "
            f"{format_bytes(workers.memory_bytes)}): {workers.n_threads} threads with a block of "
            f"{block} each, {format_bytes(self.kept_bytes)} of rows kept by {workers.n_workers} "
            f"workers, and Python itself; lower model.memory_budget (now "
            f"{format_bytes(self.rows.budget.total_bytes)}) or threads per worker, or give each "
            f"worker {format_bytes(needed)}"
        )

    def lines(self) -> list[tuple[str, str]]:
        """Return what is planned, for people: a name and a value each."""
        rows, workers, budget = self.rows, self.workers, self.rows.budget
        kept = "all of it" if rows.fits else f"{format_bytes(self.kept_bytes)} of it"
        largest = format_bytes(rows.largest_block_rows * rows.row_bytes)
        most = self.fixed_passes + self.max_iter
        there = format_bytes(workers.memory_bytes) if workers.memory_bytes else "what it has"
        memory = f"{format_bytes(self.worker_bytes)} a worker, of {there}"
        return [
            ("data", f"{rows.n_rows:,} samples x {rows.n_features:,} features"),
            ("bytes", f"{format_bytes(rows.data_bytes)} decoded, {kept} kept between passes"),
            ("blocks", f"{rows.n_blocks:,} of at most {largest}"),
            ("tasks", f"{rows.n_blocks:,} a pass, and some to merge"),
            ("passes", f"up to {self.fixed_passes}, and one for each iteration; at most {most:,}"),
            ("workers", f"{workers.n_workers} with {workers.n_threads} threads each"),
            ("memory", memory),
            ("budget", f"{format_bytes(budget.total_bytes)}, {format_bytes(budget.row_bytes)} of it for rows"),
        ]

"""Submits the driver of a run as a batch job: a script beside the results, and the id of the job.

Must not know what the run computes: the script calls the command line.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskmeans.errors import ClusterError, ConfigError
from daskmeans.job.clustertypes import parse_walltime
from daskmeans.job.config import JobConfig
from daskmeans.memory import MIB, parse_bytes

SUFFIX = ".submit"
SCRIPT, OUTPUT, JOB = "driver.sh", "driver.log", "job.json"

# Before its time is over the driver is told to end, so that checkpoint and jobs are in order.
MARGIN_S = 120


@dataclass(frozen=True)
class Wishes:
    """What the driver's job asks for; None where it asks for nothing."""

    name: str
    log: str
    cores: int
    memory_mib: int
    seconds: int | None
    queue: str | None
    account: str | None

    @property
    def walltime(self) -> str:
        """The time limit as h:mm:ss."""
        seconds = self.seconds or 0
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _directives(flags: Sequence[tuple[str, Any]], prefix: str) -> list[str]:
    """Return the lines of what is asked for."""
    return [f"{prefix} {flag}" for flag, wanted in flags if wanted is not None]


def _slurm(w: Wishes) -> list[str]:
    flags = [
        (f"--job-name={w.name}", True),
        (f"--output={w.log}", True),
        ("--open-mode=append", True),
        (f"--cpus-per-task={w.cores}", True),
        (f"--mem={w.memory_mib}M", True),
        (f"--time={w.walltime}", w.seconds),
        (f"--partition={w.queue}", w.queue),
        (f"--account={w.account}", w.account),
    ]
    return _directives(flags, "#SBATCH")


def _pbs(w: Wishes) -> list[str]:
    flags = [
        (f"-N {w.name[:15]}", True),
        (f"-j oe -o {w.log}", True),
        (f"-l select=1:ncpus={w.cores}:mem={w.memory_mib}mb", True),
        (f"-l walltime={w.walltime}", w.seconds),
        (f"-q {w.queue}", w.queue),
        (f"-A {w.account}", w.account),
    ]
    return _directives(flags, "#PBS")


def _sge(w: Wishes) -> list[str]:
    flags = [
        (f"-N {w.name}", True),
        (f"-j y -o {w.log}", True),
        (f"-l h_vmem={w.memory_mib}M", True),
        (f"-l h_rt={w.walltime}", w.seconds),
        (f"-q {w.queue}", w.queue),
        (f"-P {w.account}", w.account),
    ]
    return _directives(flags, "#$")


def _lsf(w: Wishes) -> list[str]:
    flags = [
        (f"-J {w.name}", True),
        (f"-o {w.log}", True),
        (f"-n {w.cores}", True),
        (f"-M {w.memory_mib}MB", True),
        (f"-W {max(1, (w.seconds or 0) // 60)}", w.seconds),
        (f"-q {w.queue}", w.queue),
        (f"-P {w.account}", w.account),
    ]
    return _directives(flags, "#BSUB")


def _oar(w: Wishes) -> list[str]:
    time_limit = "" if w.seconds is None else f",walltime={w.walltime}"
    flags = [
        (f"-n {w.name}", True),
        (f"-O {w.log} -E {w.log}", True),
        (f"-l /nodes=1/core={w.cores}{time_limit}", True),
        (f"-q {w.queue}", w.queue),
        (f"--project {w.account}", w.account),
    ]
    return _directives(flags, "#OAR")


@dataclass(frozen=True)
class System:
    """A batch system.

    Attributes
    ----------
    command : that submits; where `reads_script` it gets the script on its standard input, else its path.
    directives : makes the first lines of the script.
    job_id : finds the id of the job in what the command prints.
    """

    command: tuple[str, ...]
    directives: Callable[[Wishes], list[str]]
    job_id: str = r"(\d[\w.\[\]-]*)"
    reads_script: bool = False


SYSTEMS = {
    "slurm": System(("sbatch", "--parsable"), _slurm),
    "pbs": System(("qsub",), _pbs),
    "sge": System(("qsub", "-terse"), _sge),
    "lsf": System(("bsub",), _lsf, r"<(\d+)>", reads_script=True),
    "oar": System(("oarsub", "-S"), _oar, r"OAR_JOB_ID\s*=\s*(\d+)"),
}


def folder_of(output: Path) -> Path:
    """Return where the script and the output of the driver's job of these results are."""
    return output.with_name(output.name + SUFFIX)


def submit(config: JobConfig, path: Path, overrides: Sequence[str], output: Path, system: str | None) -> str:
    """Write the script of the driver's job and submit it; return its id.

    Parameters
    ----------
    path : of the configuration that the job is to run.
    overrides : changes of it, as on the command line.
    output : folder of the results.
    system : name of the batch system; None for that of the workers, or the one whose command is here.

    Raises
    ------
    ConfigError, ClusterError
        There is no batch system here, the script cannot be written, or the job is refused.
    """
    name = system or _system_of(config)
    if name not in SYSTEMS:
        raise ConfigError(f"--to: expected {', '.join(SYSTEMS)}, got {name}")
    folder = folder_of(output)
    script = folder / SCRIPT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        script.write_text(script_text(config, path, overrides, folder, name), encoding="utf-8")
        script.chmod(0o755)
    except OSError as error:
        raise ConfigError(f"{script} cannot be written: {error}") from error
    job_id = _submitted(SYSTEMS[name], script)
    facts = {"system": name, "id": job_id, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    (folder / JOB).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return job_id


def script_text(config: JobConfig, path: Path, overrides: Sequence[str], folder: Path, system: str) -> str:
    """Return the script of the driver's job."""
    driver, options = config.cluster.driver, config.cluster.options
    seconds = None if driver.walltime is None else parse_walltime(driver.walltime)
    wishes = Wishes(
        name="daskmeans",
        log=str(folder / OUTPUT),
        cores=driver.cores,
        memory_mib=(driver.memory or parse_bytes("4GiB")) // MIB,
        seconds=seconds,
        queue=driver.queue or options.get("queue"),
        account=driver.account or options.get("account") or options.get("project"),
    )
    run = [sys.executable, "-m", "daskmeans", "run", str(path.absolute())]
    run += [word for override in overrides for word in ("--set", override)]
    if seconds is not None:
        run = ["timeout", "--signal=TERM", str(max(1, seconds - MARGIN_S, seconds // 2)), *run]
    lines = ["#!/bin/bash", *SYSTEMS[system].directives(wishes), *driver.directives]
    lines += ["", f"cd {shlex.quote(str(Path.cwd()))} || exit 1", *driver.prologue, shlex.join(run), "code=$?"]
    if driver.resubmit:
        again = shlex.join([*SYSTEMS[system].command, str(folder / SCRIPT)])
        if SYSTEMS[system].reads_script:
            again = f"{shlex.join(SYSTEMS[system].command)} < {shlex.quote(str(folder / SCRIPT))}"
        lines += [
            "# 124: the time was over; the next job goes on from the checkpoint.",
            f"[ $code -eq 124 ] && {again}",
        ]
    return "\n".join([*lines, "exit $code", ""])


def _system_of(config: JobConfig) -> str:
    """Return the batch system of the workers, or one whose command is here."""
    if config.cluster.type in SYSTEMS:
        return config.cluster.type
    here = [name for name, system in SYSTEMS.items() if shutil.which(system.command[0])]
    if not here:
        commands = ", ".join(sorted({system.command[0] for system in SYSTEMS.values()}))
        raise ConfigError(f"there is no batch system here (none of {commands}); use `daskmeans run`")
    return here[0]


def _submitted(system: System, script: Path) -> str:
    """Submit a script, and return the id of the job."""
    command = list(system.command) if system.reads_script else [*system.command, str(script)]
    text = script.read_text(encoding="utf-8") if system.reads_script else None
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(
            f"`{command[0]}` cannot be called: {error}; submit on a login node of the cluster"
        ) from error
    found = re.search(system.job_id, done.stdout)
    if done.returncode or found is None:
        raise ClusterError(
            f"`{shlex.join(command)}` refuses the job: {(done.stderr or done.stdout).strip()}; change cluster.driver "
            f"in the configuration, or the script {script}, and submit that yourself"
        )
    return found[1]

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
from daskmeans.job.fields import suggestion
from daskmeans.memory import MIB, parse_bytes

SUFFIX = ".submit"
SCRIPT, DESCRIPTION, OUTPUT, JOB = "driver.sh", "driver.sub", "driver.log", "job.json"

# Before its time is over the driver is told to end, so that checkpoint and jobs are in order.
MARGIN_S = 120


@dataclass(frozen=True)
class Wishes:
    """What the driver's job asks for; None where it asks for nothing."""

    name: str
    script: str
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
        # Where the time limit is that of the partition, only the scheduler knows when it ends.
        (f"--signal=B:USR1@{MARGIN_S}", True if w.seconds is None else None),
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


def _htcondor(w: Wishes) -> list[str]:
    """Return the lines of a description, which is a file beside the script."""
    wanted = {
        "universe": "vanilla",
        "executable": w.script,
        "initialdir": str(Path.cwd()),
        "output": w.log,
        "error": w.log,
        "should_transfer_files": "NO",
        "request_cpus": w.cores,
        "request_memory": f"{w.memory_mib}MB",
        "allowed_job_duration": w.seconds,
        "accounting_group": w.account,
    }
    return [f"{key} = {value}" for key, value in wanted.items() if value is not None]


@dataclass(frozen=True)
class System:
    """A batch system.

    Attributes
    ----------
    command : that submits; where `reads_script` it gets the script on its standard input, else its path.
    directives : makes the lines that say what is asked for: the first of the script, or a file of their own.
    job_id : finds the id of the job in what the command prints.
    describes : whether what is submitted is a description of the job, a file that names the script.
    """

    command: tuple[str, ...]
    directives: Callable[[Wishes], list[str]]
    job_id: str = r"(\d[\w.\[\]-]*)"
    reads_script: bool = False
    describes: bool = False

    def submitted(self, folder: Path) -> Path:
        """Return the file that is submitted."""
        return folder / (DESCRIPTION if self.describes else SCRIPT)

    def line(self, folder: Path) -> str:
        """Return the line of shell that submits the job."""
        file = self.submitted(folder)
        if self.reads_script:
            return f"{shlex.join(self.command)} < {shlex.quote(str(file))}"
        return shlex.join([*self.command, str(file)])


SYSTEMS = {
    "slurm": System(("sbatch", "--parsable"), _slurm),
    "pbs": System(("qsub",), _pbs),
    "sge": System(("qsub", "-terse"), _sge),
    "lsf": System(("bsub",), _lsf, r"<(\d+)>", reads_script=True),
    "htcondor": System(("condor_submit", "-terse"), _htcondor, r"(\d+)\.", describes=True),
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
        raise ConfigError(f"--to: expected {', '.join(SYSTEMS)}, got {name}{suggestion(name, SYSTEMS)}")
    folder = folder_of(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files_of(config, path, overrides, folder, name).items():
            (folder / file).write_text(text, encoding="utf-8")
        (folder / SCRIPT).chmod(0o700)  # what was set on the command line may be a secret
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from error
    job_id = _submitted(SYSTEMS[name], folder)
    facts = {"system": name, "id": job_id, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    (folder / JOB).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    return job_id


def files_of(config: JobConfig, path: Path, overrides: Sequence[str], folder: Path, system: str) -> dict[str, str]:
    """Return the script of the driver's job, and its description where the batch system wants one; text by name."""
    driver, options = config.cluster.driver, config.cluster.options
    wishes = Wishes(
        name="daskmeans",
        script=str(folder / SCRIPT),
        log=str(folder / OUTPUT),
        cores=driver.cores,
        memory_mib=(driver.memory or parse_bytes("4GiB")) // MIB,
        seconds=None if driver.walltime is None else parse_walltime(driver.walltime),
        queue=driver.queue or options.get("queue"),
        account=driver.account or options.get("account") or options.get("project"),
    )
    wanted = [*SYSTEMS[system].directives(wishes), *driver.directives]
    describes = SYSTEMS[system].describes
    run = [sys.executable, "-m", "daskmeans", "run", str(path.absolute())]
    run += [word for override in overrides for word in ("--set", override)]
    lines = ["#!/bin/bash", *([] if describes else wanted), "", f"cd {shlex.quote(str(Path.cwd()))} || exit 1"]
    lines += [*driver.prologue, *_watched(run, wishes.seconds)]
    if driver.resubmit:
        lines += ["", "# The time was over (124: by our own clock); the next job goes on from the checkpoint."]
        lines += [f'if [ $code -eq 124 ] || [ -n "$warned" ]; then {SYSTEMS[system].line(folder)}; fi']
    script = "\n".join([*lines, "exit $code", ""])
    return {SCRIPT: script} | ({DESCRIPTION: "\n".join([*wanted, "queue", ""])} if describes else {})


def _watched(run: Sequence[str], seconds: int | None) -> list[str]:
    """Return lines of shell that run the driver, and tell it to end in time, or when the batch system says so."""
    if seconds is not None:
        run = ["timeout", "--signal=TERM", str(max(1, seconds - MARGIN_S, seconds // 2)), *run]
    return [
        "# SIGUSR1 is how batch systems warn that the time is nearly over.",
        "trap 'warned=1; kill -TERM $driver' USR1",
        "trap 'kill -TERM $driver' TERM INT",
        "warned=",
        f"{shlex.join(run)} &",
        "driver=$!",
        "# A signal ends a wait, not the driver, and it may end before it is looked for; its exit status is kept.",
        "while wait $driver; kill -0 $driver 2>/dev/null; do :; done",
        "wait $driver; code=$?",
    ]


def _system_of(config: JobConfig) -> str:
    """Return the batch system of the workers, or one whose command is here."""
    if config.cluster.type in SYSTEMS:
        return config.cluster.type
    here = [name for name, system in SYSTEMS.items() if shutil.which(system.command[0])]
    if not here:
        commands = ", ".join(sorted({system.command[0] for system in SYSTEMS.values()}))
        raise ConfigError(f"there is no batch system here (none of {commands}); use `daskmeans run`")
    return here[0]


def _submitted(system: System, folder: Path) -> str:
    """Submit what was written to `folder`, and return the id of the job."""
    file = system.submitted(folder)
    command = list(system.command) if system.reads_script else [*system.command, str(file)]
    text = file.read_text(encoding="utf-8") if system.reads_script else None
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
            f"in the configuration, or the file {file}, and submit that yourself"
        )
    return found[1]

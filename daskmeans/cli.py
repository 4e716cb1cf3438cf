"""The command line: parses, calls the library, prints, and turns errors into exit codes.

Imports what is slow inside the commands, so that help comes at once.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer
from rich.console import Console

from daskmeans import __version__
from daskmeans.errors import DaskMeansError

if TYPE_CHECKING:
    from daskmeans.job.config import JobConfig

P = ParamSpec("P")

INTERRUPTED = 130

app = typer.Typer(
    name="daskmeans",
    help="k-means for data that does not fit in memory.\n\n"
    "A YAML file says what to cluster and how: `validate` checks it, `plan` says what it needs, `run` does it.",
    epilog="Exit codes: 0 done, 2 mistake in the configuration or the usage, 3 in the data, 4 in the cluster, "
    "130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes the job.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the configuration, such as `model.n_clusters=12`. May be repeated.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an output that exists, once the new one is whole."),
]


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    app()


def _with_exit_code(command: Callable[P, None]) -> Callable[P, None]:
    """Print an error that explains itself, and exit with its code; the same for Ctrl-C."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                command(*args, **kwargs)
        except DaskMeansError as error:
            _print("error", "bold red", str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as interrupt:
            _print("error", "bold red", str(interrupt) or "interrupted; no results were written")
            raise typer.Exit(INTERRUPTED) from None

    return wrapper


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning for people: without the line of code that it comes from."""
    _print("warning", "bold yellow", str(message))


def _print(kind: str, style: str, message: str) -> None:
    """Print `message` to stderr, as it is and on as many lines as it has."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{kind}:", style=style, end="\n" if "\n" in message else " ")
    console.print(message, markup=False, emoji=False)


def _load(path: Path, overrides: list[str] | None, *, overwrite: bool = False) -> JobConfig:
    """Read the configuration as changed on the command line."""
    from daskmeans.job.configfile import load_config

    extra = ["output.overwrite=true"] if overwrite else []
    return load_config(path, [*(overrides or []), *extra])


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
@_with_exit_code
def run(
    config: Config,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Go on from the checkpoint that an interrupted run left, or begin anew. "
            "[default: go on if there is one]",
        ),
    ] = None,
    show_script: Annotated[
        bool, typer.Option("--show-script", help="Print the job script of the workers, and submit nothing.")
    ] = False,
) -> None:
    """Cluster the data that CONFIG names, and write the results to its `output.path`.

    A run that was interrupted or killed goes on where it was when it is run again, to the same result.

    For example: `daskmeans run job.yaml --set model.n_clusters=12 --set output.path=results/k12`
    """
    from daskmeans.job import run as jobs

    if show_script:
        jobs.show_script(_load(config, overrides), Console())
        return
    jobs.run_job(_load(config, overrides, overwrite=overwrite), Console(), resume)


@app.command()
@_with_exit_code
def validate(config: Config, overrides: Overrides = None) -> None:
    """Check CONFIG and the metadata of its store, and say what was found. Reads no data."""
    from daskmeans.job.run import validate_job

    validate_job(_load(config, overrides), Console())


@app.command()
@_with_exit_code
def plan(config: Config, overrides: Overrides = None) -> None:
    """Say what a run of CONFIG would read and need: bytes, blocks, tasks, passes, memory.

    Refuses what cannot fit, and says what to change. Reads no data.
    """
    from daskmeans.job.run import plan_job

    plan_job(_load(config, overrides), Console())


@app.command()
@_with_exit_code
def predict(
    result: Annotated[str, typer.Argument(metavar="RESULT", help="Folder or URL that `daskmeans run` wrote to.")],
    store: Annotated[str, typer.Argument(metavar="STORE", help="Path or URL of the new data, laid out alike.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Zarr store to write the labels to: path or URL.")],
    overrides: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """Label the samples of STORE with the nearest centers of RESULT, in one pass.

    Variables, dimensions, selection and missing values are treated as RESULT's configuration says;
    `--set input.select={}` and the like change that.
    """
    from daskmeans.job.predict import predict_job

    predict_job(result, store, output, overrides or [], overwrite, Console())


@app.command()
@_with_exit_code
def submit(
    config: Config,
    overrides: Overrides = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="SYSTEM", help="slurm, pbs, sge, lsf, htcondor or oar. [default: that of the workers]"
        ),
    ] = None,
) -> None:
    """Submit the run of CONFIG as a batch job, and print the job's id.

    The job's script and what it prints are beside the results, in a folder that ends in `.submit`.
    """
    from daskmeans.job.run import submit_job

    typer.echo(submit_job(_load(config, overrides), config, overrides or [], to))


Result = Annotated[str, typer.Argument(metavar="RESULT", help="The `output.path` of the run.")]


@app.command()
@_with_exit_code
def status(result: Result) -> None:
    """Say how far the run is whose results are to be in RESULT. Reads files alone: works from any machine."""
    from daskmeans.job.status import status_lines

    for name, value in status_lines(result):
        typer.echo(f"{name:<14}{value}")


@app.command()
@_with_exit_code
def logs(result: Result) -> None:
    """Print the log of the run whose results are, or are to be, in RESULT."""
    from daskmeans.job.status import log_lines

    for line in log_lines(result):
        typer.echo(line)


@app.command()
@_with_exit_code
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors that complete and check YAML."""
    from daskmeans.job.config import JobConfig

    typer.echo(json.dumps(JobConfig.model_json_schema(), indent=2))

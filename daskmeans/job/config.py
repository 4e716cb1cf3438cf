"""What a job is asked to do: the model of the YAML file, its defaults and its reference.

Knows no file, no Dask and no Zarr: `configfile` reads the file and says where in it an error is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_serializer, model_validator

from daskmeans.job.clustertypes import check_options, parse_walltime
from daskmeans.job.fields import (
    Bytes,
    Clusters,
    ClusterType,
    Init,
    Level,
    Name,
    Names,
    Number,
    Rounds,
    Section,
    Select,
    Whole,
    at,
    masked,
    raise_if,
    wrong,
)


class InputConfig(Section):
    """What is clustered: where it is, and which of its dimensions are samples or features."""

    store: Name = Field(
        description="Path (relative to the current directory) or URL of a Zarr store, v2 or v3; or path of a .zip file "
        "with one in it, or of a .npy file."
    )
    array: Name | None = Field(default=None, description="Name of a 2-D array (samples, features) in the store.")
    variables: Names | None = Field(
        default=None,
        description="Variables that share the sample dimensions; each gives one feature, or one "
        "for each cell of its feature dimensions.",
    )
    sample_dims: Names | None = Field(
        default=None,
        description="Dimensions whose cells are the samples. Default: all that are not feature dimensions.",
    )
    feature_dims: Names | None = Field(
        default=None,
        description="Dimensions whose cells are features. Default: all that are not sample dimensions.",
    )
    select: dict[str, Select] = Field(
        default_factory=dict,
        description="Part of the data, by coordinate value as in xarray's `sel`: `{month: 1}`, or "
        "`{latitude: [60, 30]}` for a slice, both ends included.",
    )
    weights: Name | None = Field(
        default=None,
        description="Weight of each sample: `cos_latitude`, or the name of a variable. Default: all weigh 1.",
    )
    mask: Name | None = Field(
        default=None,
        description="Variable over sample dimensions: samples where it is 0 or NaN get label -1; or over feature "
        "dimensions: such features are left out. `~name` turns it round.",
    )
    missing: Literal["error", "drop"] = Field(
        default="error",
        description="What NaN or infinity in a sample does: stop with an error, or drop the "
        "sample, whose label is then -1.",
    )
    missing_chunks: Literal["warn", "error", "fill"] = Field(
        default="warn",
        description="What a chunk that is not in the store does: a warning, an error, or nothing (`fill`). Zarr reads "
        "it as the array's fill value, often 0 or NaN, which may be meant, or be the mark of a copy that broke off.",
    )
    level: Level | None = Field(
        default=None,
        description="Resolution of an OME-Zarr image, 0 for the finest. Default: 0. Its variable is `image`; its "
        "channels are features and its pixels samples, unless dimensions are named.",
    )
    storage_options: dict[str, Any] | None = Field(
        default=None,
        description="For URLs: the options of the fsspec file system, such as `{anon: true}` for s3://. Leave "
        "credentials to the environment; what may be one is never written to the results.",
    )

    @field_serializer("storage_options", when_used="json")
    def _mask(self, options: dict[str, Any] | None) -> Any:
        """Hide what may be a secret from all that is written."""
        return None if options is None else masked(options)

    @model_validator(mode="after")
    def _one_kind(self) -> InputConfig:
        """Refuse both kinds of naming at once."""
        if self.array is not None and self.variables is not None:
            raise wrong("expected either array or variables, got both; remove one of them")
        return self


class PreprocessConfig(Section):
    """What is done to the features before they are clustered."""

    scale: Literal["none", "standard"] = Field(
        default="none",
        description="`standard` brings each feature to mean 0 and variance 1, computed in the "
        "first pass. Centers are reported in the units of the input all the same.",
    )
    pca: Whole | None = Field(
        default=None,
        ge=1,
        description="Number of principal components, of the features as scaled, that take their place: computed in "
        "the first pass, for up to a few thousand features. Centers are reported in the units of the input all the "
        "same, as points of the subspace. Default: the features themselves.",
    )
    whiten: bool = Field(default=False, description="Whether principal components are scaled to variance 1.")

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessConfig:
        """Check that there are components to be scaled."""
        if self.whiten and self.pca is None:
            raise_if([at("whiten", "expected a number of components as preprocess.pca too, since they are scaled")])
        return self


class ModelConfig(Section):
    """The model and how it is found."""

    n_clusters: Clusters = Field(
        default=8,
        description="Number of clusters; or a list of numbers, of which all are fitted in the same passes and scored, "
        "and the one that most criteria suggest is taken.",
    )
    init: Init = Field(
        default="k-means||",
        description="Seeding: `k-means||` over all the data, `k-means++` on an in-memory sample, "
        "`random` samples, `random-partition`, or a list of centers in the input's units.",
    )
    n_init: Whole = Field(default=1, ge=1, description="Number of seedings; the fit of the lowest inertia is kept.")
    max_iter: Whole = Field(default=300, ge=1, description="Most iterations.")
    metric: Literal["euclidean", "cosine"] = Field(
        default="euclidean",
        description="`cosine` is spherical k-means, for embeddings: only the direction of samples and centers counts. "
        "Both have length 1, and inertia sums 2 - 2 cos. A sample of zeros is an error.",
    )
    tol: Number = Field(
        default=1e-4,
        ge=0,
        description="Stop when the squared shift of the centers is at most tol times the mean "
        "variance of the features; 0 runs until no label changes.",
    )
    random_state: Whole = Field(default=0, ge=0, lt=2**32, description="Seed of all random choices.")
    oversampling_factor: Number = Field(
        default=2.0,
        gt=0,
        description="Candidates drawn in a round of k-means||, in multiples of n_clusters.",
    )
    init_rounds: Rounds = Field(
        default="auto",
        description="Rounds of k-means||, each one pass over the data; `auto`: one, that draws a coreset too.",
    )
    algorithm: Literal["auto", "lloyd", "lookahead"] = Field(
        default="auto",
        description="`lloyd` follows plain Lloyd's trajectory; `lookahead` takes the fewest reads to a fixed point; "
        "`auto` is `lloyd` where the rows are kept in memory, else `lookahead`.",
    )
    memory_budget: Bytes = Field(
        default=None,
        description="Memory for all workers together: `2GiB`, `500MB`. Above 128 MiB, up to 512 MiB of it are for "
        "Python and the libraries of one process; the rest is for rows, and decides the size of blocks and of the "
        "sample, and what is kept between passes. Default: a quarter of the memory there is, written to the resolved "
        "config.yaml.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        """Check that there are as many centers as clusters."""
        if not isinstance(self.init, str) and not isinstance(self.n_clusters, int):
            raise_if([at("init", "expected the name of a seeding, since n_clusters is a list")])
        if not isinstance(self.init, str) and len(self.init) != self.n_clusters:
            text = f"expected n_clusters = {self.n_clusters} centers, got {len(self.init)}"
            raise_if([at("init", text)])
        return self


class Adapt(Section):
    """How many workers there are, by how much there is to do."""

    minimum: Whole = Field(default=1, ge=0, description="Fewest workers.")
    maximum: Whole = Field(ge=1, description="Most workers.")

    @model_validator(mode="after")
    def _ordered(self) -> Adapt:
        """Check that there can be so many."""
        if self.minimum > self.maximum:
            raise_if([at("minimum", f"expected at most the maximum, {self.maximum}, got {self.minimum}")])
        return self


class DriverConfig(Section):
    """The job that `daskmeans submit` makes of the driver itself."""

    walltime: Name | None = Field(default=None, description="Time limit, such as `24:00:00`.")
    memory: Bytes = Field(default=None, description="Memory of the job. Default: 4GiB.")
    cores: Whole = Field(default=1, ge=1, description="Cores of the job.")
    queue: Name | None = Field(default=None, description="Queue or partition. Default: that of the workers.")
    account: Name | None = Field(default=None, description="Account or project. Default: that of the workers.")
    directives: tuple[str, ...] = Field(default=(), description="More lines for the scheduler: `#SBATCH --nice`.")
    prologue: tuple[str, ...] = Field(default=(), description="Lines of shell before the run: `module load python`.")
    resubmit: bool = Field(default=False, description="Whether a driver whose time is over submits its continuation.")

    @model_validator(mode="after")
    def _understood(self) -> DriverConfig:
        """Check the time limit."""
        try:
            parse_walltime(self.walltime or "0:00")
        except ValueError as error:
            raise_if([at("walltime", str(error))])
        return self


class ClusterConfig(Section):
    """Where the work is done."""

    type: ClusterType = Field(
        default="threads",
        description="`threads` of this process; a `local` cluster of processes; the `address` of a Dask scheduler that "
        "runs already; jobs of a batch system; another way to deploy Dask; or any class of clusters, by dotted path.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Handed over unchanged. For `threads`: num_workers. For `local`: the arguments of "
        "`distributed.LocalCluster`, such as n_workers, threads_per_worker, memory_limit. For `address`: address or "
        "scheduler_file. Else those of the class, such as cores, memory, walltime, queue of "
        "`dask_jobqueue.SLURMCluster`. `security: {tls_ca_file: ..., tls_client_cert: ..., tls_client_key: ...}` "
        "encrypts.",
    )
    workers: Whole | None = Field(default=None, ge=1, description="Number of workers.")
    adapt: Adapt | None = Field(
        default=None, description="In place of `workers`: `{minimum: 1, maximum: 40}`, as many as there is work for."
    )
    wait: Number = Field(default=600.0, gt=0, description="Seconds to wait for the first worker, such as in a queue.")
    timeout: Number | None = Field(
        default=1800.0,
        gt=0,
        description="Seconds after which a pass that has finished no block ends the run; it can go on later. "
        "`null`: never.",
    )
    performance_report: bool = Field(
        default=False,
        description="Whether Dask's own report on tasks, transfers and workers is written to the results, as "
        "`performance.html`. Not for threads; needs the package bokeh.",
    )
    driver: DriverConfig = Field(
        default=DriverConfig(),
        description="The job that `daskmeans submit` makes of the driver: walltime, memory, cores, queue, account, "
        "directives (lines for the scheduler), prologue (lines of shell), resubmit (whether to go on in another job "
        "when the time is over).",
    )

    @property
    def most_workers(self) -> int:
        """Workers that there will be at most, as far as is known."""
        return self.workers or (self.adapt.maximum if self.adapt is not None else 1)

    @model_validator(mode="after")
    def _known_options(self) -> ClusterConfig:
        """Check the names of the options against what will take them."""
        problems = [at("options", text, *key) for key, text in check_options(self.type, self.options)]
        scales = self.type not in ("threads", "address", "mpi")
        fixed = [] if scales else [key for key in ("workers", "adapt") if getattr(self, key) is not None]
        problems += [at(key, f"the workers of {self.type} are not asked for here; leave this key out") for key in fixed]
        if self.workers is not None and self.adapt is not None:
            problems.append(at("adapt", "expected either workers or adapt, got both; remove one of them"))
        if self.workers is not None and self.options.get("n_workers"):
            problems.append(at("options", "given twice, here and as cluster.workers; remove one", "n_workers"))
        if self.performance_report and self.type == "threads":
            problems.append(at("performance_report", "threads are no cluster, and have no such report; leave it out"))
        raise_if(problems)
        return self


class OutputConfig(Section):
    """Where the results go, and which."""

    path: Name = Field(
        description="Folder of the results, relative to the current directory, or URL that fsspec can write to, such "
        "as `s3://bucket/results`. It must not exist."
    )
    storage_options: dict[str, Any] | None = Field(
        default=None,
        description="For URLs: the options of the fsspec file system, as for the input. What may be a credential is "
        "never written to the results.",
    )
    labels: bool = Field(default=True, description="Whether the label of each sample is written.")
    distances: bool = Field(
        default=False,
        description="Whether the distance of each sample to its center is written, in the units of the centers, scaled "
        "ones where features are scaled.",
    )
    runner_up: bool = Field(
        default=False,
        description="Whether the second nearest cluster of each sample is written, and the margin: by how much it is "
        "farther than the nearest.",
    )
    overwrite: bool = Field(
        default=False,
        description="Whether earlier results are replaced, once the new ones are whole.",
    )

    @field_serializer("storage_options", when_used="json")
    def _mask(self, options: dict[str, Any] | None) -> Any:
        """Hide what may be a secret from all that is written."""
        return None if options is None else masked(options)

    @model_validator(mode="after")
    def _ranks_need_labels(self) -> OutputConfig:
        """Refuse to tell of labels that are not written."""
        if not self.labels and (self.distances or self.runner_up):
            raise wrong("expected labels: true, since distances or runner_up are asked for")
        return self


class JobConfig(Section):
    """A job: the whole YAML file."""

    input: InputConfig = Field(description="What is clustered.")
    preprocess: PreprocessConfig = Field(default=PreprocessConfig(), description="What is done to the features first.")
    model: ModelConfig = Field(default=ModelConfig(), description="The model and how it is found.")
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="Where the work is done.")
    output: OutputConfig = Field(description="Where the results go, and which.")


def sections() -> Iterator[tuple[str, type[Section]]]:
    """Yield the name and the model of each section."""
    for name, field in JobConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        yield name, field.annotation


def config_reference() -> str:
    """Return the reference of all keys as Markdown, a table for each section.

    >>> print(config_reference().splitlines()[0])
    ### `input`
    """
    return "\n".join(_section_reference(name, model) for name, model in sections())


def _section_reference(name: str, model: type[Section]) -> str:
    """Return the Markdown of one section."""
    properties = model.model_json_schema()["properties"]
    lines = [f"### `{name}`", "", model.__doc__ or "", ""]
    lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{_yaml_word(field.get_default(call_default_factory=True))}`"
        values = _value_words(properties[key])
        cells = [f"`{key}`", values, default, field.description or ""]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _yaml_word(value: Any) -> str:
    """Return a default as YAML writes it."""
    return "null" if value is None else str(value).lower() if value is False or value is True else str(value)


def _value_words(schema: dict[str, Any]) -> str:
    """Say in words which values a JSON Schema takes."""
    if "anyOf" in schema:
        kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
        return " or ".join(_value_words(kind) for kind in kinds)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("title", "").startswith("size"):
        return str(schema["title"])
    if schema.get("type") == "array":
        return f"list of {_value_words(schema['items'])}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "object": "mapping",
    }
    kinds = schema.get("type", "object")
    return " or ".join(words[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))

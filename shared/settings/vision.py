"""Settings of the model and of the vision worker."""

from typing import Literal

from pydantic import Field

from shared.settings.base import ProcessSettings


class ModelSettings(ProcessSettings):
    """Which checkpoint is served, and under which name."""

    model: str = Field("", description="checkpoint: a folder, a hub id (`org/name@revision`) or `s3://bucket/prefix`")
    model_id: str = Field("", description="name under which jobs request it; empty: derived from the checkpoint")
    system_message: str = Field(
        "", description="system message of every prompt; empty: the one that the checkpoint was trained with"
    )
    default_model: str = Field("", description="model of a job that names none; empty: model_id, else the demo model")


class VisionSettings(ProcessSettings):
    """The vision worker: engine, device, decoding processes."""

    model_sha256: str = Field("", description="the checkpoint's digest, or a manifest file; other files are refused")
    engine: Literal["resident", "transformers", "echo"] = Field(
        "resident",
        description="`resident` batches jobs; `transformers`: one at a time, stock code; `echo` answers at once",
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="`auto`: bfloat16 where the device computes it well, else float32, float16 to fit",
    )
    quantise: Literal["none", "int8", "int4"] = Field(
        "none", description="quantise the decoder; on a GPU with the extra `quant`"
    )
    slots: int = Field(0, ge=0, description="jobs that a vision worker runs at once; 0: the engine's own number")
    kv_cache_bytes: int = Field(
        0, ge=0, description="memory of the resident engine's keys and values; 0: what the device allows"
    )
    prefix_cache_sharing: Literal["tenant", "all"] = Field(
        "tenant",
        description="who shares what is computed of equal prompts and images; with `all` tenants can time each other",
    )
    affinity_window: int = Field(
        16,
        ge=1,
        le=100,
        description="waiting jobs of a tenant among which a claim prefers one whose conversation or image the worker "
        "has cached; 1: strictly by age",
    )
    decoders: int = Field(2, ge=1, description="processes that decode images")
    decode_timeout: float = Field(20, gt=0, description="processor seconds for one image; thrice that by the clock")
    decode_memory: int = Field(2 << 30, ge=1, description="memory of one decoding process, beyond that at its start")
    delta_interval: float = Field(0.05, gt=0, description="text after the first is collected this long and sent")
    cancel_interval: float = Field(0.5, gt=0, description="how often a worker checks its jobs for cancellation")
    stall: float = Field(
        120,
        gt=0,
        description="an engine step longer than this, and than the device needs, ends the process; leases do the rest",
    )
    shutdown_grace: float = Field(
        25, ge=0, description="after SIGTERM running jobs may finish for this long, then they are released"
    )
    echo_delay: float = Field(0, ge=0, description="seconds before each word of the `echo` engine, for tests")
    echo_tiles: bool = Field(True, description="off: `echo` decodes no image, to measure the queue alone")
    worker_name: str = Field("", description="name of this worker; empty: host and process id")

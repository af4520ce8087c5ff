# check=skip=SecretsUsedInArgOrEnv (the path of a file is no secret)
# The reference wallet server in an image: stdio, or HTTP on port 8080 with MCP_TRANSPORT=http.
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
ENV UV_PYTHON=/usr/local/bin/python3 UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
COPY pyproject.toml uv.lock ./
# Of what the lock names, the packages that the server imports: the rest is the orchestrator's.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv export --quiet --frozen --no-default-groups --no-emit-project --extra wallet \
    --prune docker --prune httptools --prune jsonschema-rs --prune orjson \
    --prune python-dotenv --prune pyyaml --prune rich --prune sqlalchemy --prune structlog \
    --prune supervisor --prune typer --prune uvloop --output-file /requirements.txt && \
    uv venv --quiet /app && \
    uv pip install --quiet --python /app/bin/python --require-hashes -r /requirements.txt
COPY walletserver/ walletserver/
RUN ["/app/bin/python", "-c", "import compileall, shutil, sysconfig; \
     place = sysconfig.get_path('purelib') + '/walletserver'; \
     shutil.copytree('walletserver', place); \
     compileall.compile_dir(place, quiet=1)"]

FROM ${BASE_IMAGE}
ARG REVISION=unknown
ARG VERSION=0
LABEL org.opencontainers.image.title="Bandmaster's reference wallet server" \
      org.opencontainers.image.description="A development signer over an embedded ledger with demo funds." \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN --mount=type=bind,source=docker/prepare.py,target=/prepare.py \
    ["python3", "-I", "/prepare.py", "/var/lib/wallet", "/var/lib/wallet-owner"]
COPY --from=build /app /app
COPY --chmod=0755 docker/walletserver /app/bin/walletserver
COPY --chmod=0755 docker/with-secrets docker/answers /usr/local/bin/
ENV PATH=/app/bin:/usr/local/bin:/usr/bin:/bin HOME=/home/mcp LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 PORT=8080 \
    WALLETSERVER_LEDGER=/var/lib/wallet/ledger.sqlite3 \
    WALLETSERVER_TOKEN_FILE=/var/lib/wallet/mpc-agent-token \
    WALLETSUITE_AUDIT_PATH=/var/lib/wallet/audit-trail.jsonl
USER mcp
WORKDIR /var/lib/wallet
# A server on stdio has nothing to ask: whoever started it holds its other end.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --start-interval=1s --retries=3 \
    CMD [ "$MCP_TRANSPORT" != http ] || exec answers "http://127.0.0.1:$PORT/health"
ENTRYPOINT ["with-secrets"]
CMD ["walletserver"]

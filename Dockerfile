# Driftline's own image: `docker build -t driftline .`
#
#   --build-arg FEATURES=embedded-broker    adds the broker of `driftline demo`; it is left out of what runs in production
#
# The steps of the second stage are run by hand by scripts/check_image.py, on machines without a container engine too.

FROM rust:1.95-slim-bookworm AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# What scripts/setup.sh installs: librdkafka and zstd are compiled, OpenSSL and zlib are Debian's.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential pkg-config libssl-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG FEATURES=
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    CARGO_TARGET_DIR=/target cargo build --locked --release --bin driftline --no-default-features --features "$FEATURES" \
 && install -D /target/release/driftline /out/driftline \
 && strip /out/driftline

FROM debian:bookworm-slim
# Debian's own versions on purpose: a rebuild brings their security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
 && rm -rf /var/lib/apt/lists/*
# A fixed number, so that volumes and Kubernetes' runAsNonRoot can name it.
RUN groupadd --gid 10001 driftline \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/driftline --shell /usr/sbin/nologin driftline \
 && install -d -o driftline -g driftline /var/lib/driftline /etc/driftline
COPY --from=build /out/driftline /usr/local/bin/driftline
COPY --chmod=755 deploy/driftline-health /usr/local/bin/driftline-health
# The configuration is looked for here as driftline.toml; a store on the local disk, if there is one, lies here too.
WORKDIR /var/lib/driftline
USER 10001:10001
ENV DRIFTLINE__SERVE__LISTEN=0.0.0.0:9464
EXPOSE 9464
# Driftline is pid 1 and handles signals itself: SIGTERM drains, for 30 seconds at most.
STOPSIGNAL SIGTERM
# Alive, not ready: an engine that restarts what is unhealthy must not do so because the store or Kafka is away.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["driftline-health", "livez"]
ENTRYPOINT ["driftline"]
CMD ["run"]

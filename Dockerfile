# syntax=docker/dockerfile:1@sha256:87999aa3d42bdc6bea60565083ee17e86d1f3339802f543c0d03998580f9cb89

# Cross-compiles on the builder's platform for linux/amd64 or linux/arm64. The image brings rustup, which installs the
# toolchain of rust-toolchain.toml.
FROM --platform=$BUILDPLATFORM rust:1.95.0-trixie@sha256:0861191076afc8e2dfcf0bec6ad6c2dec8494b3a1e9249729e1989690afed5ec AS build
ARG TARGETARCH
ARG SOURCE_DATE_EPOCH
WORKDIR /build
# Versions are not pinned: within a Debian release they hardly change.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /data
COPY . .
# The caches outlive the build, so that only what changed is compiled again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,id=target-$TARGETARCH \
    cp "$(.ci/build-static "$TARGETARCH")" /sandbox-broker

# For releases: `docker buildx build --target binary --output dist .`
FROM scratch AS binary
COPY --from=build /sandbox-broker /sandbox-broker

# The program and the CA certificates, as an unprivileged user; no shell, no C library.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /sandbox-broker /sandbox-broker
# Without settings the broker keeps its embedded store here.
COPY --from=build --chown=65532:65532 /data /data
ENV BROKER_HOST=0.0.0.0 BROKER_DATA_DIR=/data
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=10s --start-period=10s --retries=5 CMD ["/sandbox-broker", "healthcheck"]
ENTRYPOINT ["/sandbox-broker"]

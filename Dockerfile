# syntax=docker/dockerfile:1

# Cross-compiles on the builder's platform for linux/amd64 or linux/arm64. The image brings rustup, which installs the
# toolchain of rust-toolchain.toml.
FROM --platform=$BUILDPLATFORM rust:1-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
WORKDIR /build
COPY rust-toolchain.toml ./

# Versions are not pinned: within a Debian release they hardly change.
# hadolint ignore=DL3008
RUN case "$TARGETARCH" in \
      amd64) cpu=x86_64 package=x86-64 ;; \
      arm64) cpu=aarch64 package=aarch64 ;; \
      *) echo "no build for $TARGETARCH" >&2; exit 1 ;; \
    esac \
    && if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
         apt-get update \
         && apt-get install --yes --no-install-recommends \
              "gcc-$package-linux-gnu" "g++-$package-linux-gnu" "libc6-dev-$TARGETARCH-cross" \
         && rm -rf /var/lib/apt/lists/*; \
       fi \
    && rustup toolchain install \
    && rustup target add "$cpu-unknown-linux-gnu" \
    && printf '[build]\ntarget = "%s"\n[target.%s]\nlinker = "%s"\n' \
         "$cpu-unknown-linux-gnu" "$cpu-unknown-linux-gnu" "$cpu-linux-gnu-gcc" >> "$CARGO_HOME/config.toml"

# Builds only the dependencies, so that this layer is reused until one of them changes. Benches and examples are not
# copied, and cargo rejects a manifest that names missing files.
COPY Cargo.toml Cargo.lock ./
COPY actors/Cargo.toml actors/
COPY test-support/Cargo.toml test-support/
RUN sed -i '/^\[\[\(bench\|example\)\]\]/,/^$/d' Cargo.toml \
    && mkdir -p src actors/src test-support/src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs actors/src/lib.rs test-support/src/lib.rs \
    && cargo build --profile image --locked

COPY src src
COPY actors actors
# Cargo compares modification times: these must be newer than those of the empty sources above.
RUN find src actors -name '*.rs' -exec touch {} + \
    && cargo build --profile image --locked \
    && cp target/*/image/sandbox-broker /sandbox-broker \
    && mkdir /data

# For releases: `docker buildx build --target binary --output dist .`
FROM scratch AS binary
COPY --from=build /sandbox-broker /sandbox-broker

# C library, CA certificates, an unprivileged user; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /sandbox-broker /sandbox-broker
# Without settings the broker keeps its embedded store here.
COPY --from=build --chown=65532:65532 /data /data
ENV BROKER_HOST=0.0.0.0 BROKER_DATA_DIR=/data
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/sandbox-broker", "healthcheck"]
ENTRYPOINT ["/sandbox-broker"]

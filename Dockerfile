# One image with every program in it; the container's command says which one runs.

ARG BUILD_IMAGE=rust:1-bookworm
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
# Sources are touched because cargo compares their times with those of the build before, which may
# have been of another working copy: an older file of ours would pass for already built.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    find . -path ./target -prune -o -type f -exec touch {} + \
 && cargo build --release --locked \
      --package orders --package logistics --package countersign-callback --package countersign-cli --bins \
 && install -D --target-directory /programs \
      target/release/orders target/release/logistics target/release/countersign-callback target/release/countersign

FROM ${RUNTIME_IMAGE}
# The certificate authorities that TLS to a broker or a database is checked against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /programs/ /usr/local/bin/
USER 65532:65532

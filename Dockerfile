# The images that `cargo xtask image` writes without a container engine, for those who have one:
#   docker build --target forebay-gateway -t forebay/forebay-gateway:0.1.0 .
FROM docker.io/library/rust:1.95-bookworm AS build
# The kernel programs: Debian's Rust has `core` for the BPF target; bpf-linker is built against its LLVM.
WORKDIR /source
COPY . .
RUN cargo xtask setup && cargo xtask ebpf
RUN cargo xtask release

FROM docker.io/library/debian:bookworm-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*

FROM base AS forebay-agent
COPY --from=build /source/target/shipped/forebay-agent /usr/bin/
ENTRYPOINT ["/usr/bin/forebay-agent"]

FROM base AS forebay-epp
COPY --from=build /source/target/shipped/forebay-epp /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/forebay-epp"]

FROM base AS forebay
COPY --from=build /source/target/shipped/forebay /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/forebay"]

FROM base AS forebay-gateway
COPY --from=build /source/target/shipped/forebay-gateway /usr/bin/
USER 65532:65532
ENTRYPOINT ["/usr/bin/forebay-gateway"]

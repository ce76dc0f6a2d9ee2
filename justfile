# Every task of the project. Each recipe only calls `cargo xtask`; `cargo xtask TASK --help` lists the options.

# List all tasks.
default:
    @just --list

# Install missing build requirements (apt packages, bpf-linker).
setup:
    cargo xtask setup

# Build the eBPF programs.
ebpf:
    cargo xtask ebpf

# Run agent, pickers, gateway and simulated vLLM servers on this machine.
demo *args:
    cargo xtask demo {{ args }}

# Install requirements, lint, and run every test.
test *args:
    cargo xtask test {{ args }}

# Check formatting, import cycles, sizes, clippy and dependency policy.
lint *args:
    cargo xtask lint {{ args }}

# Run fuzz targets; without arguments, all of them for a minute each.
fuzz *args:
    cargo xtask fuzz {{ args }}

# Run a benchmark against its baselines; without arguments, list all benchmarks.
bench *args="list":
    cargo xtask bench {{ args }}

# Build the release programs with profile-guided optimisation.
release *args:
    cargo xtask release {{ args }}

# Write container images as OCI archives.
image *args:
    cargo xtask image {{ args }}

# Start, use and stop a one-node Kubernetes cluster: build, up, load, exec, api, down.
cluster *args:
    cargo xtask cluster {{ args }}

# Run the Gateway API conformance suite in the cluster.
conformance *args:
    cargo xtask conformance {{ args }}

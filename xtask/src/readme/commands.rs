//! The commands of the README, and how each is run.

/// How a command is run in a fresh clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    AsIs,
    /// With its shortest option.
    Instead(&'static str),
    /// With the address of the agent of a running demo: `{agent}`.
    WithDemo(&'static str),
    /// Another test runs it.
    Elsewhere(&'static str),
}

const IN_CLUSTER: Run =
    Run::Elsewhere("`cargo xtask test` runs it in a cluster (readme_commands_install_forebay)");
const KEYS: Run = Run::Elsewhere(
    "it needs a cluster; `cargo xtask test` runs it with an API server (agent/cli/tests/keys)",
);

const USAGE: Run =
    Run::Elsewhere("it needs a database; `cargo xtask test` runs it with SQLite (agent/cli/tests/usage)");

/// Each command of the README, without its comment.
const HOW: &[(&str, Run)] = &[
    ("cargo xtask demo", Run::AsIs),
    ("cargo xtask test", Run::Elsewhere("CI runs it in a fresh clone")),
    (
        "forebay top --agents AGENT:9550",
        Run::Elsewhere("it needs a terminal; `cargo xtask test` runs it in tmux (agent/cli/tests/telemetry)"),
    ),
    (
        "forebay dashboard --agents AGENT:9550",
        // Ctrl-C ends it.
        Run::WithDemo("timeout --signal=INT 3 forebay dashboard --agents {agent} || [ $? = 124 ]"),
    ),
    (
        "forebay record FILE --agents AGENT:9550 --for 5m",
        Run::WithDemo(
            "rm -f target/demo.recording && forebay record target/demo.recording --agents {agent} --for 2s",
        ),
    ),
    (
        "forebay top --replay FILE",
        Run::Elsewhere("it needs a terminal; `cargo xtask test` runs it in tmux (agent/cli/tests/telemetry)"),
    ),
    (
        "forebay pods --replay FILE --at 90s -o yaml",
        Run::Instead("forebay pods --replay target/demo.recording --at 1s -o yaml"),
    ),
    (
        "forebay pods --agents AGENT:9550 --watch",
        // Ctrl-C after a few frames.
        Run::WithDemo("timeout --signal=INT 3 forebay pods --agents {agent} --watch || [ $? = 124 ]"),
    ),
    (
        "forebay requests --agents AGENT:9550 --for 1m",
        Run::WithDemo("forebay requests --agents {agent} --for 2s"),
    ),
    ("forebay nodes --agents AGENT:9550", Run::WithDemo("forebay nodes --agents {agent}")),
    ("forebay gpus --agents AGENT:9550 -o json", Run::WithDemo("forebay gpus --agents {agent} -o json")),
    ("forebay check", IN_CLUSTER),
    (
        "forebay explain --gateway ADDRESS:PORT MODEL",
        Run::Elsewhere(
            "it needs a trusted listener; `cargo xtask test` runs it (explain_works_only_on_trusted_listeners)",
        ),
    ),
    ("export FOREBAY_USAGE_DB=postgres://USER:PASSWORD@HOST/NAME", USAGE),
    ("forebay usage --by group,model --since 7d", USAGE),
    ("forebay usage --by key,day --prices prices.yaml -o csv", USAGE),
    ("cargo xtask bench list", Run::AsIs),
    ("cargo xtask bench freshness", Run::AsIs),
    (
        "cargo xtask bench agent",
        Run::Instead("cargo xtask bench agent -- --runs 1 --seconds 1 --idle-pods 10"),
    ),
    (
        "cargo xtask bench routing",
        Run::Instead("cargo xtask bench routing --trace agents --scenario plain --requests 400 --seeds 1"),
    ),
    ("cargo xtask bench epp", Run::Instead("cargo xtask bench epp -- --runs 1 --seconds 1 --prompts 20000")),
    ("cargo xtask bench micro extract", Run::AsIs),
    (
        "cargo xtask bench gateway",
        Run::Instead("cargo xtask bench gateway --plain -- throughput --body '1 KiB' --runs 1"),
    ),
    ("cargo xtask image --with-simulator --plain", Run::AsIs),
    (
        "for name in forebay-agent forebay-epp forebay-gateway forebay vllm-sim; do skopeo copy \
         oci-archive:target/images/$name.tar docker://REGISTRY/$name:0.1.0; done",
        Run::Elsewhere("it needs a registry"),
    ),
    (
        "install target/shipped/forebay ~/.local/bin/ && ln -sf forebay ~/.local/bin/kubectl-forebay",
        Run::Instead(
            "mkdir -p target/bin && install target/shipped/forebay target/bin/ && \
             ln -sf forebay target/bin/kubectl-forebay && target/bin/kubectl-forebay --version",
        ),
    ),
    (
        "forebay keys create alice --secret forebay-system/api-keys --owner alice@example.com --model Qwen/Qwen3-0.6B \
         --expires 30d",
        KEYS,
    ),
    ("forebay keys list --secret forebay-system/api-keys", KEYS),
    ("forebay keys rotate alice --secret forebay-system/api-keys --grace 24h", KEYS),
    ("forebay keys revoke alice --secret forebay-system/api-keys", KEYS),
    (
        "forebay certificates --pool-namespace llm-d | kubectl apply -f -",
        Run::Instead("forebay certificates --pool-namespace llm-d | grep -c 'kind: Secret'"),
    ),
    ("cargo xtask cluster up", Run::Elsewhere("`cargo xtask test` starts a cluster and removes it")),
    (
        "cargo xtask conformance",
        Run::Instead("cargo xtask conformance --run-test HTTPRouteSimpleSameNamespace"),
    ),
    ("cargo xtask release", Run::Instead("cargo xtask release --plain")),
    ("cargo xtask --help", Run::AsIs),
];

pub(super) fn how(command: &str) -> Option<Run> {
    HOW.iter().find(|(known, _)| *known == command).map(|(_, how)| *how)
}

/// The lines of code blocks outside [`CLUSTER_SECTIONS`], and all tasks that the text names.
pub(super) fn commands(readme: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for section in readme.split("\n## ") {
        if !CLUSTER_SECTIONS.iter().any(|title| section.starts_with(title)) {
            let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
            for block in blocks {
                let lines = block.replace("\\\n", " ");
                commands.extend(lines.lines().map(without_comment).filter(|line| !line.is_empty()));
            }
        }
        let tasks = section.split('`').skip(1).step_by(2).filter(|code| code.starts_with("cargo xtask "));
        commands.extend(tasks.map(str::to_owned));
    }
    let mut seen = std::collections::HashSet::new();
    commands.retain(|command| seen.insert(command.clone()));
    commands
}

/// Their code blocks are run by a test in the cluster.
const CLUSTER_SECTIONS: [&str; 2] = ["In a cluster\n", "API keys\n"];

fn without_comment(line: &str) -> String {
    let line = line.split(" #").next().unwrap_or(line);
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_readme_can_be_run() {
        let readme = std::fs::read_to_string(crate::run::root().join("README.md")).unwrap();
        let commands = commands(&readme);
        let unknown: Vec<&String> = commands.iter().filter(|command| how(command).is_none()).collect();
        assert!(unknown.is_empty(), "add to HOW in xtask/src/readme/commands.rs: {unknown:?}");
        let stale: Vec<&str> = HOW
            .iter()
            .map(|(known, _)| *known)
            .filter(|known| !commands.iter().any(|it| it == known))
            .collect();
        assert!(stale.is_empty(), "not in the README: {stale:?}");
    }

    #[test]
    fn reads_code_blocks_and_tasks_in_the_text() {
        let readme = "a `cargo xtask a` b\n```sh\nx \\\n  y   # why\n\nz\n```\n\n## In a cluster\n```sh\nhidden\n```\n`cargo xtask c`";
        assert_eq!(commands(readme), ["x y", "z", "cargo xtask a", "cargo xtask c"]);
    }
}

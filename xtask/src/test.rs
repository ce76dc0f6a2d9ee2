//! `cargo xtask test`: builds and runs all tests.

use anyhow::Result;

use crate::{bench, build, cluster, ebpf, fuzz, image, lint, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Skip `cargo xtask lint`.
    #[arg(long)]
    no_lint: bool,
    /// Run only the tests in the Kubernetes cluster.
    #[arg(long)]
    cluster: bool,
    /// Keep the cluster running after the tests.
    #[arg(long, requires = "cluster")]
    keep: bool,
    /// Run only cluster tests whose name contains this text.
    #[arg(requires = "cluster")]
    filter: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run_if_possible();
    ebpf::build_if_possible();
    if options.cluster {
        return in_cluster(cluster::why_unavailable(), options);
    }
    if !options.no_lint {
        lint::run(&lint::Options::default())?;
    }
    setup::for_tests_if_possible();
    run::step("building the tests and the programs that they start", &mut build::tests())?;
    // Before the tests: this builds kube-apiserver and etcd, which some tests start.
    let why_unavailable = cluster::why_unavailable();
    if let Err(error) = cluster::build_rate_limit_server() {
        run::say(&format!(
            "skipped: rate limits of a server: envoyproxy/ratelimit cannot be built: {error:#}"
        ));
    }
    // `--show-output`: tests print to standard output what they skip.
    let mut tests = run::cargo();
    tests.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    match bench::envoy() {
        Ok(envoy) => {
            tests.env("FOREBAY_ENVOY", envoy);
        }
        Err(error) => run::say(&format!("skipped: the picker behind Envoy: {error:#}")),
    }
    run::step("the tests", &mut tests)?;
    fuzz::run_briefly()?;
    image::dockerfile::test()?;
    in_cluster(why_unavailable, options)
}

fn in_cluster(why_unavailable: Option<String>, options: &Options) -> Result<()> {
    match why_unavailable {
        Some(reason) => {
            run::say(&format!("skipped: tests in the Kubernetes cluster: {reason}"));
            Ok(())
        }
        None => cluster::run_tests(options.keep, options.filter.as_deref()),
    }
}

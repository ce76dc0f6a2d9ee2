//! `cargo xtask image`: container images as OCI archives, without a container engine. The same source tree and build
//! profile give the same bytes.

mod base;
pub(crate) mod dockerfile;
mod layer;
mod oci;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

pub(crate) use self::{layer::Layer, oci::Image};
use crate::{build, ebpf, release, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Build profile of the programs.
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Also write the image of the vLLM simulator, for tests.
    #[arg(long)]
    with_simulator: bool,
    /// Only print the Dockerfile.
    #[arg(long)]
    dockerfile: bool,
    /// Only build the Dockerfile with buildah, over the programs of target/debug, as `cargo xtask test` does.
    #[arg(long, conflicts_with = "dockerfile")]
    check_dockerfile: bool,
    #[command(flatten)]
    release: release::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// Optimised; see `cargo xtask release`.
    Release,
    /// Not optimised: quick to build, for tests.
    Dev,
}

/// `uid:gid` of the user `nonroot` of distroless images.
const NONROOT: &str = "65532:65532";

struct Program {
    name: &'static str,
    user: &'static str,
    description: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "forebay-agent",
        // Capabilities of a container reach a program only if it runs as root or has file capabilities.
        user: "0:0",
        description: "Measures inference pods from the kernel, and the node's GPUs",
    },
    Program { name: "forebay-epp", user: NONROOT, description: "Endpoint picker for InferencePools" },
    Program {
        name: "forebay-gateway",
        user: NONROOT,
        description: "One OpenAI-compatible endpoint in front of every model",
    },
    Program { name: "forebay", user: NONROOT, description: "Command line of Forebay" },
];

const SIMULATOR: Program =
    Program { name: "vllm-sim", user: NONROOT, description: "Simulator of a vLLM server, for tests" };

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.dockerfile {
        return print_dockerfile();
    }
    if options.check_dockerfile {
        return dockerfile::test();
    }
    setup::run_if_possible();
    ebpf::build_if_possible();
    let programs = programs(options.with_simulator);
    match options.profile {
        Profile::Release => {
            let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
            write(&release::build(&options.release, &names)?, &programs)
        }
        Profile::Dev => build_for_tests(&programs, &mut build::programs()),
    }
    .map(drop)
}

#[expect(clippy::print_stdout, reason = "the text is the result")]
fn print_dockerfile() -> Result<()> {
    print!("{}", dockerfile::text());
    Ok(())
}

/// Writes all images, including the simulator, from the programs that `build` puts into `target/debug`.
pub(crate) fn write_for_tests(build: &mut Command) -> Result<Vec<PathBuf>> {
    build_for_tests(&programs(true), build)
}

fn build_for_tests(programs: &[&Program], build: &mut Command) -> Result<Vec<PathBuf>> {
    run::step("building the programs for images", build)?;
    write(&run::root().join("target/debug"), programs)
}

fn programs(with_simulator: bool) -> Vec<&'static Program> {
    PROGRAMS.iter().chain(with_simulator.then_some(&SIMULATOR)).collect()
}

/// Writes one archive for each program into `target/images`.
fn write(built: &Path, programs: &[&Program]) -> Result<Vec<PathBuf>> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let base = base::layer()?;
    programs
        .iter()
        .map(|program| {
            let archive = folder.join(format!("{}.tar", program.name));
            let image = program.image(built, &folder, base.clone())?;
            let digest = image.write(&archive)?;
            run::say(&format!("{}: {} {digest}", archive.display(), image.name));
            Ok(archive)
        })
        .collect()
}

impl Program {
    /// The image of the program in the folder `built`. `scratch`: a folder for temporary files.
    fn image(&self, built: &Path, scratch: &Path, base: Arc<[u8]>) -> Result<Image> {
        let mut own = Layer::new();
        let binary = stripped(&built.join(self.name), scratch)?;
        own.file(&format!("usr/bin/{}", self.name), 0o755, &binary)?;
        Ok(Image {
            name: reference(self.name),
            entrypoint: vec![format!("/usr/bin/{}", self.name)],
            user: self.user,
            title: self.name,
            description: self.description,
            version: VERSION,
            layers: vec![base, own.finish()?],
        })
    }
}

/// Writes an image of forebay-epp of `target/debug` under another name and with `arguments` before those of the container.
pub(crate) fn write_picker_for_tests(name: &str, arguments: &[&str], archive: &Path) -> Result<()> {
    let picker = PROGRAMS.iter().find(|program| program.name == "forebay-epp").context("not in the list")?;
    let mut image = picker.image(&run::root().join("target/debug"), &folder(), base::layer()?)?;
    image.name = name.to_owned();
    image.entrypoint.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    image.write(archive).map(drop)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Image reference that the charts use by default.
fn reference(program: &str) -> String {
    format!("docker.io/forebay/{program}:{VERSION}")
}

fn folder() -> PathBuf {
    run::root().join("target/images")
}

/// The archives in `target/images`.
pub(crate) fn archives() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder()).context("no images found; run `cargo xtask image` first")?;
    let mut archives: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "tar"))
        .collect();
    archives.sort();
    if archives.is_empty() {
        bail!("no images found; run `cargo xtask image` first");
    }
    Ok(archives)
}

/// The program without debug symbols.
fn stripped(program: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let stripped = scratch
        .join(program.file_name().context("the program path has no file name")?)
        .with_extension("stripped");
    let mut strip = Command::new("strip");
    run::quiet(strip.args(["--strip-debug", "-o"]).arg(&stripped).arg(program))?;
    let bytes = fs::read(&stripped)?;
    fs::remove_file(&stripped)?;
    Ok(bytes)
}

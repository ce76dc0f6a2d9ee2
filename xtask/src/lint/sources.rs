//! Source files of the workspace, parsed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The sources of one package, without tests.
pub(super) struct Package {
    /// Folder of the package, from the workspace's root.
    pub(super) folder: PathBuf,
    pub(super) files: Vec<SourceFile>,
}

pub(super) struct SourceFile {
    /// From the workspace's root.
    pub(super) path: PathBuf,
    /// Module path inside the crate; empty for `lib.rs` and `main.rs`.
    pub(super) module: Vec<String>,
    pub(super) text: String,
    pub(super) syntax: syn::File,
}

/// All members of the workspace.
pub(super) fn packages(root: &Path) -> Result<Vec<Package>> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("cannot read Cargo.toml")?;
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = "))
        .context("Cargo.toml has no line `members = […]`")?;
    let members = members.split('"').skip(1).step_by(2).map(PathBuf::from);
    members.map(|folder| package(root, folder)).collect()
}

/// The package in `root/folder`.
pub(super) fn package(root: &Path, folder: PathBuf) -> Result<Package> {
    let src = folder.join("src");
    let mut paths = Vec::new();
    collect(&root.join(&src), &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let syntax = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
        let module = module_of(path.strip_prefix(&src).unwrap_or(&path));
        files.push(SourceFile { path, module, text, syntax });
    }
    let tests = test_modules(&files);
    files.retain(|file| !tests.iter().any(|test| file.module.starts_with(test)));
    Ok(Package { folder, files })
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

/// `a/b.rs` and `a/b/mod.rs` are the module `a::b`.
fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = path
        .with_extension("")
        .components()
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Modules that are declared with `#[cfg(test)] mod name;`.
fn test_modules(files: &[SourceFile]) -> BTreeSet<Vec<String>> {
    let mut modules = BTreeSet::new();
    for file in files {
        for item in &file.syntax.items {
            if let syn::Item::Mod(module) = item
                && is_test(&module.attrs)
            {
                let name = module.ident.to_string();
                modules.insert(file.module.iter().cloned().chain([name]).collect());
            }
        }
    }
    modules
}

/// Whether the item has `#[cfg(test)]` or a variant of it, or `#[test]`.
pub(super) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let name = attribute.path().segments.last().map(|segment| segment.ident.to_string());
        match (name.as_deref(), &attribute.meta) {
            (Some("test"), _) => true,
            (Some("cfg"), syn::Meta::List(list)) => {
                let text = list.tokens.to_string();
                text == "test" || text.starts_with("all (test") || text.starts_with("any (test")
            }
            _ => false,
        }
    })
}

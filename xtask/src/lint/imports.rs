//! Import cycles between the modules of a crate.
//!
//! Siblings of every module are a graph: an edge for each path in the code of one that leads into the other, re-exports
//! followed. A cycle in one of these graphs is an error. Paths between a module and its own children are not edges.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};

use super::sources::{Package, is_test};

type Module = Vec<String>;

/// One line for each cycle: the modules in order, and the paths that tie them.
pub(super) fn cycles(package: &Package) -> Vec<String> {
    let modules: BTreeSet<Module> = package
        .files
        .iter()
        .flat_map(|file| (0..=file.module.len()).map(|length| file.module[..length].to_vec()))
        .collect();
    let mut uses: Vec<(Module, Vec<String>)> = Vec::new();
    let mut exports: BTreeMap<Module, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for file in &package.files {
        let mut collector = Collector::default();
        collector.visit_file(&file.syntax);
        for path in &collector.imports {
            if let (Some(absolute), Some(name)) = (absolute(&file.module, &path.full, &modules), &path.name) {
                exports.entry(file.module.clone()).or_default().insert(name.clone(), absolute);
            }
        }
        let imports = collector.imports.into_iter().map(|import| import.full);
        let paths = imports.chain(collector.paths);
        uses.extend(
            paths.filter_map(|path| Some((file.module.clone(), absolute(&file.module, &path, &modules)?))),
        );
    }

    // By parent module: edges between its children, each with one path that makes it.
    let mut graphs: BTreeMap<Module, BTreeMap<String, BTreeMap<String, String>>> = BTreeMap::new();
    for (from, path) in uses {
        let to = resolve(&path, &modules, &exports, 0);
        let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        if common < from.len() && common < to.len() {
            let edges = graphs.entry(from[..common].to_vec()).or_default();
            let names = format!("{} uses crate::{}", from.join("::"), path.join("::"));
            edges.entry(from[common].clone()).or_default().entry(to[common].clone()).or_insert(names);
        }
    }
    let in_package = |parent: &Module| {
        let folder = package.folder.display();
        if parent.is_empty() { format!("{folder}/src") } else { format!("{folder}/src/{}", parent.join("/")) }
    };
    let mut lines = Vec::new();
    for (parent, edges) in &graphs {
        if let Some(cycle) = find_cycle(edges) {
            let ties: Vec<&str> = cycle
                .iter()
                .zip(cycle.iter().skip(1))
                .filter_map(|(a, b)| Some(edges.get(a)?.get(b)?.as_str()))
                .collect();
            lines.push(format!(
                "import cycle in {}: {} ({})",
                in_package(parent),
                cycle.join(" → "),
                ties.join("; ")
            ));
        }
    }
    lines
}

#[derive(Default)]
struct Collector {
    imports: Vec<Import>,
    paths: Vec<Vec<String>>,
}

/// One leaf of a `use` tree.
struct Import {
    full: Vec<String>,
    /// The name that it binds; `None` for a glob.
    name: Option<String>,
}

impl Collector {
    fn tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(prefix, item)),
            syn::UseTree::Glob(_) => self.imports.push(Import { full: prefix.to_vec(), name: None }),
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.imports.push(Import { full: prefix.to_vec(), name: prefix.last().cloned() });
            }
            syn::UseTree::Name(name) => {
                self.imports.push(Import { full: with(&name.ident), name: Some(name.ident.to_string()) });
            }
            syn::UseTree::Rename(rename) => {
                let full = if rename.ident == "self" { prefix.to_vec() } else { with(&rename.ident) };
                self.imports.push(Import { full, name: Some(rename.rename.to_string()) });
            }
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

/// The path from the crate's root; `None` if it leads to another crate.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Vec<String>> {
    let mut base = module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|segment| segment == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        first => {
            let child: Module = base.iter().cloned().chain([first.to_owned()]).collect();
            if !modules.contains(&child) {
                return None;
            }
        }
    }
    Some([base.as_slice(), rest].concat())
}

/// The module that defines what `path` names, as far as re-exports tell.
fn resolve(
    path: &[String],
    modules: &BTreeSet<Module>,
    exports: &BTreeMap<Module, BTreeMap<String, Vec<String>>>,
    depth: usize,
) -> Module {
    /// Re-exports of re-exports; more are a cycle.
    const MAX_DEPTH: usize = 16;
    let mut current: Module = Vec::new();
    for (at, segment) in path.iter().enumerate() {
        let child: Module = current.iter().cloned().chain([segment.clone()]).collect();
        if modules.contains(&child) {
            current = child;
            continue;
        }
        let export = exports.get(&current).and_then(|names| names.get(segment));
        if let Some(target) = export.filter(|target| depth < MAX_DEPTH && target.as_slice() != &path[..=at]) {
            let path = [target.as_slice(), &path[at + 1..]].concat();
            return resolve(&path, modules, exports, depth + 1);
        }
        break;
    }
    current
}

/// A cycle as its nodes in order, the first one repeated at the end.
fn find_cycle(edges: &BTreeMap<String, BTreeMap<String, String>>) -> Option<Vec<String>> {
    fn walk<'a>(
        node: &'a str,
        edges: &'a BTreeMap<String, BTreeMap<String, String>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|known| *known == node) {
            return Some(path[start..].iter().chain([&node]).map(|it| (*it).to_owned()).collect());
        }
        if !done.insert(node) {
            return None;
        }
        path.push(node);
        let targets = edges.get(node).into_iter().flat_map(BTreeMap::keys);
        let found = targets.filter(|to| *to != node).find_map(|to| walk(to, edges, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|node| walk(node, edges, &mut Vec::new(), &mut done))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::super::sources::package;
    use super::*;

    /// The cycles of a crate with these files.
    fn cycles_of(files: &[(&str, &str)]) -> Vec<String> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("forebay-imports-{}-{number}", std::process::id()));
        for (path, text) in files {
            let path = root.join("c/src").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let cycles = cycles(&package(&root, PathBuf::from("c")).unwrap());
        fs::remove_dir_all(&root).unwrap();
        cycles
    }

    #[test]
    fn prints_cycle_between_folders() {
        let found = cycles_of(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a/mod.rs", "mod x;"),
            ("a/x.rs", "use crate::b::y::Y;"),
            ("b/mod.rs", "mod y;"),
            ("b/y.rs", "pub struct Y; fn f() { crate::c::g() }"),
            ("c.rs", "use super::a; pub fn g() {}"),
        ]);
        assert_eq!(
            found,
            [
                "import cycle in c/src: a → b → c → a (a::x uses crate::b::y::Y; b::y uses crate::c::g; c uses crate::a)"
            ]
        );
    }

    #[test]
    fn follows_re_exports() {
        let found = cycles_of(&[
            ("lib.rs", "mod a; mod b; pub use a::Error;"),
            ("a.rs", "pub enum Error { B(crate::b::B) }"),
            ("b.rs", "pub struct B; fn f() -> crate::Error { todo() }"),
        ]);
        assert_eq!(found, ["import cycle in c/src: a → b → a (a uses crate::b::B; b uses crate::Error)"]);
    }

    #[test]
    fn ignores_tests_parents_and_other_crates() {
        let found = cycles_of(&[
            ("lib.rs", "mod a; mod b; use a::A; pub struct L;"),
            (
                "a.rs",
                "use std::b::x; pub struct A; use crate::L; #[cfg(test)] mod tests { use crate::b::B; }",
            ),
            ("b.rs", "use crate::a::A; pub struct B; #[cfg(test)] mod tests;"),
            ("b/tests.rs", "use crate::a::A;"),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }
}

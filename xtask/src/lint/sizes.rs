//! Files and functions that do not fit on a screen.

use syn::{
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::sources::{Package, SourceFile, is_test};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 60;
/// In a comment directly above a longer function or at the top of a longer file, followed by the reason.
const REASON: &str = "Longer than the limit:";

/// One line for each file or function over the limit that does not give a reason. Packages in `tests/` are exempt.
pub(super) fn too_large(package: &Package) -> Vec<String> {
    if package.folder.starts_with("tests") {
        return Vec::new();
    }
    package.files.iter().flat_map(of_file).collect()
}

fn of_file(file: &SourceFile) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut errors = Vec::new();
    let mut functions = Functions { file, lines: &lines, errors: &mut errors };
    functions.visit_file(&file.syntax);
    let has_reason = lines.iter().take_while(|line| line.starts_with("//")).any(|line| line.contains(REASON));
    let code_lines = lines.len() - test_lines(file);
    if code_lines > MAX_FILE_LINES && !has_reason {
        errors.push(format!(
            "{}: {code_lines} lines, more than {MAX_FILE_LINES}; split it, or write `//! {REASON} …` at its top",
            file.path.display()
        ));
    }
    errors
}

/// Lines of inline test modules.
fn test_lines(file: &SourceFile) -> usize {
    let tests = file.syntax.items.iter().filter(
        |item| matches!(item, syn::Item::Mod(module) if is_test(&module.attrs) && module.content.is_some()),
    );
    tests.map(|item| item.span().end().line - item.span().start().line + 1).sum()
}

struct Functions<'a> {
    file: &'a SourceFile,
    lines: &'a [&'a str],
    errors: &'a mut Vec<String>,
}

impl Functions<'_> {
    fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (start, end) = (signature.span().start().line, block.span().end().line);
        let length = end - start + 1;
        let above = self.lines[..start.saturating_sub(1)].iter().rev();
        let has_reason = above
            .take_while(|line| line.trim_start().starts_with("//") || line.trim_start().starts_with("#["))
            .any(|line| line.contains(REASON));
        if length > MAX_FUNCTION_LINES && !has_reason {
            self.errors.push(format!(
                "{}:{start}: fn {} has {length} lines, more than {MAX_FUNCTION_LINES}; split it, or write `// {REASON} …` above",
                self.file.path.display(),
                signature.ident
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.check(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

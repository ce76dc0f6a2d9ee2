//! Hints at sentences that may not be plain technical English (CONTRIBUTING.md, Words).

use super::sources::Package;

/// In comments and messages these are mostly signs of a sentence that an operator would not search for.
const WORDS: [&str; 16] = [
    "nobody",
    "whoever",
    "what becomes of",
    "what became of",
    "goes on",
    "stands for",
    "stands in",
    " is none",
    "for nothing",
    "all the same",
    "as it comes",
    "in its hands",
    "is no ",
    "are no ",
    "beside the",
    "so often",
];
/// Usual phrases that contain one of the words.
const USUAL: [&str; 5] =
    ["there is no ", "there are no ", "is no longer ", "are no longer ", "there is none"];
/// Hints shown; the rest is counted.
const MAX_HINTS: usize = 10;

pub(super) fn hints(packages: &[Package]) -> Vec<String> {
    let mut hints = Vec::new();
    let mut count = 0_usize;
    let files = packages.iter().flat_map(|package| &package.files);
    for file in files.filter(|file| !file.path.ends_with("lint/words.rs")) {
        for (index, line) in file.text.lines().enumerate() {
            let text = USUAL.iter().fold(line.to_lowercase(), |text, usual| text.replace(usual, ""));
            let is_prose = text.trim_start().starts_with("//") || text.contains('"');
            let Some(word) = WORDS.iter().find(|word| is_prose && text.contains(**word)) else { continue };
            count += 1;
            if hints.len() < MAX_HINTS {
                hints.push(format!("hint: {}:{}: \"{}\"", file.path.display(), index + 1, word.trim()));
            }
        }
    }
    if count > hints.len() {
        hints.push(format!("hint: {} more lines with such words", count - hints.len()));
    }
    hints
}

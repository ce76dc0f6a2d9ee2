//! Standard output of the demo.

use std::io::{self, Write as _};

/// Prints a line to standard output. A closed pipe is not an error.
pub(crate) fn show(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

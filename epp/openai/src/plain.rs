//! Scans a body that is not compressed.

use super::form::FormScanner;
use super::scanner::{ModelScanner, Progress, Region};
use super::{BodyError, ModelName};

/// The scanner of an uncompressed body.
#[derive(Debug)]
pub enum PlainScanner {
    /// A JSON object.
    Json(ModelScanner),
    /// `multipart/form-data`.
    Form(Box<FormScanner>),
}

impl PlainScanner {
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Progress, BodyError> {
        match self {
            Self::Json(scanner) => scanner.feed(bytes),
            Self::Form(scanner) => scanner.feed(bytes),
        }
    }

    pub(super) fn finish(&self) -> Result<(), BodyError> {
        match self {
            Self::Json(scanner) => scanner.finish(),
            Self::Form(scanner) => scanner.finish(),
        }
    }

    pub(super) fn next_region(&mut self, bytes: &[u8]) -> Result<(usize, Region), BodyError> {
        match self {
            Self::Json(scanner) => scanner.next_region(bytes),
            Self::Form(scanner) => scanner.next_region(bytes),
        }
    }

    pub(super) fn model(&self) -> Option<&ModelName> {
        match self {
            Self::Json(scanner) => scanner.model(),
            Self::Form(scanner) => scanner.model(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        match self {
            Self::Json(scanner) => scanner.progress(),
            Self::Form(scanner) => scanner.progress(),
        }
    }
}

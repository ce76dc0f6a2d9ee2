//! The stage the parts run on.

//! The gateway between real sockets.

mod body;
mod listeners;
mod models;
mod path;
mod picker;
mod support;
mod upstream;

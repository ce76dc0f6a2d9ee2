//! Each plugin's rule on endpoints with given numbers. Plugins are built from parameters, as configurations do.

mod decisions;
mod filters;
mod scorers;
mod sessions;

use serde::de::DeserializeOwned;

fn plugin<T: DeserializeOwned>(parameters: &str) -> T {
    serde_yaml_ng::from_str(parameters).unwrap_or_else(|error| panic!("{parameters}: {error}"))
}

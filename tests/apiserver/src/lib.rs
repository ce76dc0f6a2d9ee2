//! etcd and kube-apiserver on loopback, for tests that must not imagine what
//! Kubernetes does. There is no controller, no scheduler and no node: Pods,
//! EndpointSlices and whatever else controllers write, the tests write themselves.

mod crds;
mod process;
mod server;
pub mod store;

pub use crds::{crds, open_crd};
pub use process::find;
pub use server::ApiServer;

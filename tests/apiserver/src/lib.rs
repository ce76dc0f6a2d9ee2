//! etcd and kube-apiserver on loopback, for tests against the real Kubernetes API. There are no controllers, no
//! scheduler and no nodes: tests write Pods, EndpointSlices and other objects of controllers themselves.

mod crds;
mod process;
mod server;
pub mod store;

pub use crds::{crds, open_crd};
pub use process::find;
pub use server::ApiServer;

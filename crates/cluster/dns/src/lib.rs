//! The cluster's name server: names of services and pods by the Kubernetes DNS specification 1.1, everything else from the
//! host's own name servers.
//!
//! * `zone` — a question and the cluster's view in, an answer out (pure)
//! * `reverse` — which services an address belongs to
//! * `upstream` — asks the host's name servers
//! * `server` — the sockets
//!
//! Every node answers its own pods at the address of the service `kube-dns`; no pod is needed for it.

mod reverse;
mod server;
mod upstream;
mod zone;

pub use reverse::Addresses;
pub use server::{KINDS, Server};
pub use upstream::Upstream;
pub use zone::{Found, TTL_SECS, Zone};

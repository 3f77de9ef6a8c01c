//! Services and network policies of a cluster, on one node: what the API says in, two nftables tables out.
//!
//! * `model` — services, their ports and who answers, as plain values; `read` makes them of API objects
//! * `block` — blocks of addresses
//! * `words` — the expressions that both tables are written in
//! * `frame` — the chains and sets that are always there; `pick` — chains that choose one of so many endpoints
//! * `render` — one service in, its elements out; `rules` — all of them, and what changes with one
//! * `apply` — puts a table in place, changes what differs, and puts it back when somebody flushed it
//! * `health` — ports by which a balancer learns whether this node has pods of a service
//! * `outlets` — which pods the data plane leads to: a pod's end waits until it leads there no more
//! * `policy` — which pods may talk to which
//! * `ground` — the range of service addresses, and the link on which this machine answers some of them
//! * `announce` — says on the wire that addresses of balancers are here
//! * `run` — follows the cluster
//!
//! Everything that differs by service stands in maps, so that a packet's way does not depend on how many there are, and a
//! change of one endpoint is a few elements. Every instance has tables and a range of its own: several run side by side.

pub mod announce;
mod apply;
mod block;
mod frame;
pub mod ground;
mod health;
mod model;
mod outlets;
mod pick;
pub mod policy;
mod read;
mod render;
mod rules;
mod run;
mod words;

pub use apply::Applied;
pub use block::{Block, merged};
pub use frame::Frame;
pub use model::{Backend, Service, ServicePort};
pub use outlets::{Outlets, drain};
pub use read::{Here, service};
pub use rules::Rules;
pub use run::{Config, KINDS, Proxy};

/// Name of the table of services of the instance with this tag.
pub fn table_name(tag: &str) -> String {
    format!("knarr-{tag}-services")
}

/// Name of its table of network policies.
pub fn policy_table_name(tag: &str) -> String {
    format!("knarr-{tag}-policies")
}

/// Takes away the policies of an instance, where an earlier process may have left some.
pub fn remove_policies(tag: &str) -> linux::Result<()> {
    Applied::new(&policy_table_name(tag)).remove()
}

/// Takes away everything that the data plane of an instance has in the kernel.
pub fn remove(tag: &str) -> Result<(), ground::GroundError> {
    Applied::new(&table_name(tag)).remove()?;
    Applied::new(&policy_table_name(tag)).remove()?;
    ground::remove(tag)
}

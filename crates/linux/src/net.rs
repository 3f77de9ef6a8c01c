//! The one piece of network configuration that every new network namespace needs: its loopback up. Links, addresses, routes and rules
//! are [`crate::netlink`]'s.

use crate::Result;
use crate::netlink::Socket;

/// Brings `lo` of the calling thread's network namespace up (one rtnetlink request). It is interface 1 in every namespace.
pub fn loopback_up() -> Result<()> {
    Socket::route()?.set_up(1)
}

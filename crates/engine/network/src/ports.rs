//! Host ports: chosen, and held for as long as they are published, so that no other program takes them (NW-10).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use linux::netlink::nft::Protocol;

use crate::{NetworkError, PortBinding, PublishedPort};

type Key = (IpAddr, u16, Protocol);

/// The ports that an instance holds. A held port is bound and never listened on: the rules send its packets to the container
/// before a socket would see them.
#[derive(Debug, Default)]
pub struct HeldPorts(Mutex<BTreeMap<Key, OwnedFd>>);

impl HeldPorts {
    fn held(&self) -> MutexGuard<'_, BTreeMap<Key, OwnedFd>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Chooses a port and holds it.
    pub fn hold(&self, binding: &PortBinding) -> Result<PublishedPort, NetworkError> {
        let (address, protocol, range) = (binding.host_address, binding.protocol, binding.host_ports);
        let mut last = None;
        for port in range.first..=range.last {
            if port != 0 && self.held().contains_key(&(address, port, protocol)) {
                last = Some(NetworkError::PortAllocated { address, port });
                continue;
            }
            match linux::net::hold_port(protocol, SocketAddr::new(address, port)) {
                Ok((fd, host_port)) => {
                    self.held().insert((address, host_port, protocol), fd);
                    let container_port = binding.container_port;
                    return Ok(PublishedPort { protocol, container_port, host_address: address, host_port });
                }
                Err(error) if error.is(linux::Errno::ADDRINUSE) => {
                    let other = |held: &Key| held.1 == port && held.2 == protocol;
                    // Ours on another address of the host is as taken as anybody's.
                    last = Some(match self.held().keys().any(other) {
                        true => NetworkError::PortAllocated { address, port },
                        false => NetworkError::PortTaken { address, port, protocol },
                    });
                }
                Err(error) => return Err(NetworkError::PortBind { address, port, protocol, cause: error.to_string() }),
            }
        }
        match last {
            Some(error) if range.first == range.last => Err(error),
            _ => Err(NetworkError::PortsExhausted { address, first: range.first, last: range.last }),
        }
    }

    pub fn release(&self, port: &PublishedPort) {
        self.held().remove(&(port.host_address, port.host_port, port.protocol));
    }
}

//! Asks the host's name servers what the cluster does not know.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use nameserver::Transport;
use vocab::dns::Question;

/// As the C library reads.
const SERVERS_MAX: usize = 3;

/// Where answers of others come from.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The host's `resolv.conf`: it may change while we run.
    file: PathBuf,
    /// Addresses that are ours: asking ourselves would never end.
    own: Vec<IpAddr>,
}

impl Upstream {
    pub fn new(file: impl Into<PathBuf>, own: Vec<IpAddr>) -> Self {
        Self { file: file.into(), own }
    }

    async fn servers(&self) -> Vec<SocketAddr> {
        let text = tokio::fs::read_to_string(&self.file).await.unwrap_or_default();
        servers(&text, &self.own)
    }

    /// The first answer of any server, with the question's own number. `None`: nobody answers.
    pub async fn ask(&self, query: &[u8], question: &Question, transport: Transport) -> Option<Vec<u8>> {
        nameserver::ask(&self.servers().await, query, question, transport).await
    }
}

/// Pure.
fn servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let addresses = named.filter_map(|address| address.split('%').next()?.parse::<IpAddr>().ok());
    addresses.filter(|address| !own.contains(address)).take(SERVERS_MAX).map(|address| (address, 53).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_asked_but_never_ourselves() {
        let text =
            "search lan\nnameserver 10.96.0.10\n nameserver 9.9.9.9 # one\nnameserver fe80::1%eth0\nnameserver x\n";
        let found: Vec<String> =
            servers(text, &["10.96.0.10".parse().unwrap()]).iter().map(|server| server.to_string()).collect();
        assert_eq!(found, ["9.9.9.9:53", "[fe80::1]:53"]);
    }
}

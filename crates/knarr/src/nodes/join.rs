//! How a machine becomes a node: it holds the server's authority against the token's digest, asks for a certificate with
//! the token, and keeps both for the next time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Client, Https, Identity, Target};
use jiff::Timestamp;
use kubelet::{CertificateError, Wanted, write_secret};
use tracing::{info, warn};

use super::token::{Token, digest};
use crate::failure::Failure;

const RETRY_MAX: Duration = Duration::from_secs(10);

/// What a node has once it belongs to a cluster.
pub struct Joined {
    pub authority: String,
    pub identity: Identity,
    pub servers: Vec<Target>,
}

/// Where an agent keeps what it got when it joined.
pub struct Kept {
    directory: PathBuf,
}

impl Kept {
    pub fn new(root: &Path) -> Self {
        Self { directory: root.join("agent") }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Servers that were known, one a line.
    pub fn servers(&self) -> Vec<Target> {
        let text = std::fs::read_to_string(self.directory.join("servers")).unwrap_or_default();
        text.lines().filter_map(|line| Target::parse(line).ok()).collect()
    }

    pub fn keep_servers(&self, servers: &[Target]) {
        let text: String = servers.iter().map(|server| format!("{server}\n")).collect();
        if let Err(error) = write_secret(&self.directory.join("servers"), text.as_bytes()) {
            warn!(error = crate::failure::chain(&error), "cannot keep the list of servers");
        }
    }
}

fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::new(format!("knarr agent: {what}"))
}

/// Joins, or goes on as the node that joined before. Waits for servers that do not answer yet; a refusal is the end.
pub async fn join(
    kept: &Kept,
    node: &str,
    named: Vec<Target>,
    token: Option<&Token>,
    authority_file: Option<&Path>,
) -> Result<Joined, Failure> {
    let identity = Identity::default();
    let wanted = Wanted::client(node, kept.directory());
    let mut servers = named;
    for server in kept.servers() {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        return Err(failed("no server is known: name one with --server https://ADDRESS:6443"));
    }
    let known = match authority_file {
        Some(path) => {
            Some(std::fs::read_to_string(path).map_err(|error| failed(format!("read {}: {error}", path.display())))?)
        }
        None => std::fs::read_to_string(kept.authority()).ok(),
    };
    if let Some(authority) = &known {
        // A token of another cluster: whoever wrote it means to join that one.
        let other = token.and_then(|token| token.authority.as_ref()).is_some_and(|wanted| *wanted != digest(authority));
        if other {
            let place = authority_file.map_or_else(|| kept.authority(), Path::to_owned);
            return Err(failed(format!(
                "the token is another cluster's than the certificate in {}: remove {} to join anew",
                place.display(),
                kept.directory().display()
            )));
        }
        let kept_identity =
            wanted.kept(&identity, Timestamp::now()).map_err(|error| failed(crate::failure::chain(&error)))?;
        if kept_identity.is_some() {
            info!(node, "this machine has joined before");
            return Ok(Joined { authority: authority.clone(), identity, servers });
        }
    }
    let Some(token) = token else {
        return Err(failed(
            "this machine has not joined yet: say --token, as 'knarr token create' on a server shows it",
        ));
    };
    let authority = match known {
        Some(authority) => authority,
        None => {
            let Some(expected) = &token.authority else {
                return Err(failed(
                    "the token does not name the cluster's authority: use the whole (K10...::), or --certificate-authority FILE",
                ));
            };
            let authority = learn_authority(&servers, expected).await?;
            write_secret(&kept.authority(), authority.as_bytes())
                .map_err(|error| failed(crate::failure::chain(&error)))?;
            authority
        }
    };
    let https = Https::new(servers.clone(), &authority, &Identity::default(), Some(&token.bearer()), "knarr-agent");
    let api = Client::new(https.map_err(|error| failed(crate::failure::chain(&error)))?);
    let mut pause = Duration::from_millis(200);
    loop {
        match wanted.ask(&api, &identity).await {
            Ok(_) => break,
            // Nobody there yet, or it has more to do than to answer.
            Err(CertificateError::Ask { status, .. }) if matches!(status.code, 429 | 500..) => {
                warn!(message = status.message, "cannot join yet; trying again");
            }
            Err(CertificateError::Ask { status, .. }) if status.code == 401 => {
                return Err(failed(format!("the server does not know {token:?}: it has expired or was deleted")));
            }
            Err(error) => return Err(failed(crate::failure::chain(&error))),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    info!(node, "joined the cluster");
    Ok(Joined { authority, identity, servers })
}

/// The authority of the first server that answers, held against the digest.
async fn learn_authority(servers: &[Target], expected: &str) -> Result<String, Failure> {
    let mut pause = Duration::from_millis(200);
    loop {
        for server in servers {
            match client::fetch_authority(server).await {
                Ok(pem) if digest(&pem) == expected => return Ok(pem),
                Ok(_) => {
                    return Err(failed(format!(
                        "{server} is not the cluster that the token is for: its authority's digest is another one"
                    )));
                }
                Err(why) => warn!(%server, why, "cannot fetch the authority's certificate; trying again"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

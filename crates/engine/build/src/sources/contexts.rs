//! A build context that is somewhere else: a tar, a single Dockerfile, or a repository.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use linux::fs::OFlags;
use tokio_util::sync::CancellationToken;

use super::git::Git;
use super::remote::Remote;
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::solve::{Builder, Client, blocking};

/// Bytes of a Dockerfile that stands alone at an address.
const TEXT_BYTES_MAX: u64 = crate::syntax::limits::TEXT_BYTES_MAX as u64;

/// A context that was fetched.
#[derive(Debug)]
pub struct RemoteContext {
    pub context: Arc<Context>,
    /// The address had no archive but a text: it is the context's only file, `Dockerfile`.
    pub dockerfile_only: bool,
}

impl Builder {
    /// Fetches a whole context. `keep_git_dir` is what is done with `.git` unless the address says otherwise.
    pub async fn fetch_context(
        &self,
        remote: &Remote,
        keep_git_dir: bool,
        client: &dyn Client,
        cancel: &CancellationToken,
    ) -> Result<RemoteContext> {
        let context = self.new_context()?;
        match remote {
            Remote::Git(remote) => {
                let git = Git { remote, client, cancel };
                let head = git.head(&context).await?;
                git.check_out(&head, remote.keep_git_dir.unwrap_or(keep_git_dir), &context).await?;
                let context = match remote.subdir.as_str() {
                    "" => context,
                    subdir => context.into_sub(subdir)?,
                };
                Ok(RemoteContext { context: Arc::new(context), dockerfile_only: false })
            }
            Remote::Http(url) => {
                let download = self.downloads().get(url, None, cancel).await?;
                blocking(move || {
                    let mut file = File::from(linux::fs::reopen(&download.fd, OFlags::RDONLY)?);
                    let io = |source| BuildError::Io { what: "read what was downloaded".into(), source };
                    let mut head = Vec::new();
                    file.by_ref().take(512).read_to_end(&mut head).map_err(io)?;
                    let mut whole = std::io::Cursor::new(head.clone()).chain(file);
                    let dockerfile_only = !image::is_archive(&head);
                    if dockerfile_only {
                        let mut text = Vec::new();
                        whole.take(TEXT_BYTES_MAX + 1).read_to_end(&mut text).map_err(io)?;
                        if text.len() as u64 > TEXT_BYTES_MAX {
                            return Err(BuildError::Invalid("the Dockerfile at this address is too large".into()));
                        }
                        context.write("Dockerfile", &text)?;
                    } else {
                        context.unpack(&mut whole)?;
                    }
                    Ok(RemoteContext { context: Arc::new(context), dockerfile_only })
                })
                .await
            }
        }
    }
}

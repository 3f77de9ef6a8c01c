//! A cluster's whole data: to a file and back, from one kind of store to the other. For stores that no server holds open;
//! a running server hands out its data at `/knarr/backup`.

use std::io::{BufReader, BufWriter, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::{Embedded, Etcd, EtcdOptions, Options, Store};

/// Where a cluster's data is.
#[derive(Debug, Clone)]
pub enum Place {
    /// Below a server's root directory.
    Root(PathBuf),
    Etcd(EtcdOptions),
}

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("{action} {path}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Backup(#[from] store::BackupError),
}

impl Place {
    async fn open(&self, make: bool) -> Result<Arc<dyn Store>, DataError> {
        Ok(match self {
            Self::Etcd(options) => Arc::new(Etcd::connect(options.clone()).await?),
            Self::Root(root) => {
                let path = root.join("cluster.db");
                let failed = |action, source| DataError::File { action, path: path.clone(), source };
                if make {
                    std::fs::create_dir_all(root).map_err(|source| failed("make the directory of", source))?;
                } else {
                    std::fs::metadata(&path).map_err(|source| failed("open", source))?;
                }
                Arc::new(Embedded::open(&path, &Options::default())?)
            }
        })
    }
}

/// Writes everything to a file, wholly or not at all; answers the revision and the number of keys.
pub async fn backup(from: &Place, path: &Path) -> Result<(u64, usize), DataError> {
    let store = from.open(false).await?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let failed = |action, source| DataError::File { action, path: path.to_owned(), source };
    let file = create(&temporary).map_err(|source| failed("create", source))?;
    let mut out = BufWriter::new(file);
    let outcome = store::backup(store.as_ref(), &mut out).await;
    let synced = out.flush().and_then(|()| out.get_ref().sync_all());
    let done = match (outcome, synced) {
        (Ok(done), Ok(())) => Ok(done),
        (Err(error), _) => Err(error.into()),
        (_, Err(source)) => Err(failed("write", source)),
    };
    match done {
        Ok(_) => std::fs::rename(&temporary, path).map_err(|source| failed("rename to", source))?,
        Err(_) => drop(std::fs::remove_file(&temporary)),
    }
    done
}

/// A file that its owner alone reads: it holds secrets.
fn create(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Fills an empty store from a file; answers the number of keys.
pub async fn restore(path: &Path, to: &Place) -> Result<usize, DataError> {
    let failed = |source| DataError::File { action: "open", path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let store = to.open(true).await?;
    Ok(store::restore(store.as_ref(), BufReader::new(file)).await?)
}

/// Copies everything from one place to another, empty one; answers the number of keys. The first stays as it is.
pub async fn transfer(from: &Place, to: &Place) -> Result<usize, DataError> {
    let source = from.open(false).await?;
    let mut file = BufReader::new(spool(source.as_ref()).await?);
    let target = to.open(true).await?;
    file.rewind().map_err(|source| DataError::File { action: "read", path: std::env::temp_dir(), source })?;
    Ok(store::restore(target.as_ref(), file).await?)
}

/// Everything in a file without a name, to be read from its beginning.
pub(crate) async fn spool(store: &dyn Store) -> Result<std::fs::File, DataError> {
    let id: [u8; 8] = crate::api::random();
    let path = std::env::temp_dir().join(format!("knarr-data-{:016x}", u64::from_le_bytes(id)));
    let failed = |action, source| DataError::File { action, path: path.clone(), source };
    let file = create(&path).map_err(|source| failed("create", source))?;
    std::fs::remove_file(&path).map_err(|source| failed("unlink", source))?;
    let mut out = BufWriter::new(file);
    store::backup(store, &mut out).await?;
    let mut file = out.into_inner().map_err(|error| failed("write", error.into_error()))?;
    file.rewind().map_err(|source| failed("rewind", source))?;
    Ok(file)
}

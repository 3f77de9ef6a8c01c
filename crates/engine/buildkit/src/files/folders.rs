//! Where contexts are kept between builds: one folder a client's folder, with what it held when it was last complete. A
//! folder belongs to one build at a time; a second build of the same context gets one of its own.
//!
//! On disk: `<root>/<key>.<number>/{files/, tree, facts, digests}`. `tree` is away while `files` changes: a folder that some
//! crash left in between is made anew. `digests` is what the builder remembers of the files.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use linux::fs::Root;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::receive::{Wire, receive};
use super::tree::Tree;
use super::{Result, TransferError};

/// Folders that nobody uses at the moment; the ones that were not used for the longest time go first.
const IDLE_MAX: usize = 32;

#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    busy: Mutex<HashSet<String>>,
}

/// What is known of a folder without looking into it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FolderFacts {
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) created_at: Timestamp,
    pub(crate) last_used_at: Timestamp,
    pub(crate) uses: u64,
    pub(crate) bytes: u64,
    #[serde(skip)]
    pub(crate) in_use: bool,
}

/// A folder that is ours until it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    all: Arc<Folders>,
    name: String,
    description: String,
}

impl Folders {
    pub(crate) fn open(root: PathBuf) -> Arc<Self> {
        Arc::new(Self { root, busy: Mutex::default() })
    }

    /// The folder for what a client names by `key`.
    pub(crate) fn take(self: &Arc<Self>, key: &str, description: &str) -> Folder {
        let key = &hex::encode(Sha256::digest(key))[..24];
        let mut busy = self.busy.lock().unwrap_or_else(|e| e.into_inner());
        let name = (0u32..).map(|number| format!("{key}.{number}")).find(|name| !busy.contains(name));
        let name = name.expect("fewer builds than numbers");
        busy.insert(name.clone());
        Folder { all: self.clone(), name, description: description.to_owned() }
    }

    /// Every folder, longest unused first. Blocking.
    pub(crate) fn list(&self) -> Result<Vec<FolderFacts>> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io("list", &self.root)(source)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(io("list", &self.root))?.file_name().to_string_lossy().into_owned();
            let facts = std::fs::read(self.root.join(&name).join("facts")).ok();
            if let Some(mut facts) = facts.and_then(|bytes| serde_json::from_slice::<FolderFacts>(&bytes).ok()) {
                facts.in_use = self.busy.lock().unwrap_or_else(|e| e.into_inner()).contains(&name);
                facts.name = name;
                found.push(facts);
            }
        }
        found.sort_by_key(|f| f.last_used_at);
        Ok(found)
    }

    /// Removes a folder unless somebody uses it. Blocking.
    pub(crate) fn remove(&self, name: &str) -> Result<bool> {
        {
            let mut busy = self.busy.lock().unwrap_or_else(|e| e.into_inner());
            if !busy.insert(name.to_owned()) {
                return Ok(false);
            }
        }
        let removed = remove_folder(&self.root, name);
        self.busy.lock().unwrap_or_else(|e| e.into_inner()).remove(name);
        removed.map(|()| true)
    }

    fn make_room(&self) -> Result<()> {
        let idle: Vec<FolderFacts> = self.list()?.into_iter().filter(|f| !f.in_use).collect();
        for facts in idle.iter().take(idle.len().saturating_sub(IDLE_MAX)) {
            self.remove(&facts.name)?;
        }
        Ok(())
    }
}

impl Folder {
    fn path(&self) -> PathBuf {
        self.all.root.join(&self.name)
    }

    fn files(&self) -> PathBuf {
        self.path().join("files")
    }

    /// Makes `files`, empty.
    fn make_files(&self) -> Result<()> {
        let (path, files) = (self.path(), self.files());
        private_dir(&self.all.root)?;
        private_dir(&path)?;
        // Making many files is slow where many were just removed. Where a folder is spread to follows from its name, so it has a new one first.
        let _ = std::fs::File::open(&path).map(linux::fs::spread_directories);
        let draft = path.join(format!("files.{}", Timestamp::now().as_nanosecond()));
        std::fs::create_dir(&draft).map_err(io("make", &draft))?;
        std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(io("open", &draft))?;
        std::fs::rename(&draft, &files).map_err(io("rename", &draft))
    }

    /// The folder as a context, ours as long as that is used.
    pub(crate) fn context(self: Arc<Self>) -> build::Result<build::Context> {
        build::Context::kept(&self.files(), self.path().join("digests"), self)
    }

    /// The folder, made what a tar has. Blocking.
    ///
    /// No tree is noted: what is there is compared with what comes file by file, whatever a crash has left.
    pub(crate) fn renewed(self, tar: &mut (dyn Read + Send)) -> build::Result<build::Context> {
        let path = self.path();
        let noted = |done: Result<()>| done.map_err(|error| build::BuildError::Invalid(error.to_string()));
        if !self.files().is_dir() {
            noted(self.make_files())?;
        }
        if !path.join("facts").exists() {
            // Whatever becomes of this, somebody will find the folder and remove it.
            noted(self.note(0))?;
        }
        let folder = Arc::new(self);
        let context = folder.clone().context()?;
        noted(folder.note(context.renew(tar)?))?;
        noted(folder.all.make_room())?;
        Ok(context)
    }

    /// Makes the folder what the client has. Blocking.
    pub(crate) fn update(&self, wire: &mut Wire) -> Result<()> {
        let (path, files, tree_file) = (self.path(), self.files(), self.path().join("tree"));
        let old = std::fs::read(&tree_file).ok().and_then(|bytes| Tree::of_bytes(&bytes)).filter(|_| files.is_dir());
        let fresh = old.is_none();
        if fresh {
            if path.exists() {
                remove_folder(&self.all.root, &self.name)?;
            }
            self.make_files()?;
        }
        let old = old.unwrap_or_default();
        let root = Root::open(&files).map_err(|source| TransferError::Kernel { path: self.name.clone(), source })?;
        let mut changed = fresh;
        let tree = receive(&root, old, wire, || {
            changed = true;
            vocab::crash::point("build.context.before_change");
            match std::fs::remove_file(&tree_file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &tree_file)(error)),
                _ => Ok(()),
            }
        })?;
        if changed {
            vocab::crash::point("build.context.changed");
            let draft = path.join("tree.new");
            std::fs::write(&draft, tree.as_bytes()).map_err(io("write", &draft))?;
            std::fs::rename(&draft, &tree_file).map_err(io("rename", &draft))?;
        }
        self.note(tree.file_bytes())?;
        self.all.make_room()
    }

    fn note(&self, bytes: u64) -> Result<()> {
        let path = self.path().join("facts");
        let now = Timestamp::now();
        let before = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<FolderFacts>(&bytes).ok());
        let facts = FolderFacts {
            name: String::new(),
            description: self.description.clone(),
            created_at: before.as_ref().map_or(now, |f| f.created_at),
            last_used_at: now,
            uses: before.map_or(0, |f| f.uses) + 1,
            bytes,
            in_use: false,
        };
        let bytes = serde_json::to_vec(&facts)
            .map_err(|error| TransferError::Io { what: "write facts".into(), source: error.into() })?;
        std::fs::write(&path, bytes).map_err(io("write", &path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.all.busy.lock().unwrap_or_else(|e| e.into_inner()).remove(&self.name);
    }
}

fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("make", path))
}

fn remove_folder(root: &Path, name: &str) -> Result<()> {
    let removed = Root::open(root).and_then(|root| linux::tree::remove_all(&root, name));
    removed.map_err(|source| TransferError::Kernel { path: name.to_owned(), source })
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TransferError {
    let what = format!("{what} {}", path.display());
    move |source| TransferError::Io { what, source }
}

//! Sandboxes as they are remembered: one file each in the run directory, so that they are gone when the machine has started anew,
//! as their namespaces are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use grpc::Outcome;
use prost::Message;
use tonic::Status;

use crate::wire::PodSandboxConfig;

/// One sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    #[prost(message, required, tag = "1")]
    pub config: PodSandboxConfig,
    /// Billionths of a second since 1970.
    #[prost(int64, tag = "2")]
    pub created_at: i64,
    #[prost(string, repeated, tag = "3")]
    pub ips: Vec<String>,
    /// Its namespaces and its network are gone.
    #[prost(bool, tag = "4")]
    pub stopped: bool,
    #[prost(string, tag = "5")]
    pub handler: String,
}

#[derive(Debug)]
pub struct Records {
    /// `<run>/cri`.
    directory: PathBuf,
    all: Mutex<BTreeMap<String, Record>>,
}

impl Records {
    pub fn open(run: &Path) -> std::io::Result<Self> {
        let directory = run.join("cri");
        std::fs::create_dir_all(&directory)?;
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&directory)?.flatten() {
            let Some(id) = entry.file_name().to_str().filter(|name| is_id(name)).map(str::to_owned) else { continue };
            match Record::decode(std::fs::read(entry.path())?.as_slice()) {
                Ok(record) => drop(all.insert(id, record)),
                Err(error) => tracing::warn!(id, %error, "a sandbox's record is not understood"),
            }
        }
        Ok(Self { directory, all: Mutex::new(all) })
    }

    pub fn all(&self) -> BTreeMap<String, Record> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// By its id or a unique beginning of it.
    pub fn find(&self, id: &str) -> Outcome<(String, Record)> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = all.range(id.to_owned()..).take_while(|(have, _)| !id.is_empty() && have.starts_with(id));
        match (found.next(), found.next()) {
            (Some((id, record)), None) => Ok((id.clone(), record.clone())),
            (Some(_), Some(_)) => {
                Err(Status::invalid_argument(format!("more than one sandbox's id begins with {id:?}")))
            }
            (None, _) => {
                Err(Status::not_found(format!("an error occurred when try to find sandbox {id:?}: not found")))
            }
        }
    }

    pub fn put(&self, id: &str, record: Record) -> Outcome<()> {
        let path = self.directory.join(id);
        let new = path.with_extension("new");
        let written = std::fs::write(&new, record.encode_to_vec()).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|error| Status::unknown(format!("write {}: {error}", path.display())))?;
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), record);
        Ok(())
    }

    pub fn remove(&self, id: &str) -> Outcome<()> {
        let path = self.directory.join(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Status::unknown(format!("remove {}: {error}", path.display())));
            }
            _ => {}
        }
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }
}

/// 64 lower-case hex digits: only we make such names.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A new id.
pub fn random_id() -> Outcome<String> {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Status::unknown(format!("get random bytes: {error}")))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_found_again_by_a_beginning_of_its_id() {
        let run = tempfile::tempdir().unwrap();
        let records = Records::open(run.path()).unwrap();
        let (one, other) = (format!("a1{}", "0".repeat(62)), format!("a2{}", "0".repeat(62)));
        for id in [&one, &other] {
            records.put(id, Record { ips: vec![id[..2].to_owned()], ..Record::default() }).unwrap();
        }
        let again = Records::open(run.path()).unwrap();
        assert_eq!(again.find("a1").unwrap(), (one.clone(), Record { ips: vec!["a1".into()], ..Record::default() }));
        for (id, code) in
            [("a", tonic::Code::InvalidArgument), ("", tonic::Code::NotFound), ("b", tonic::Code::NotFound)]
        {
            assert_eq!(again.find(id).unwrap_err().code(), code, "{id}");
        }
        again.remove(&one).unwrap();
        again.remove(&one).unwrap();
        assert_eq!(Records::open(run.path()).unwrap().all().into_keys().collect::<Vec<_>>(), [other]);
    }
}

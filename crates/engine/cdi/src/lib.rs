//! The container device interface (CDI 1.1): a vendor's tool installs a file that says what a container needs besides the device
//! file to use a device of a kind, and people ask for the device by name, `vendor.com/class=name`.
//!
//! [`Devices::read`] reads the files, [`Devices::find`] decides what belongs to some names, [`Edits::apply`] adds it to an OCI spec.

mod apply;
mod file;
mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use apply::Node;
pub use file::Edits;
pub use name::Name;

use file::File;

/// Where vendors put their files; what stands in the later one counts.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("CDI device injection failed: unresolvable CDI devices {}{}", names.join(", "), because(broken))]
    Unresolvable {
        names: Vec<String>,
        /// Files that could not be read, and why.
        broken: Vec<String>,
    },
    #[error("CDI device injection failed: {0}")]
    Edit(String),
}

fn because(broken: &[String]) -> String {
    if broken.is_empty() { String::new() } else { format!(" ({})", broken.join("; ")) }
}

/// The devices that this machine's files name.
#[derive(Debug, Default)]
pub struct Devices {
    /// By kind and name: which file, and what it says of the device.
    known: BTreeMap<Name, (usize, Edits)>,
    /// What each file says of all its devices.
    files: Vec<Edits>,
    broken: Vec<String>,
}

impl Devices {
    /// Reads the files of all directories. Ones that are missing hold none; a file that is wrong is told when a name is not found.
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut devices = Self::default();
        for directory in directories {
            devices.add(directory);
        }
        devices
    }

    fn add(&mut self, directory: &Path) {
        let mut paths: Vec<_> =
            std::fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
        paths.retain(|path| {
            path.extension().is_some_and(|end| ["json", "yaml", "yml"].iter().any(|known| end == *known))
        });
        paths.sort();
        // Two files of one directory that name the same device: nobody can say which is meant.
        let mut here = BTreeSet::new();
        let mut twice = BTreeSet::new();
        for path in paths {
            match File::read(&path) {
                Ok(file) => {
                    let at = self.files.len();
                    self.files.push(file.edits);
                    for (name, edits) in file.devices {
                        if !here.insert(name.clone()) {
                            self.broken.push(format!("{name} is in two files of {}", directory.display()));
                            twice.insert(name.clone());
                        }
                        self.known.insert(name, (at, edits));
                    }
                }
                Err(problem) => self.broken.push(format!("{}: {problem}", path.display())),
            }
        }
        self.known.retain(|name, _| !twice.contains(name));
    }

    /// Every device's name.
    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.known.keys()
    }

    pub fn has_kind(&self, kind: &str) -> bool {
        self.known.keys().any(|name| name.kind == kind)
    }

    /// What containers get that ask for these. `KIND=all` is every device of a kind that names none "all" itself.
    pub fn find(&self, names: &[String]) -> Result<Edits, Error> {
        let mut edits = Edits::default();
        let (mut unknown, mut used) = (Vec::new(), BTreeSet::new());
        for asked in names {
            let found = self.named(asked);
            if found.is_empty() {
                unknown.push(asked.clone());
            }
            for (file, own) in found {
                if used.insert(file) {
                    edits.extend(&self.files[file]);
                }
                edits.extend(own);
            }
        }
        if unknown.is_empty() {
            return Ok(edits);
        }
        Err(Error::Unresolvable { names: unknown, broken: self.broken.clone() })
    }

    fn named(&self, asked: &str) -> Vec<(usize, &Edits)> {
        let Some(name) = Name::parse(asked) else { return Vec::new() };
        match self.known.get(&name) {
            Some((file, edits)) => vec![(*file, edits)],
            None if name.device == "all" => {
                let of_kind = self.known.iter().filter(|(other, _)| other.kind == name.kind);
                of_kind.map(|(_, (file, edits))| (*file, edits)).collect()
            }
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let directories = ["static", "dynamic", "absent"].map(|name| folder.path().join(name)).to_vec();
        (folder, directories)
    }

    const CARDS: &str = "cdiVersion: 0.6.0
kind: vendor.com/card
containerEdits:
  env: [DRIVER=1]
devices:
  - name: '0'
    containerEdits: {env: [CARD=0]}
  - name: '1'
    containerEdits: {env: [CARD=1]}
";

    fn env(devices: &Devices, names: &[&str]) -> Result<Vec<String>, Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        devices.find(&names).map(|edits| edits.env)
    }

    #[test]
    fn a_device_brings_what_its_file_says_once_and_what_it_says_itself() {
        let (_folder, directories) = written(&[("static/a.yaml", CARDS), ("static/notes.txt", "no CDI")]);
        let devices = Devices::read(&directories);
        assert_eq!(
            devices.names().map(ToString::to_string).collect::<Vec<_>>(),
            ["vendor.com/card=0", "vendor.com/card=1"]
        );
        assert_eq!(env(&devices, &["vendor.com/card=1"]).unwrap(), ["DRIVER=1", "CARD=1"]);
        assert_eq!(
            env(&devices, &["vendor.com/card=1", "vendor.com/card=0"]).unwrap(),
            ["DRIVER=1", "CARD=1", "CARD=0"]
        );
        assert_eq!(env(&devices, &["vendor.com/card=all"]).unwrap(), ["DRIVER=1", "CARD=0", "CARD=1"]);
        assert_eq!(
            env(&devices, &["vendor.com/card=2", "other.com/card=all", "nonsense"]).unwrap_err().to_string(),
            "CDI device injection failed: unresolvable CDI devices vendor.com/card=2, other.com/card=all, nonsense"
        );
    }

    #[test]
    fn later_directories_count_and_conflicts_do_not() {
        let other = CARDS.replace("CARD=0", "CARD=other");
        let (_folder, directories) = written(&[("static/a.yaml", CARDS), ("dynamic/b.yaml", &other)]);
        assert_eq!(env(&Devices::read(&directories), &["vendor.com/card=0"]).unwrap(), ["DRIVER=1", "CARD=other"]);
        let (_folder, directories) = written(&[("static/a.yaml", CARDS), ("static/b.yaml", &other)]);
        let error = env(&Devices::read(&directories), &["vendor.com/card=0"]).unwrap_err().to_string();
        assert!(error.contains("vendor.com/card=0 is in two files of"), "{error}");
    }

    #[test]
    fn a_file_that_is_wrong_is_told_to_who_misses_a_device() {
        let (_folder, directories) = written(&[("static/a.yaml", CARDS), ("static/b.json", "{\"kind\": 1}")]);
        let devices = Devices::read(&directories);
        assert!(env(&devices, &["vendor.com/card=0"]).is_ok());
        let error = env(&devices, &["vendor.com/disk=0"]).unwrap_err().to_string();
        assert!(error.contains("b.json: "), "{error}");
    }
}

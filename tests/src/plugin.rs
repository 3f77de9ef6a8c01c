//! A driver of volumes as others write them: a socket, JSON over HTTP, volumes that are folders of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

#[derive(Debug, Default)]
struct State {
    /// Options by name.
    volumes: BTreeMap<String, Value>,
    /// Volume and id.
    mounts: BTreeSet<(String, String)>,
    calls: Vec<String>,
    /// A call that is never answered.
    silent: String,
    /// A call that is refused, with a reason.
    refused: String,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct VolumePlugin {
    socket: PathBuf,
    folder: PathBuf,
    state: Arc<Mutex<State>>,
}

impl VolumePlugin {
    /// At this socket, with its volumes below this folder.
    pub fn start(socket: &Path, folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder for the volumes");
        let plugin = Self { socket: socket.to_owned(), folder: folder.to_owned(), state: Arc::default() };
        plugin.listen();
        plugin
    }

    /// Is there again, and knows what it knew.
    pub fn listen(&self) {
        let listener = UnixListener::bind(&self.socket).expect("a socket for the plugin");
        let (state, folder) = (self.state.clone(), self.folder.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, folder) = (state.clone(), folder.clone());
                std::thread::spawn(move || serve(stream, &state, &folder));
            }
        });
    }

    /// Takes its socket away.
    pub fn vanish(&self) {
        std::fs::remove_file(&self.socket).expect("its socket");
    }

    pub fn folder(&self, volume: &str) -> PathBuf {
        self.folder.join(volume)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Has a volume that nobody asked it for.
    pub fn has(&self, volume: &str) {
        std::fs::create_dir_all(self.folder(volume)).expect("a volume");
        self.state().volumes.insert(volume.to_owned(), Value::Null);
    }

    pub fn volumes(&self) -> Vec<String> {
        self.state().volumes.keys().cloned().collect()
    }

    pub fn options(&self, volume: &str) -> Value {
        self.state().volumes.get(volume).cloned().unwrap_or_default()
    }

    /// Volumes and ids that were mounted and not unmounted.
    pub fn mounts(&self) -> Vec<(String, String)> {
        self.state().mounts.iter().cloned().collect()
    }

    pub fn calls(&self, name: &str) -> usize {
        self.state().calls.iter().filter(|call| *call == name).count()
    }

    /// Never answers this call; empty: answers all.
    pub fn is_silent_on(&self, call: &str) {
        self.state().silent = call.to_owned();
    }

    pub fn refuses(&self, call: &str) {
        self.state().refused = call.to_owned();
    }
}

impl Drop for VolumePlugin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(mut stream: UnixStream, state: &Mutex<State>, folder: &Path) {
    let Some((call, question)) = read(&mut stream) else { return };
    let mut state = state.lock().expect("nobody panics with it");
    state.calls.push(call.clone());
    if state.silent == call {
        drop(state);
        // Until the other side gives up.
        let _ = stream.read(&mut [0; 1]);
        return;
    }
    let answer = if state.refused == call {
        Err(format!("{call} is not to be had today"))
    } else {
        answer(&mut state, folder, &call, &question)
    };
    let (status, body) = match answer {
        Ok(body) => ("200 OK", body),
        Err(why) => ("500 Internal Server Error", json!({ "Err": why })),
    };
    let body = body.to_string();
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

fn read(stream: &mut UnixStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).ok()?;
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            if count == 0 {
                return None;
            }
            continue;
        };
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |n| n.parse().unwrap());
        if body.len() >= length {
            let call = head.split(' ').nth(1)?.trim_start_matches('/').to_owned();
            return Some((call, serde_json::from_str(body).unwrap_or_default()));
        }
    }
}

fn answer(state: &mut State, folder: &Path, call: &str, question: &Value) -> Result<Value, String> {
    let name = question["Name"].as_str().unwrap_or_default().to_owned();
    let id = question["ID"].as_str().unwrap_or_default().to_owned();
    let place = folder.join(&name);
    let known = |state: &State| match state.volumes.contains_key(&name) {
        true => Ok(()),
        false => Err(format!("no volume {name} here")),
    };
    Ok(match call {
        "Plugin.Activate" => json!({ "Implements": ["VolumeDriver"] }),
        "VolumeDriver.Capabilities" => json!({ "Capabilities": { "Scope": "global" } }),
        "VolumeDriver.Create" => {
            std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
            state.volumes.insert(name, question["Opts"].clone());
            json!({ "Err": "" })
        }
        "VolumeDriver.Remove" => {
            known(state)?;
            if state.mounts.iter().any(|(volume, _)| *volume == name) {
                return Err(format!("{name} is mounted"));
            }
            state.volumes.remove(&name);
            std::fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
            json!({})
        }
        "VolumeDriver.Mount" => {
            known(state)?;
            state.mounts.insert((name, id));
            json!({ "Mountpoint": place, "Err": null })
        }
        "VolumeDriver.Unmount" => {
            if !state.mounts.remove(&(name.clone(), id)) {
                return Err(format!("{name} is not mounted"));
            }
            json!({ "Err": "" })
        }
        "VolumeDriver.Path" => {
            known(state)?;
            json!({ "Mountpoint": place })
        }
        "VolumeDriver.Get" => {
            known(state)?;
            let created = "2026-01-02T03:04:05Z";
            json!({ "Volume": { "Name": name, "CreatedAt": created, "Status": { "shelf": 7 } } })
        }
        "VolumeDriver.List" => {
            let volumes = state.volumes.keys().map(|name| json!({ "Name": name, "Mountpoint": folder.join(name) }));
            json!({ "Volumes": volumes.collect::<Vec<_>>() })
        }
        other => return Err(format!("no call {other}")),
    })
}

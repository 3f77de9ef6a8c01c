//! The engine's answer to a build: lines to show, and what was asked to come here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread::JoinHandle;

use docker_api::own_build::{FIRST, FrameReader, MORE};
use linux::fs::Root;

use super::wish::Landing;
use crate::failure::Failure;

/// The lines of the answer, as a reader; everything else goes where it is to land while they are read.
pub(super) struct Lines<R> {
    frames: FrameReader<R>,
    left: u32,
    places: BTreeMap<u8, Place>,
}

enum Place {
    File(Box<dyn Write + Send>),
    /// A thread unpacks what is written here.
    Folder(io::PipeWriter, JoinHandle<Result<(), String>>),
    Ended,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(answer: R, landings: &[Landing]) -> Result<Self, Failure> {
        let mut places = BTreeMap::new();
        for (at, landing) in landings.iter().enumerate() {
            let number = MORE + at as u8;
            match landing {
                Landing::Store => {}
                Landing::File(name) if name == "-" => {
                    places.insert(number, Place::File(Box::new(io::stdout())));
                }
                Landing::File(name) => {
                    let file = File::create(name).map_err(|e| Failure::new(format!("make {name}: {e}")))?;
                    places.insert(number, Place::File(Box::new(io::BufWriter::new(file))));
                }
                Landing::Folder(path) => {
                    std::fs::create_dir_all(path).map_err(|e| Failure::new(format!("make {}: {e}", path.display())))?;
                    let (mut reader, writer) = io::pipe()?;
                    let path = path.clone();
                    let unpacking = std::thread::spawn(move || unpack(&path, &mut reader));
                    places.insert(number, Place::Folder(writer, unpacking));
                }
            }
        }
        Ok(Self { frames: FrameReader::new(answer), left: 0, places })
    }

    /// Whether everything that was to come has come.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let half = self.places.values().any(|place| !matches!(place, Place::Ended));
        if half { Err(Failure::new("the engine ended its answer before all outputs had come")) } else { Ok(()) }
    }

    fn land(&mut self, number: u8, length: u32) -> io::Result<()> {
        let Some(place) = self.places.get_mut(&number) else {
            return Err(io::Error::other(format!("the engine sent an output {number} that was not asked for")));
        };
        let mut payload = self.frames.payload(length);
        match place {
            Place::File(file) if length > 0 => io::copy(&mut payload, file).map(drop)?,
            // One that stopped reading says why when it is asked.
            Place::Folder(pipe, _) if length > 0 => match io::copy(&mut payload, pipe) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    io::copy(&mut payload, &mut io::sink())?;
                }
                other => drop(other?),
            },
            _ => match std::mem::replace(place, Place::Ended) {
                Place::File(mut file) => file.flush()?,
                Place::Folder(pipe, unpacking) => {
                    drop(pipe);
                    let done = unpacking.join().unwrap_or_else(|_| Err("unpacking panicked".into()));
                    done.map_err(io::Error::other)?;
                }
                Place::Ended => {}
            },
        }
        Ok(())
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            match self.frames.header()? {
                None => return Ok(0),
                Some((FIRST, length)) => self.left = length,
                Some((number, length)) => self.land(number, length)?,
            }
        }
        let count = self.frames.payload(self.left).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u32;
        Ok(count)
    }
}

/// Files of an image, in a folder of the user's: everybody's own if this is not root.
fn unpack(folder: &Path, input: &mut (dyn Read + Send)) -> Result<(), String> {
    let root = Root::open(folder).map_err(|e| e.to_string())?;
    let own = linux::cred::effective_ids();
    let rootless = own.0 != 0;
    let owner = rootless.then_some(own);
    let options = image::archive::UnpackOptions { owner, rootless, ..Default::default() };
    image::archive::unpack(&root, Path::new("/"), input, &options).map_err(|e| {
        // With its causes: which file, and why.
        let mut text = e.to_string();
        let mut cause = std::error::Error::source(&e);
        while let Some(next) = cause {
            text.push_str(&format!(": {next}"));
            cause = next.source();
        }
        text
    })
}

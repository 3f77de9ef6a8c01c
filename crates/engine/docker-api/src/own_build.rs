//! How `knarr build` speaks to `POST /build` when a tar and a query are not enough: the body and the answer are frames, as in
//! Docker's multiplexed stream (`stream, 0, 0, 0, length` and the bytes), each stream ended by an empty frame.
//!
//! The body: stream 0 is a [`Wish`] as JSON, then stream 1 the context (unless it is at an address or was brought before), then one stream for each
//! folder among [`Wish::contexts`], in the order of their names. The answer: stream 1 are lines of JSON as the classic builder
//! sends them, stream 2 and on are what [`Wish::outputs`] ask for, by their numbers.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The media type of body and answer.
pub const MEDIA_TYPE: &str = "application/vnd.knarr.build.v1";
/// Of the wish.
pub const WISH: u8 = 0;
/// Of the context, and of the lines in the answer.
pub const FIRST: u8 = 1;
/// Of the first further context, and of the first output.
pub const MORE: u8 = 2;

/// What is asked for beside the query.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wish {
    /// Bytes by id, in base64.
    pub secrets: BTreeMap<String, String>,
    /// Sockets of ssh agents on this machine, by id.
    pub ssh: BTreeMap<String, String>,
    pub contexts: BTreeMap<String, WishedContext>,
    pub outputs: Vec<Output>,
    /// The name of the folder that is the context, where it was brought before: see [`buildkit::sync`].
    pub kept: Option<String>,
    /// A Dockerfile that is not in the context.
    pub dockerfile_text: Option<String>,
    /// What the context was left without, as in a `.dockerignore`.
    pub ignore_text: Option<String>,
    /// `network.host`, `security.insecure`.
    pub allow: Vec<String>,
    /// Stages whose steps are made anew.
    pub no_cache_stages: Vec<String>,
    /// Instead of a build: `check`, `outline` or `targets`, with `,format=json` for a document.
    pub call: Option<String>,
    pub annotations: BTreeMap<String, String>,
    pub provenance: Option<Provenance>,
    /// In the form of SLSA 1.0, not 0.2.
    pub slsa_v1: bool,
    pub sbom: bool,
    pub cache_from: Vec<CachePlace>,
    pub cache_to: Vec<CachePlace>,
    /// Steps are told as they happen, not in the classic builder's order.
    pub steps: bool,
}

impl Wish {
    /// The forms that outputs and caches ask for.
    pub fn layers(&self) -> impl Iterator<Item = &Layers> {
        let outputs = self.outputs.iter().filter_map(|output| match output {
            Output::Image { layers, .. } | Output::Archive { layers, .. } => Some(layers),
            Output::Files => None,
        });
        outputs.chain(self.cache_to.iter().filter_map(|place| match place {
            CachePlace::Registry { layers, .. } | CachePlace::Local { layers, .. } => Some(layers),
            CachePlace::Inline => None,
        }))
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WishedContext {
    /// A folder that comes in a stream.
    Folder,
    /// A folder that was brought before, by its name.
    Kept(String),
    /// An OCI layout that comes in a stream: which tag or digest of it.
    Layout(String),
    Image(String),
    /// A git repository or a tar at an address.
    Remote(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Output {
    /// The image store, under the names of the query and these; also to their registries.
    Image {
        names: Vec<String>,
        push: bool,
        #[serde(default)]
        layers: Layers,
    },
    /// The files, as a tar.
    Files,
    /// An archive of the image.
    Archive {
        names: Vec<String>,
        #[serde(default)]
        layers: Layers,
    },
}

/// In which form layers leave, in the words of BuildKit's exporters: see [`build::LayerForm`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layers {
    pub compression: Option<String>,
    pub level: Option<String>,
    pub force: bool,
    /// By Docker's names instead of OCI's.
    pub docker_types: bool,
}

impl Layers {
    pub fn media(&self) -> build::MediaTypes {
        if self.docker_types { build::MediaTypes::Docker } else { build::MediaTypes::Oci }
    }

    pub fn form(&self) -> Result<build::LayerForm, String> {
        build::LayerForm::parse(self.compression.as_deref(), self.level.as_deref(), self.force)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    Min,
    Max,
}

/// Where a cache is kept outside the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum CachePlace {
    Registry {
        reference: String,
        max: bool,
        #[serde(default)]
        layers: Layers,
    },
    /// A folder of the client: it comes as the context of this name, and goes out as a further stream after the outputs.
    Local {
        context: String,
        max: bool,
        #[serde(default)]
        layers: Layers,
    },
    /// In the image itself.
    Inline,
}

/// Frames one after another.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
}

impl<R: Read> FrameReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner }
    }

    /// The next frame's stream and length; nothing at the end.
    pub fn header(&mut self) -> io::Result<Option<(u8, u32)>> {
        let mut header = [0; 8];
        let mut filled = 0;
        while filled < header.len() {
            match self.inner.read(&mut header[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let [stream, _, _, _, a, b, c, d] = header;
        Ok(Some((stream, u32::from_be_bytes([a, b, c, d]))))
    }

    /// The bytes of a frame whose header was read.
    pub fn payload(&mut self, length: u32) -> io::Take<&mut R> {
        self.inner.by_ref().take(length.into())
    }

    /// One whole stream, which has to be the next one.
    pub fn stream(&mut self, number: u8) -> StreamReader<'_, R> {
        StreamReader { frames: self, number, left: 0, ended: false }
    }
}

/// The bytes of one stream.
#[derive(Debug)]
pub struct StreamReader<'f, R> {
    frames: &'f mut FrameReader<R>,
    number: u8,
    left: u32,
    ended: bool,
}

impl<R: Read> StreamReader<'_, R> {
    /// Reads away what nobody wanted.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for StreamReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 && !self.ended {
            match self.frames.header()? {
                Some((stream, length)) if stream == self.number => {
                    (self.left, self.ended) = (length, length == 0);
                }
                Some((stream, _)) => {
                    return Err(io::Error::other(format!("stream {stream} where {} was expected", self.number)));
                }
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        if self.ended {
            return Ok(0);
        }
        let count = self.frames.payload(self.left).read(buffer)?;
        if count == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u32;
        Ok(count)
    }
}

/// One frame.
pub fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + bytes.len());
    out.extend_from_slice(&[stream, 0, 0, 0]);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

/// Writes one stream as frames. [`StreamWriter::end`] says that it is whole.
#[derive(Debug)]
pub struct StreamWriter<W> {
    inner: W,
    number: u8,
}

impl<W: Write> StreamWriter<W> {
    pub fn new(inner: W, number: u8) -> Self {
        Self { inner, number }
    }

    pub fn end(mut self) -> io::Result<()> {
        self.inner.write_all(&frame(self.number, &[]))?;
        self.inner.flush()
    }
}

impl<W: Write> Write for StreamWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let part = &bytes[..bytes.len().min(256 << 10)];
        self.inner.write_all(&frame(self.number, part))?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_come_back_and_half_ones_are_errors() {
        let mut bytes = Vec::new();
        for (number, text) in [(WISH, "wish"), (FIRST, ""), (MORE, "more")] {
            let mut writer = StreamWriter::new(&mut bytes, number);
            writer.write_all(text.as_bytes()).unwrap();
            writer.end().unwrap();
        }
        let read = |bytes: &[u8]| -> io::Result<Vec<String>> {
            let mut frames = FrameReader::new(bytes);
            [WISH, FIRST, MORE]
                .into_iter()
                .map(|number| {
                    let mut text = String::new();
                    frames.stream(number).read_to_string(&mut text)?;
                    Ok(text)
                })
                .collect()
        };
        assert_eq!(read(&bytes).unwrap(), ["wish", "", "more"]);
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        bytes[0] = 9;
        assert!(read(&bytes).unwrap_err().to_string().contains("stream 9"));
    }

    #[test]
    fn a_wish_reads_back_and_strange_ones_are_refused() {
        let wish = Wish {
            outputs: vec![
                Output::Files,
                Output::Image { names: vec!["a".into()], push: true, layers: Layers::default() },
            ],
            cache_to: vec![CachePlace::Inline],
            contexts: BTreeMap::from([("n".into(), WishedContext::Layout("1".into()))]),
            ..Wish::default()
        };
        let text = serde_json::to_string(&wish).unwrap();
        assert_eq!(serde_json::from_str::<Wish>(&text).unwrap(), wish);
        assert!(serde_json::from_str::<Wish>(r#"{"steal": true}"#).is_err());
    }
}

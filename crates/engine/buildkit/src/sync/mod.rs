//! How `knarr build` brings a folder: the packets of a session's file sync, each with its length before it, on a connection
//! of its own. The engine keeps the folder from build to build and asks only for files that have changed.
//!
//! When the engine has all it names the folder in a last `Data` packet; under that name the folder is a build's context for as
//! long as the connection is open.

mod serve;
mod walk;

use std::io::{self, Read, Write};
use std::path::Path;

use prost::Message;

use crate::wire::fsutil::{Kind, Packet};

pub(crate) use serve::Offered;

/// Bytes of one packet. Files come in pieces.
const PACKET_BYTES_MAX: usize = 4 << 20;
/// Bytes of a file in one packet.
const PIECE_BYTES: usize = 128 << 10;

/// Brings what `wanted` (path, whether it is a directory) wants of a folder; returns the name that the engine gives it.
///
/// An error of the kind `InvalidData` says that the folder has names that this protocol has no words for.
pub fn bring(
    folder: &Path,
    wanted: &dyn Fn(&str, bool) -> bool,
    input: impl Read,
    output: impl Write,
) -> io::Result<String> {
    let mut input = io::BufReader::with_capacity(64 << 10, input);
    let mut output = io::BufWriter::with_capacity(256 << 10, output);
    let files =
        walk::tell(folder, wanted, |stat| write(&mut output, &Packet { stat: Some(stat), ..Packet::of(Kind::Stat) }))?;
    write(&mut output, &Packet::of(Kind::Stat))?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        if input.buffer().is_empty() {
            output.flush()?;
        }
        let packet = read(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match Kind::try_from(packet.kind) {
            Ok(Kind::Request) => {
                let path = files.get(&packet.id).ok_or_else(|| refused("a file that nobody has told of"))?;
                let mut file = std::fs::File::open(folder.join(path))?;
                loop {
                    let count = file.read(&mut piece)?;
                    let data = bytes::Bytes::copy_from_slice(&piece[..count]);
                    write(&mut output, &Packet { id: packet.id, data, ..Packet::of(Kind::Data) })?;
                    if count == 0 {
                        break;
                    }
                }
            }
            Ok(Kind::Finish) => {
                write(&mut output, &Packet::of(Kind::Finish))?;
                output.flush()?;
            }
            Ok(Kind::Data) => return Ok(text(&packet)),
            Ok(Kind::Error) => return Err(io::Error::other(text(&packet))),
            _ => return Err(refused("a packet out of turn")),
        }
    }
}

fn text(packet: &Packet) -> String {
    String::from_utf8_lossy(&packet.data).into_owned()
}

fn refused(what: &str) -> io::Error {
    io::Error::other(format!("the engine asks for {what}"))
}

fn write(out: &mut impl Write, packet: &Packet) -> io::Result<()> {
    out.write_all(&packet.encode_length_delimited_to_vec())
}

/// Nothing at the end.
fn read(input: &mut impl io::BufRead) -> io::Result<Option<Packet>> {
    let mut head = Vec::with_capacity(10);
    loop {
        let Some(byte) = input.fill_buf()?.first().copied() else {
            return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        };
        input.consume(1);
        head.push(byte);
        if byte < 0x80 || head.len() == 10 {
            break;
        }
    }
    let length = prost::decode_length_delimiter(&head[..]).map_err(io::Error::other)?;
    if length > PACKET_BYTES_MAX {
        return Err(io::Error::other(format!("a packet of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Packet::decode(&bytes[..]).map(Some).map_err(io::Error::other)
}

//! Broken input for what this crate parses: frames and the blocks of headers in them.

use bytes::Bytes;
use spdy::{Decoder, Encoder, Frame, Headers};

fn conversation() -> Vec<u8> {
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    let headers = |kind: &str| Headers(vec![("streamtype".into(), kind.into()), ("port".into(), "8080".into())]);
    for frame in [
        Frame::Open { stream: 1, fin: true, headers: headers("error") },
        Frame::Open { stream: 3, fin: false, headers: headers("data") },
        Frame::Data { stream: 3, bytes: Bytes::from_static(b"GET / HTTP/1.0\r\n\r\n"), fin: true },
        Frame::Headers { stream: 3, fin: true },
        Frame::Reply { stream: 1, fin: false, headers: Headers::default() },
        Frame::Reset { stream: 3, status: 5 },
        Frame::Ping(1),
        Frame::GoAway,
    ] {
        encoder.write(&frame, &mut bytes);
    }
    bytes
}

/// What is said, with the pieces of data joined; how it ends.
fn read(bytes: &[u8], at_a_time: usize) -> (Vec<String>, Option<String>) {
    let (mut decoder, mut said, mut data) = (Decoder::default(), Vec::new(), (0_u32, Vec::new()));
    for piece in bytes.chunks(at_a_time) {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Err(error) => return (said, Some(error.to_string())),
                Ok(Some(Frame::Data { stream, bytes, fin })) => {
                    if data.0 != stream {
                        data = (stream, Vec::new());
                    }
                    data.1.extend_from_slice(&bytes);
                    if fin {
                        said.push(format!("{stream}: {:?}", std::mem::take(&mut data.1)));
                    }
                }
                Ok(Some(frame)) => said.push(format!("{frame:?}")),
            }
        }
    }
    (said, None)
}

#[test]
fn frames_are_the_same_however_they_arrive() {
    fuzz::Target::new("frames", env!("CARGO_MANIFEST_DIR"))
        .seed(conversation())
        .seed([0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0])
        .words([
            &[0x80, 3, 0, 1][..],
            &[0x80, 3, 0, 2],
            &[0x80, 3, 0, 8],
            &[0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2],
            &[0, 0, 0, 3],
        ])
        .run(|bytes| {
            let whole = read(bytes, bytes.len().max(1));
            assert_eq!(whole, read(bytes, 1));
            (whole.0.len(), whole.1)
        });
}

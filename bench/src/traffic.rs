//! What a path through the kernel carries, and how long a question takes on it: one program at both ends, static, so that it
//! runs inside of any image.
//!
//! `bench traffic serve PORT` answers until it is ended; `bench traffic ADDRESS` prints one JSON line. A connection begins
//! with one byte that says what it is for; an answer is a byte too, so that a figure is the path's and not the program's.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const QUESTIONS: u8 = b'q';
const SINK: u8 = b's';
const SOURCE: u8 = b'f';
/// Each stream and each kind of question is measured for so long.
const SPAN: Duration = Duration::from_millis(700);
/// As iperf3's.
const BLOCK: usize = 128 << 10;

pub fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // An error is its client's end.
        std::thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    let mut block = vec![0; BLOCK];
    match kind[0] {
        QUESTIONS => loop {
            stream.read_exact(&mut block[..1])?;
            stream.write_all(&block[..1])?;
        },
        SINK => {
            let mut taken = 0;
            loop {
                match stream.read(&mut block)? {
                    0 => break,
                    count => taken += count as u64,
                }
            }
            stream.write_all(&taken.to_be_bytes())
        }
        SOURCE => loop {
            stream.write_all(&block)?;
        },
        other => Err(io::Error::other(format!("a connection of kind {other}"))),
    }
}

pub fn measure(address: &str) -> io::Result<serde_json::Value> {
    // The server may have been started a moment ago; and a proxy in between accepts before it is there.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = open(address, QUESTIONS).and_then(|mut stream| ask(&mut stream)) {
        if Instant::now() > deadline {
            return Err(error);
        }
    }
    let mut connection = open(address, QUESTIONS)?;
    let trip = times(|| ask(&mut connection))?;
    let connect = times(|| ask(&mut open(address, QUESTIONS)?))?;
    Ok(serde_json::json!({
        "up_gbit": up(address)?, "down_gbit": down(address)?,
        "trip_us": middle(trip), "connect_us": middle(connect),
    }))
}

fn open(address: &str, kind: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn times(mut what: impl FnMut() -> io::Result<()>) -> io::Result<Vec<Duration>> {
    let begin = Instant::now();
    let mut each = Vec::new();
    while begin.elapsed() < SPAN {
        let from = Instant::now();
        what()?;
        each.push(from.elapsed());
    }
    Ok(each)
}

fn middle(mut each: Vec<Duration>) -> f64 {
    each.sort();
    each[each.len() / 2].as_secs_f64() * 1e6
}

fn gbit(bytes: u64, begin: Instant) -> f64 {
    bytes as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64()
}

/// The client sends; what counts is what the server has taken, until it says so.
fn up(address: &str) -> io::Result<f64> {
    let (mut stream, block) = (open(address, SINK)?, vec![0; BLOCK]);
    let begin = Instant::now();
    while begin.elapsed() < SPAN {
        stream.write_all(&block)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut taken = [0; 8];
    stream.read_exact(&mut taken)?;
    Ok(gbit(u64::from_be_bytes(taken), begin))
}

/// The server sends.
fn down(address: &str) -> io::Result<f64> {
    let (mut stream, mut block) = (open(address, SOURCE)?, vec![0; BLOCK]);
    let (begin, mut taken) = (Instant::now(), 0);
    while begin.elapsed() < SPAN {
        match stream.read(&mut block)? {
            0 => return Err(io::Error::other("the server ended its stream")),
            count => taken += count as u64,
        }
    }
    Ok(gbit(taken, begin))
}

//! The keeper as a process, with plain programs in the place of containers: starts, output, ends, and deaths at any moment. Needs no root.
//!
//! This program plays every part: `lifecycle keeper …` is the keeper, `lifecycle writer …` is what it starts.

mod launcher;
mod writer;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeper::client::{Config, Event, Keeper, Sink, StartRequest, Streams, Work};
use keeper::{Exited, Kind, LogDriver, LogSpec, Phase, Stdio};
use linux::process::Exit;
use tokio::sync::mpsc::UnboundedReceiver;

fn main() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|arg| arg.to_str()) {
        Some("keeper") => {
            let token = linux::clone::SingleThreaded::new().expect("one thread");
            let args = keeper::Args::parse(args.into_iter().skip(1)).expect("arguments");
            let launcher = launcher::PlainLauncher { lab: args.run.clone() };
            if let Err(error) = keeper::serve(&token, &args, &launcher) {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        // `crash POINT keeper …`: the keeper that dies at a point.
        Some("crash") => {
            let error =
                std::process::Command::new("/proc/self/exe").env("KNARR_CRASH_POINT", &args[1]).args(&args[2..]).exec();
            panic!("{error}");
        }
        Some("writer") => writer::run(&args[1..]),
        Some("flood") => writer::flood(&args[1..]),
        // Not a test: how much slower logging makes a program that writes as fast as it can.
        Some("bench") => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(bench_logging());
        }
        filter => run_tests(filter.filter(|filter| !filter.starts_with('-'))),
    }
}

macro_rules! cases {
    ($($name:ident)*) => {
        fn run_tests(filter: Option<&str>) {
            let mut failed = Vec::new();
            $(
                if filter.is_none_or(|filter| stringify!($name).contains(filter)) {
                    let started = Instant::now();
                    let result = std::panic::catch_unwind(|| {
                        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                        runtime.block_on($name());
                    });
                    clean_up();
                    println!("test {} ... {} ({:?})", stringify!($name), if result.is_ok() { "ok" } else { "FAILED" }, started.elapsed());
                    if result.is_err() {
                        failed.push(stringify!($name));
                    }
                }
            )*
            assert!(failed.is_empty(), "{failed:?}");
        }
    };
}

cases! {
    a_program_runs_and_its_end_is_told
    a_failed_start_leaves_nothing
    output_reaches_log_and_subscribers
    a_terminal_has_a_size_and_echoes
    input_ends_when_everybody_has_closed_it
    a_gated_program_waits
    a_slow_subscriber_holds_the_writer_up_and_nobody_else
    what_is_forgotten_still_delivers_what_it_said
    an_unfinished_line_is_logged_after_a_while
    an_engine_that_comes_back_finds_everything
    an_engine_of_another_build_gets_a_keeper_of_its_own
    killing_the_keeper_at_random_loses_nothing
    killing_the_keeper_at_every_point_loses_nothing
    a_keeper_that_dies_over_a_start_leaves_nothing
    a_missing_directory_stops_nobody
    a_full_disk_stops_nobody
    an_idle_keeper_ends
}

/// Run directories of the case that runs. They are cleaned up after its client has ended, which would start keepers again.
static LABS: std::sync::Mutex<Vec<PathBuf>> = std::sync::Mutex::new(Vec::new());

/// A run directory of its own.
struct Lab {
    run: PathBuf,
    command: Vec<OsString>,
}

impl Lab {
    fn new(name: &str) -> Self {
        let run = std::env::temp_dir().join(format!("knarr-keeper-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&run);
        std::fs::create_dir_all(&run).unwrap();
        LABS.lock().unwrap().push(run.clone());
        let program = std::env::current_exe().unwrap();
        Self { run, command: vec![program.into(), "keeper".into()] }
    }

    fn config(&self) -> Config {
        Config { run: self.run.clone(), command: self.command.clone() }
    }

    async fn connect(&self) -> (Keeper, Vec<keeper::client::Held>, UnboundedReceiver<Event>) {
        Keeper::connect_or_spawn(self.config()).await.unwrap()
    }

    fn log(&self, id: &str) -> LogSpec {
        LogSpec { max_size: None, ..LogSpec::json_file(self.run.join(format!("{id}.log"))) }
    }
}

/// Kills what still runs for the labs, and removes them.
fn clean_up() {
    for run in LABS.lock().unwrap().drain(..) {
        let text = std::fs::read_to_string(run.join("keeper/keeper.log")).unwrap_or_default();
        let text: String = text.lines().filter(|line| !line.starts_with("crash point")).collect();
        if !text.is_empty() {
            println!("keeper.log: {text}");
        }
        let mark = run.to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let told = |file: &str| {
                let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes)
                    .split('\0')
                    .any(|word| word.strip_prefix("KNARR_LAB=").unwrap_or(word) == mark)
            };
            if told("cmdline") || told("environ") {
                let _ = linux::process::kill(pid, 9);
            }
        }
        let _ = std::fs::remove_dir_all(&run);
    }
}

fn work(argv: &[&str]) -> Work {
    Work::raw(Kind::Container, postcard::to_allocvec(&argv).unwrap(), None)
}

fn writer(args: &[&str]) -> Work {
    let program = std::env::current_exe().unwrap();
    let mut argv = vec![program.to_str().unwrap(), "writer"];
    argv.extend(args);
    work(&argv)
}

fn request(id: &str, work: Work) -> StartRequest {
    StartRequest {
        id: id.into(),
        work,
        stdio: Stdio::Pipes { stdin: false },
        log: None,
        sinks: Vec::new(),
        gated: false,
    }
}

async fn exit_of(events: &mut UnboundedReceiver<Event>, id: &str) -> Exited {
    let wait = async {
        loop {
            match events.recv().await.expect("the client is alive") {
                Event::Exited { id: ended, exited } if ended == id => return exited,
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it ends")
}

/// Everything until the stream ends.
async fn read_all(fd: OwnedFd) -> Vec<u8> {
    let mut receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(fd).unwrap();
    let mut bytes = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut receiver, &mut bytes);
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the stream ends").unwrap();
    bytes
}

fn sink() -> (Sink, Streams) {
    Sink::new(true, true).unwrap()
}

/// The text of all records of one stream, over all files of a log.
/// Reads until what was read ends with `last`. Then nobody reads any more.
async fn read_until(fd: OwnedFd, last: &'static [u8]) {
    let read = move || {
        use std::io::Read;
        linux::pipe::set_nonblocking(&fd, false).unwrap();
        let mut pipe = std::fs::File::from(fd);
        let mut tail = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while !tail.ends_with(last) {
            let count = pipe.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "ended before {}", String::from_utf8_lossy(last));
            tail.extend_from_slice(&buffer[..count]);
            tail.drain(..tail.len().saturating_sub(last.len()));
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap();
}

fn logged(log: &LogSpec, stream: &str) -> String {
    let mut files: Vec<PathBuf> = (1..log.max_files)
        .map(|n| PathBuf::from(format!("{}.{n}", log.path.display())))
        .take_while(|path| path.exists())
        .collect();
    files.reverse();
    files.push(log.path.clone());
    let mut text = String::new();
    for file in files {
        let content = std::fs::read_to_string(&file).unwrap_or_default();
        for line in content.lines() {
            // By hand: there are millions, and the texts have no escape but the newline.
            let torn = || -> ! { panic!("{file:?}: torn record: {line}") };
            let record =
                line.strip_prefix("{\"log\":\"").filter(|line| line.ends_with("Z\"}")).unwrap_or_else(|| torn());
            let (log, rest) = record.split_once("\",\"stream\":\"").unwrap_or_else(|| torn());
            if rest.starts_with(stream) {
                let log = &*log.replace("\\r", "\r");
                match log.strip_suffix("\\n") {
                    Some(log) => text.extend([log, "\n"]),
                    None => text.push_str(log),
                }
            }
        }
    }
    text
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn a_program_runs_and_its_end_is_told() {
    let lab = Lab::new("run");
    let (keeper, held, mut events) = lab.connect().await;
    assert!(held.is_empty());
    let started = keeper.start(request("a", work(&["/bin/sh", "-c", "exit 7"]))).await.unwrap();
    assert!(started.pid > 0);
    let exited = exit_of(&mut events, "a").await;
    assert_eq!((exited.exit, exited.code()), (Some(Exit::Code(7)), 7));
    let path = lab.run.join("keeper/a.exit");
    assert!(path.exists());
    assert_eq!(keeper.recorded_exit("a"), Some(exited));
    keeper.forget("a").await.unwrap();
    assert!(!path.exists());
    keeper.forget("a").await.unwrap();
    assert!(keeper.pidfd("a").unwrap_err().kind() == vocab::ErrorKind::NotFound);

    keeper.start(request("a", work(&["/bin/sleep", "1000"]))).await.unwrap();
    let error = keeper.start(request("a", work(&["/bin/true"]))).await.unwrap_err();
    assert_eq!(error.kind(), vocab::ErrorKind::Conflict);
    assert_eq!(keeper.forget("a").await.unwrap_err().kind(), vocab::ErrorKind::Conflict);
    linux::pidfd::send_signal(keeper.pidfd("a").unwrap(), 15).unwrap();
    assert_eq!(exit_of(&mut events, "a").await.exit, Some(Exit::Signal(15)));
    for bad in ["", "../x", ".x", "a/b", "ä"] {
        let error = keeper.start(request(bad, work(&["/bin/true"]))).await.unwrap_err();
        assert_eq!(error.kind(), vocab::ErrorKind::Invalid, "{bad}");
    }
}

async fn a_failed_start_leaves_nothing() {
    let lab = Lab::new("fail");
    let (keeper, _, _events) = lab.connect().await;
    let (sink, streams) = sink();
    let mut wanted = request("a", work(&["/no/such/program"]));
    wanted.sinks.push(sink);
    let error = keeper.start(wanted).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    assert_eq!(error.kind(), vocab::ErrorKind::NotFound);
    assert!(keeper.held("a").is_none());
    assert_eq!(read_all(streams.stdout.unwrap()).await, b"");
    let pid = keeper.pids()[0];
    assert_eq!(linux::proc::children(pid).unwrap(), [] as [i32; 0]);
    keeper.start(request("a", work(&["/bin/true"]))).await.unwrap();
}

async fn output_reaches_log_and_subscribers() {
    let lab = Lab::new("output");
    let (keeper, _, mut events) = lab.connect().await;
    let (sink, streams) = sink();
    let mut wanted = request("a", work(&["/bin/sh", "-c", "echo out; echo err >&2; printf tail"]));
    wanted.log = Some(lab.log("a"));
    wanted.sinks.push(sink);
    keeper.start(wanted).await.unwrap();
    assert_eq!(read_all(streams.stdout.unwrap()).await, b"out\ntail");
    assert_eq!(read_all(streams.stderr.unwrap()).await, b"err\n");
    exit_of(&mut events, "a").await;
    assert_eq!(logged(&lab.log("a"), "stdout"), "out\ntail");
    assert_eq!(logged(&lab.log("a"), "stderr"), "err\n");

    let mut wanted = request("cri", work(&["/bin/sh", "-c", "echo out; printf tail"]));
    wanted.log = Some(LogSpec { driver: LogDriver::Cri, ..lab.log("cri") });
    keeper.start(wanted).await.unwrap();
    exit_of(&mut events, "cri").await;
    let text = std::fs::read_to_string(lab.run.join("cri.log")).unwrap();
    let fields: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(4, ' ').skip(1).collect()).collect();
    assert_eq!(fields, [["stdout", "F", "out"], ["stdout", "F", "tail"]]);

    // Without a log and without a reader it does not block either.
    keeper.start(request("lots", writer(&["lots", "200000", "0"]))).await.unwrap();
    assert_eq!(exit_of(&mut events, "lots").await.code(), 0);
}

async fn a_terminal_has_a_size_and_echoes() {
    let lab = Lab::new("tty");
    let (keeper, _, mut events) = lab.connect().await;
    let (sink, streams) = sink();
    let mut wanted = request("a", work(&["/bin/sh", "-c", "stty size; read line; echo got $line; stty size"]));
    wanted.stdio = Stdio::Tty { rows: 20, cols: 70 };
    wanted.log = Some(lab.log("a"));
    wanted.sinks.push(sink);
    let started = keeper.start(wanted).await.unwrap();
    until("the first line", || logged(&lab.log("a"), "stdout").contains("20 70")).await;
    keeper.resize("a", 33, 99).unwrap();
    linux::pipe::write(started.tty.as_ref().unwrap(), b"hello\n").unwrap();
    drop(started);
    let text = read_all(streams.stdout.unwrap()).await;
    assert_eq!(String::from_utf8_lossy(&text), "20 70\r\nhello\r\ngot hello\r\n33 99\r\n");
    assert_eq!(read_all(streams.stderr.unwrap()).await, b"");
    exit_of(&mut events, "a").await;
    assert_eq!(logged(&lab.log("a"), "stdout").as_bytes(), text);
    assert_eq!(keeper.resize("a", 1, 1).is_ok(), keeper.stdin("a").unwrap().is_some());
}

async fn input_ends_when_everybody_has_closed_it() {
    let lab = Lab::new("stdin");
    let (keeper, _, mut events) = lab.connect().await;
    let (sink, streams) = sink();
    let mut wanted = request("a", work(&["/bin/cat"]));
    wanted.stdio = Stdio::Pipes { stdin: true };
    wanted.sinks.push(sink);
    let started = keeper.start(wanted).await.unwrap();
    linux::pipe::write(started.stdin.as_ref().unwrap(), b"hello").unwrap();
    drop(started);
    assert!(keeper.stdin("a").unwrap().is_some());
    keeper.close_stdin("a").await.unwrap();
    assert_eq!(read_all(streams.stdout.unwrap()).await, b"hello");
    assert_eq!(exit_of(&mut events, "a").await.code(), 0);
    assert!(keeper.stdin("a").unwrap().is_none());
}

async fn a_gated_program_waits() {
    let lab = Lab::new("gate");
    let (keeper, _, mut events) = lab.connect().await;
    let mark = lab.run.join("mark");
    let mut wanted = request("a", work(&["/bin/sh", "-c", &format!("echo > {}", mark.display())]));
    wanted.gated = true;
    let started = keeper.start(wanted).await.unwrap();
    assert_eq!(keeper.held("a").unwrap().phase, Phase::Gated);
    assert!(!mark.exists());
    keeper.release("a").await.unwrap();
    assert_eq!(exit_of(&mut events, "a").await.code(), 0);
    assert!(mark.exists());
    assert!(keeper.release("a").await.is_err());
    drop(started);

    let mut wanted = request("b", work(&["/no/such/program"]));
    wanted.gated = true;
    keeper.start(wanted).await.unwrap();
    let error = keeper.release("b").await.unwrap_err();
    assert_eq!(error.kind(), vocab::ErrorKind::NotFound);
    assert!(keeper.held("b").is_none());
}

async fn a_slow_subscriber_holds_the_writer_up_and_nobody_else() {
    let lab = Lab::new("slow");
    let (keeper, _, mut events) = lab.connect().await;
    let (slow, slow_streams) = sink();
    let mut wanted = request("a", writer(&["a", "100000", "0"]));
    wanted.log = Some(lab.log("a"));
    wanted.sinks.push(slow);
    keeper.start(wanted).await.unwrap();
    // Nobody reads: the writer stands still, another one does not.
    keeper.start(request("b", writer(&["b", "100000", "0"]))).await.unwrap();
    exit_of(&mut events, "b").await;
    assert_eq!(keeper.held("a").unwrap().phase, Phase::Running);
    let text = read_all(slow_streams.stdout.unwrap()).await;
    writer::check("a", "stdout", 100_000, &String::from_utf8(text).unwrap());
    drop(slow_streams.stderr);
    exit_of(&mut events, "a").await;
    writer::check("a", "stdout", 100_000, &logged(&lab.log("a"), "stdout"));

    // A subscriber that goes away releases the writer.
    let (gone, gone_streams) = sink();
    let mut wanted = request("c", writer(&["c", "100000", "0"]));
    wanted.sinks.push(gone);
    keeper.start(wanted).await.unwrap();
    drop(gone_streams);
    exit_of(&mut events, "c").await;
}

async fn what_is_forgotten_still_delivers_what_it_said() {
    const LINES: u64 = 10_000;
    let lab = Lab::new("forgotten");
    let (keeper, _, mut events) = lab.connect().await;
    let (slow, slow_streams) = sink();
    let lines = LINES.to_string();
    let mut wanted = request("a", writer(&["a", &lines, "0"]));
    wanted.log = Some(lab.log("a"));
    wanted.sinks.push(slow);
    keeper.start(wanted).await.unwrap();
    // More than the subscriber's pipe takes, and it all fits into the program's own: nobody has read when it ends.
    exit_of(&mut events, "a").await;
    keeper.forget("a").await.unwrap();
    // Its id is free at once.
    let (next, next_streams) = sink();
    let mut wanted = request("a", writer(&["next", "1", "0"]));
    wanted.sinks.push(next);
    keeper.start(wanted).await.unwrap();
    let text = read_all(next_streams.stdout.unwrap()).await;
    writer::check("next", "stdout", 1, &String::from_utf8(text).unwrap());
    exit_of(&mut events, "a").await;
    let text = read_all(slow_streams.stdout.unwrap()).await;
    assert!(text.len() > 64 * 1024, "a pipe holds all of {} bytes", text.len());
    writer::check("a", "stdout", LINES, &String::from_utf8(text).unwrap());
    writer::check("a", "stdout", LINES, &logged(&lab.log("a"), "stdout"));
}

async fn an_unfinished_line_is_logged_after_a_while() {
    let lab = Lab::new("tail");
    let (keeper, _, mut events) = lab.connect().await;
    let (sink, streams) = sink();
    let mut wanted = request("a", work(&["/bin/sh", "-c", "printf 'name? '; read name; echo hi $name"]));
    wanted.stdio = Stdio::Pipes { stdin: true };
    wanted.log = Some(lab.log("a"));
    wanted.sinks.push(sink);
    let started = keeper.start(wanted).await.unwrap();
    // The subscriber has it at once.
    let out = streams.stdout.unwrap();
    let mut buf = [0; 16];
    until("the prompt", || linux::pipe::read(&out, &mut buf).is_ok()).await;
    assert_eq!(&buf[..6], b"name? ");
    until("the prompt in the log", || logged(&lab.log("a"), "stdout") == "name? ").await;
    linux::pipe::write(started.stdin.as_ref().unwrap(), b"x\n").unwrap();
    assert_eq!(read_all(out).await, b"hi x\n");
    exit_of(&mut events, "a").await;
    assert_eq!(logged(&lab.log("a"), "stdout"), "name? hi x\n");
}

async fn an_engine_that_comes_back_finds_everything() {
    let lab = Lab::new("back");
    let (keeper, _, events) = lab.connect().await;
    let pid = keeper.pids()[0];
    let mut wanted = request("a", writer(&["a", "300000", "0"]));
    wanted.log = Some(lab.log("a"));
    let first = keeper.start(wanted).await.unwrap();
    keeper.start(request("quick", work(&["/bin/sh", "-c", "exit 3"]))).await.unwrap();
    drop((keeper, events, first.pidfd));
    // The handle is gone but its task lives on: a second engine beside it sees the same.
    let (keeper, held, mut events) = lab.connect().await;
    assert_eq!(keeper.pids(), [pid]);
    let a = held.iter().find(|held| held.id == "a").unwrap();
    assert_eq!((a.pid, a.start_time), (first.pid, first.start_time));
    until("the end of quick", || matches!(keeper.held("quick").unwrap().phase, Phase::Ended(e) if e.code() == 3)).await;
    exit_of(&mut events, "a").await;
    writer::check("a", "stdout", 300_000, &logged(&lab.log("a"), "stdout"));
}

async fn an_engine_of_another_build_gets_a_keeper_of_its_own() {
    let lab = Lab::new("build");
    let (old, _, _old_events) = lab.connect().await;
    old.start(request("a", work(&["/bin/sleep", "1000"]))).await.unwrap();
    // Another file is another build.
    let copy = lab.run.join("newer");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let config = Config { run: lab.run.clone(), command: vec![copy.into(), "keeper".into()] };
    let (new, held, mut events) = Keeper::connect_or_spawn(config).await.unwrap();
    assert_eq!(new.pids().len(), 2);
    assert_eq!(held.len(), 1);
    new.start(request("b", work(&["/bin/sleep", "1000"]))).await.unwrap();
    let (old_keeper, new_keeper) = (old.pids()[0], new.pids()[0]);
    assert_eq!(linux::proc::stat(new.held("b").unwrap().pid).unwrap().ppid, new_keeper);
    for id in ["a", "b"] {
        linux::pidfd::send_signal(new.pidfd(id).unwrap(), 9).unwrap();
        exit_of(&mut events, id).await;
        new.forget(id).await.unwrap();
    }
    // The old one has nothing left and ends.
    let gone = || !Path::new(&format!("/proc/{old_keeper}")).exists();
    until("the old keeper's end", gone).await;
    until("only the new one", || new.pids() == [new_keeper]).await;
}

async fn bench_logging() {
    const BYTES: &str = "1000000000";
    let lab = Lab::new("bench");
    let (keeper, _, mut events) = lab.connect().await;
    let program = std::env::current_exe().unwrap();
    for line in ["20", "100", "1000"] {
        for round in 0..3 {
            let mut seconds = Vec::new();
            for (name, log) in [
                ("none", None),
                ("json-file", Some(LogSpec::json_file(lab.run.join("json.log")))),
                ("cri", Some(LogSpec { driver: LogDriver::Cri, ..LogSpec::json_file(lab.run.join("cri.log")) })),
            ] {
                let mut wanted = request(name, work(&[program.to_str().unwrap(), "flood", BYTES, line]));
                wanted.log = log;
                let started = Instant::now();
                keeper.start(wanted).await.unwrap();
                exit_of(&mut events, name).await;
                seconds.push(started.elapsed().as_secs_f64());
                keeper.forget(name).await.unwrap();
            }
            println!(
                "lines of {line}, round {round}: none {:.2} s, json-file {:.2} s, cri {:.2} s",
                seconds[0], seconds[1], seconds[2]
            );
        }
    }
    let pid = keeper.pids()[0];
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    println!("keeper after it: {}", memory.lines().find(|line| line.starts_with("Pss:")).unwrap());
}

struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = match std::env::var("KNARR_SEED") {
            Ok(seed) => seed.parse().expect("a number"),
            Err(_) => linux::process::wall_clock().1.into(),
        };
        println!("KNARR_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

async fn killing_the_keeper_at_random_loses_nothing() {
    const WRITERS: usize = 4;
    let kills: u64 = std::env::var("KNARR_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    let lab = Lab::new("kill");
    let mut random = Random::new();
    let (keeper, _, mut events) = lab.connect().await;
    let mut pids = Vec::new();
    for n in 0..WRITERS {
        let id = format!("w{n}");
        let mut log = lab.log(&id);
        if n % 2 == 1 {
            // Rotation while the keeper is killed, with room for every file.
            log.max_size = Some(3_000_000);
            log.max_files = 1000;
        }
        // Runs until it is told to stop.
        let mut wanted = request(&id, writer(&[&id, "0", "1"]));
        wanted.log = Some(log);
        pids.push(keeper.start(wanted).await.unwrap().pid);
    }
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_micros(random.below(30_000))).await;
        let victim = keeper.pids()[0];
        linux::process::kill(victim, 9).unwrap();
        let replaced = async {
            loop {
                if let Some(Event::Replaced { pid }) = events.recv().await {
                    return pid;
                }
            }
        };
        let next =
            tokio::time::timeout(Duration::from_secs(20), replaced).await.unwrap_or_else(|_| panic!("kill {kill}"));
        assert_ne!(next, victim);
    }
    for (n, pid) in pids.iter().enumerate() {
        let held = keeper.held(&format!("w{n}")).unwrap();
        assert_eq!((held.pid, held.phase), (*pid, Phase::Running));
    }
    // All of them before the first log is read: who goes on writing meanwhile may fill more files than are kept.
    for n in 0..WRITERS {
        linux::pidfd::send_signal(keeper.pidfd(&format!("w{n}")).unwrap(), 10).unwrap();
    }
    let mut exits = BTreeMap::new();
    while exits.len() < WRITERS {
        let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await.expect("all end");
        if let Event::Exited { id, exited } = event.expect("the client is alive") {
            exits.insert(id, exited.exit);
        }
    }
    let mut total = 0;
    for n in 0..WRITERS {
        let id = format!("w{n}");
        assert_eq!(exits[&id], Some(Exit::Code(42)), "{id}");
        let mut log = lab.log(&id);
        log.max_files = 1000;
        for stream in ["stdout", "stderr"] {
            total += writer::check_all(&id, stream, &logged(&log, stream));
        }
    }
    println!("{kills} kills, {total} lines, none lost, none doubled");
}

async fn killing_the_keeper_at_every_point_loses_nothing() {
    let points = [
        "keeper.log.before_intent:3",
        "keeper.log.intended:3",
        "keeper.log.appended:3",
        "keeper.log.consumed:3",
        "keeper.log.done:3",
        "keeper.log.rotate:2",
        "keeper.log.rotated:2",
    ];
    for point in points {
        let mut lab = Lab::new(&format!("point-{point}"));
        let program = std::env::current_exe().unwrap();
        lab.command = vec![program.into(), "crash".into(), point.into(), "keeper".into()];
        let (keeper, _, mut events) = lab.connect().await;
        let log = LogSpec { max_size: Some(400_000), max_files: 1000, ..lab.log("a") };
        let mut wanted = request("a", writer(&["a", "120000", "0"]));
        wanted.log = Some(log.clone());
        let started = keeper.start(wanted).await.unwrap();
        let mut deaths = 0;
        let exited = loop {
            match tokio::time::timeout(Duration::from_secs(60), events.recv()).await.expect(point).unwrap() {
                Event::Replaced { .. } => deaths += 1,
                Event::Exited { exited, .. } => break exited,
                Event::Lost { .. } => {}
            }
        };
        assert_eq!(exited.exit, Some(Exit::Code(0)), "{point}");
        assert!(deaths > 0, "{point}: it never died");
        // What the keeper had not yet moved when the writer ended is moved by the next one, who may die over it as well.
        until(point, || logged(&log, "stdout").ends_with(" 0000119999\n")).await;
        writer::check("a", "stdout", 120_000, &logged(&log, "stdout"));
        assert_eq!(keeper.held("a").unwrap().pid, started.pid);
        println!("  {point}: {deaths} deaths");
    }
}

async fn a_keeper_that_dies_over_a_start_leaves_nothing() {
    for point in [
        "keeper.start.before_clone",
        "keeper.start.cloned",
        "keeper.start.told",
        "keeper.start.before_gate",
        "keeper.start.before_answer",
    ] {
        let mut lab = Lab::new(&format!("point-{point}"));
        let program = std::env::current_exe().unwrap();
        lab.command = vec![program.into(), "crash".into(), point.into(), "keeper".into()];
        let (keeper, _, _events) = lab.connect().await;
        let mark = format!("knarr-orphan-{}", std::process::id());
        let error = keeper.start(request("a", work(&["/bin/sh", "-c", "sleep 1000", &mark]))).await.unwrap_err();
        assert_eq!(error.kind(), vocab::ErrorKind::Unavailable, "{point}");
        assert!(keeper.held("a").is_none(), "{point}");
        until("no orphan", || !somebody_runs(&mark)).await;
    }
}

fn somebody_runs(mark: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())
            && std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.split(|b| *b == 0).any(|arg| arg == mark.as_bytes()))
    })
}

/// A tmpfs that goes with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let disk = linux::mount::new_fs("tmpfs", None, &[size], linux::mount::MountAttr::empty()).unwrap();
        linux::mount::attach_at(disk, &path).unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        linux::mount::unmount_lazily(&self.0).unwrap();
    }
}

async fn a_full_disk_stops_nobody() {
    if linux::cred::effective_ids().0 != 0 {
        eprintln!("SKIPPED: a_full_disk_stops_nobody mounts a tmpfs, which needs root");
        return;
    }
    let lab = Lab::new("really-full");
    let (keeper, _, mut events) = lab.connect().await;
    let disk = SmallDisk::new(lab.run.join("disk"), "size=2m");
    let log = LogSpec { max_size: None, ..LogSpec::json_file(disk.0.join("a.log")) };
    let go = lab.run.join("go");
    let script = format!("seq 1 100000; while [ ! -e {} ]; do sleep 0.01; done; echo after", go.display());
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let mut wanted = request("a", work(&["/bin/sh", "-c", &script]));
    wanted.log = Some(log.clone());
    let (sink, streams) = sink();
    wanted.sinks.push(sink);
    let started = keeper.start(wanted).await.unwrap();
    // The keeper has had the last of them in its hands: what comes now is a batch of its own.
    read_until(streams.stdout.unwrap(), b"\n100000\n").await;
    // The shell gets through its numbers to the loop although their records do not fit.
    until("the loop", || seq_is_done(started.pid)).await;
    std::fs::remove_file(&ballast).unwrap();
    std::fs::write(&go, "").unwrap();
    exit_of(&mut events, "a").await;
    check_told(&log);
}

/// Of the numbers up to 100,000 what is there is in order and whole, and what is not there is told of.
fn check_told(log: &LogSpec) {
    let text = logged(log, "stdout");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"after"));
    let numbers: Vec<u64> = lines[..lines.len() - 1].iter().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
    let marker = logged(log, "stderr");
    let told = |line: &str| line.split_whitespace().nth(1).expect("a marker").parse::<u64>().unwrap();
    let dropped: u64 = marker.lines().map(told).sum();
    assert_eq!(numbers.len() as u64 + dropped, 100_000, "{marker}");
    assert!(dropped > 0);
}

/// The shell has gone on to its waiting loop: its child, if any, is a `sleep`.
fn seq_is_done(pid: i32) -> bool {
    linux::proc::children(pid)
        .unwrap_or_default()
        .iter()
        .any(|child| std::fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "sleep"))
}

/// The log's directory is missing for a while.
async fn a_missing_directory_stops_nobody() {
    let lab = Lab::new("full");
    let (keeper, _, mut events) = lab.connect().await;
    let dir = lab.run.join("later");
    let log = LogSpec { max_size: None, ..LogSpec::json_file(dir.join("a.log")) };
    let go = lab.run.join("go");
    let script = format!("seq 1 100000; while [ ! -e {} ]; do sleep 0.01; done; echo after", go.display());
    let mut wanted = request("a", work(&["/bin/sh", "-c", &script]));
    wanted.log = Some(log.clone());
    let (sink, streams) = sink();
    wanted.sinks.push(sink);
    let started = keeper.start(wanted).await.unwrap();
    // All of it is taken although nothing can be written.
    read_until(streams.stdout.unwrap(), b"\n100000\n").await;
    until("the loop", || seq_is_done(started.pid)).await;
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(&go, "").unwrap();
    exit_of(&mut events, "a").await;
    check_told(&log);
}

async fn an_idle_keeper_ends() {
    let lab = Lab::new("idle");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let config = lab.config();
    let pid = tokio::task::spawn_blocking(move || {
        let pid = runtime.block_on(async { Keeper::connect_or_spawn(config).await.unwrap().0.pids()[0] });
        // With the runtime its tasks end: this engine is gone.
        runtime.shutdown_background();
        pid
    })
    .await
    .unwrap();
    let memory = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let pss = memory.lines().find(|line| line.starts_with("Pss:")).unwrap().to_owned();
    println!("idle keeper {}", pss.split_whitespace().collect::<Vec<_>>().join(" "));
    until("its end", || !Path::new(&format!("/proc/{pid}")).exists()).await;
    assert!(!lab.run.join("keeper/1.sock").exists());
}

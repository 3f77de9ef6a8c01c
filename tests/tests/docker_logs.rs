//! Log drivers: what receivers get, what `docker logs` shows, and that no receiver holds up a container.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use blackbox::{World, eventually, is_root};

/// How long a receiver waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn world() -> Option<World> {
    (is_root() && std::process::Command::new("docker").arg("--version").output().is_ok()).then(World::start)
}

fn run<'a>(world: &World, flags: &[&'a str], rest: &[&'a str]) -> blackbox::Answer {
    world.docker(["run", "--network", "none"].iter().chain(flags).chain(&["busybox"]).chain(rest))
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let count = socket.recv(&mut buffer).expect("a message in time");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[test]
fn syslog_gets_every_line_of_a_short_life_with_its_tag() {
    let Some(world) = world() else { return };
    let path = world.dir().join("log.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("syslog-address=unixgram://{}", path.display());
    let flags =
        ["--rm", "--log-driver", "syslog", "--log-opt", &address, "--log-opt", "tag={{.Name}}", "--name", "web"];
    run(&world, &flags, &["sh", "-c", "echo out; echo err >&2"]).success().stdout("out\n").stderr("err\n");
    let mut got = [receive(&socket), receive(&socket)];
    // The two streams are two pipes: their order is nobody's promise.
    got.sort();
    assert!(got[0].starts_with("<27>") && got[0].contains(" web[") && got[0].ends_with("]: err\n"), "{got:?}");
    assert!(got[1].starts_with("<30>") && got[1].ends_with("]: out\n"), "{got:?}");

    // Over TCP; and `logs` reads the lines all the same, unless that was switched off.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("syslog-address=tcp://{}", listener.local_addr().unwrap());
    let modern = ["--log-opt", "syslog-format=rfc5424", "--log-opt", "syslog-facility=local0"];
    let flags = ["--log-driver", "syslog", "--log-opt", &address, "--name", "tcp"];
    run(&world, &[&flags[..], &modern].concat(), &["echo", "over tcp"]).success();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1);
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    assert!(line.starts_with("<134>1 ") && line.ends_with(" - over tcp\n"), "{line}");
    world.docker(["logs", "tcp"]).success().stdout("over tcp\n");
    assert_eq!(world.docker(["inspect", "-f", "{{.HostConfig.LogConfig.Type}} {{.LogPath}}", "tcp"]).text(), "syslog ");
    let flags =
        ["-d", "--log-driver", "syslog", "--log-opt", &address, "--log-opt", "cache-disabled=true", "--name", "blind"];
    run(&world, &flags, &["true"]).success();
    world.docker(["logs", "blind"]).exits(1).stderr_has("configured logging driver does not support reading");
}

#[test]
fn gelf_and_fluentd_get_their_messages() {
    let Some(world) = world() else { return };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("gelf-address=udp://{}", socket.local_addr().unwrap());
    let flags = [
        "--rm",
        "--log-driver",
        "gelf",
        "--log-opt",
        &address,
        "--log-opt",
        "gelf-compression-type=none",
        "--log-opt",
        "labels=tier",
        "--label",
        "tier=db",
        "--name",
        "gelf",
    ];
    run(&world, &flags, &["echo", "hello"]).success();
    let mut buffer = [0; 4096];
    let count = socket.recv(&mut buffer).unwrap();
    let message: serde_json::Value = serde_json::from_slice(&buffer[..count]).unwrap();
    assert_eq!(message["short_message"], "hello");
    assert_eq!(message["_container_name"], "gelf");
    assert_eq!(message["_tier"], "db");
    assert_eq!(message["level"], 6);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("fluentd-address={}", listener.local_addr().unwrap());
    let flags = ["--rm", "--log-driver", "fluentd", "--log-opt", &address, "--log-opt", "tag=app.log"];
    run(&world, &flags, &["echo", "hello"]).success();
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\xa3log\xa5hello") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&got));
        got.push(byte[0]);
    }
    assert!(got.starts_with(b"\x93\xa7app.log\xd3"), "{got:?}");
}

#[test]
fn a_receiver_that_is_away_holds_up_nobody_and_gets_everything_later() {
    let Some(mut world) = world() else { return };
    let path = world.dir().join("away.sock");
    let address = format!("fluentd-address=unix://{}", path.display());
    // Far more than any pipe or socket holds; the container ends at its own pace.
    let flags = ["--log-driver", "fluentd", "--log-opt", &address, "--name", "busy"];
    run(&world, &flags, &["seq", "20000"]).success();
    world.end_engine(rustix::process::Signal::KILL);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    world.start_engine(&[]);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 65536];
    while !got.ends_with(b"\xa3log\xa520000") {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0);
        got.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(got.windows(5).filter(|w| *w == b"\xa3log\xa1").count(), 9);
    assert_eq!(got.windows(5).filter(|w| *w == b"\xa3log\xa5").count(), 10001);
    world.docker(["rm", "busy"]).success();
}

#[test]
fn options_are_checked_and_details_are_shown() {
    let Some(world) = world() else { return };
    for (flags, why) in [
        (&["--log-driver", "splunk"][..], "logger: no log driver named 'splunk' is registered"),
        (&["--log-driver", "syslog", "--log-opt", "nope=1"], "unknown log opt 'nope' for syslog log driver"),
        (&["--log-driver", "gelf"], "gelf-address is a required parameter"),
        (&["--log-driver", "syslog", "--log-opt", "syslog-address=tcp+tls://h"], "syslog over TLS is not supported"),
        (&["--log-driver", "local", "--log-opt", "compress=true"], "compressed log files are not supported"),
    ] {
        run(&world, flags, &["true"]).exits(125).stderr_has(why);
    }
    let flags =
        ["--name", "de", "--label", "a=x y", "--env", "B=2", "--log-opt", "labels=a", "--log-opt", "env-regex=^B"];
    run(&world, &flags, &["echo", "line"]).success();
    world.docker(["logs", "--details", "de"]).success().stdout("B=2,a=x+y line\n");
    world.docker(["logs", "de"]).success().stdout("line\n");
    run(&world, &["--log-driver", "local", "--name", "lo"], &["echo", "local"]).success();
    world.docker(["logs", "lo"]).success().stdout("local\n");
    assert_eq!(world.docker(["inspect", "-f", "{{.LogPath}}", "lo"]).text(), "");
    run(&world, &["--log-driver", "none", "--name", "no"], &["echo", "none"]).success().stdout("none\n");
    world.docker(["logs", "no"]).exits(1).stderr_has("configured logging driver does not support reading");
    assert!(world.docker(["info", "-f", "{{.Plugins.Log}}"]).text().contains("fluentd gelf journald json-file local"));
}

#[test]
fn logs_since_until_tail_and_follow() {
    let Some(world) = world() else { return };
    let script = "echo one; while [ ! -e /go ]; do sleep 0.05; done; echo two; while [ ! -e /end ]; do sleep 0.05; done; echo three";
    run(&world, &["-d", "--name", "lg"], &["sh", "-c", script]).success();
    eventually("the first line is there", || world.docker(["logs", "lg"]).text() == "one");
    let stamped = world.docker(["logs", "-t", "lg"]).text();
    let first = stamped.split(' ').next().unwrap().to_owned();
    world.docker(["exec", "lg", "touch", "/go"]).success();
    eventually("the second line is there", || world.docker(["logs", "lg"]).text() == "one\ntwo");
    world.docker(["logs", "--until", &first, "lg"]).success().stdout("one\n");
    world.docker(["logs", "--tail", "1", "lg"]).success().stdout("two\n");
    world.docker(["logs", "--tail", "0", "lg"]).success().stdout("");
    world.docker(["logs", "--since", "1h", "lg"]).success().stdout("one\ntwo\n");
    let second = world.docker(["logs", "-t", "--tail", "1", "lg"]).text().split(' ').next().unwrap().to_owned();
    world.docker(["logs", "--since", &second, "lg"]).success().stdout("two\n");
    let mut follow = world.docker_command();
    follow.args(["logs", "-f", "--tail", "1", "lg"]).stdout(std::process::Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    let mut output = follow.stdout.take().unwrap();
    let mut seen = [0; 4];
    output.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"two\n");
    world.docker(["exec", "lg", "touch", "/end"]).success();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "three\n");
    assert!(follow.wait().unwrap().success());
    std::io::stderr().flush().unwrap();
}

//! Containers with a terminal: what a person at a keyboard has.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use blackbox::{World, eventually, is_root};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// A program at a terminal of its own, and what it has shown so far.
struct Screen {
    master: OwnedFd,
    child: Child,
    shown: String,
    arriving: Receiver<Vec<u8>>,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Screen {
    fn start(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("open a terminal");
        unlockpt(&master).expect("unlock the terminal");
        tcsetwinsize(&master, size(30, 100)).expect("size the terminal");
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("open its other side");
        let part = || slave.try_clone().expect("duplicate a descriptor");
        command.stdin(part()).stdout(part()).stderr(part());
        let child = command.spawn().expect("start the program");
        drop((command, slave));
        let mut from = File::from(master.try_clone().expect("duplicate a descriptor"));
        let (send, arriving) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO: nobody has the other side any more.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { master, child, shown: String::new(), arriving }
    }

    fn type_in(&mut self, text: &str) {
        rustix::io::write(&self.master, text.as_bytes()).expect("type");
    }

    /// Waits until the text has been shown since the last wait.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.shown.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arriving.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(problem) => panic!("{text:?} is not shown ({problem}): {:?}", self.shown),
            }
        }
        let end = self.shown.find(text).expect("it was just seen") + text.len();
        self.shown.drain(..end);
    }

    /// Waits until the client reads keys one by one: what is typed earlier is line-buffered by the kernel.
    fn wait_until_raw(&self) {
        eventually("the terminal is in raw mode", || {
            let modes = tcgetattr(&self.master).expect("read the terminal's modes");
            !modes.local_modes.contains(rustix::termios::LocalModes::ICANON)
        });
    }

    fn code(&mut self) -> Option<i32> {
        eventually("the program has ended", || self.child.try_wait().expect("look after it").is_some());
        self.child.wait().expect("it has ended").code()
    }

    fn is_cooked(&self) -> bool {
        tcgetattr(&self.master).is_ok_and(|modes| modes.local_modes.contains(rustix::termios::LocalModes::ICANON))
    }
}

fn at(world: &World, words: &[&str]) -> Screen {
    let mut command = world.knarr_command();
    command.args(words);
    Screen::start(command)
}

#[test]
fn a_shell_has_the_size_of_the_window_and_follows_it() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let mut screen = at(&world, &["run", "-it", "--rm", "busybox", "sh"]);
    screen.wait_until_raw();
    screen.type_in("stty size\r");
    screen.wait_for("30 100");
    tcsetwinsize(&screen.master, size(40, 120)).expect("size the terminal");
    // Without a controlling terminal the kernel tells nobody; a window manager's terminal would have.
    let pid = rustix::process::Pid::from_child(&screen.child);
    rustix::process::kill_process(pid, rustix::process::Signal::WINCH).expect("tell the client");
    // The size travels as a request of its own: ask until it has arrived.
    screen.type_in("until [ \"$(stty size)\" = '40 120' ]; do usleep 10000; done; echo fol''lowed\r");
    screen.wait_for("followed");
    screen.type_in("tty; exit 5\r");
    screen.wait_for("/dev/pts/0");
    assert_eq!(screen.code(), Some(5));
    assert!(screen.is_cooked(), "the terminal is as it was");
}

#[test]
fn the_detach_keys_leave_the_container_running() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let mut screen = at(&world, &["run", "-it", "--name", "kept", "busybox", "sh"]);
    screen.wait_until_raw();
    screen.type_in("x=remembered; echo re''ady\r");
    screen.wait_for("ready");
    screen.type_in("\x10\x11");
    assert_eq!(screen.code(), Some(0));
    assert!(screen.is_cooked(), "the terminal is as it was");
    world.knarr(["inspect", "-f", "{{.State.Running}}", "kept"]).success().stdout("true\n");
    let mut screen = at(&world, &["attach", "--detach-keys", "ctrl-a,d", "kept"]);
    screen.wait_until_raw();
    screen.type_in("echo $x\r");
    screen.wait_for("remembered\r\n");
    screen.type_in("\x01d");
    assert_eq!(screen.code(), Some(1));
    screen.wait_for("read escape sequence");
    let mut screen = at(&world, &["exec", "-it", "kept", "sh"]);
    screen.wait_until_raw();
    screen.type_in("exit 4\r");
    assert_eq!(screen.code(), Some(4));
}

#[test]
fn control_c_reaches_the_process() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do usleep 10000; done";
    let mut screen = at(&world, &["run", "-it", "--rm", "busybox", "sh", "-c", script]);
    screen.wait_for("ready");
    screen.wait_until_raw();
    screen.type_in("\x03");
    screen.wait_for("interrupted");
    assert_eq!(screen.code(), Some(9));
    // Without a terminal of its own the client hands its signals on.
    let mut screen = at(&world, &["run", "--rm", "busybox", "sh", "-c", script]);
    screen.wait_for("ready");
    let pid = rustix::process::Pid::from_child(&screen.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal the client");
    screen.wait_for("interrupted");
    assert_eq!(screen.code(), Some(9));
}

#[test]
fn a_terminal_is_not_given_where_there_is_none() {
    if !is_root() {
        return;
    }
    let world = World::start();
    world.knarr(["run", "-it", "--rm", "busybox", "true"]).exits(1).stderr_has("the input device is not a TTY");
    world.knarr(["run", "-t", "--rm", "busybox", "tty"]).success().stdout("/dev/pts/0\r\n");
}

#[test]
fn what_is_piped_in_and_out_is_not_changed() {
    if !is_root() {
        return;
    }
    let world = World::start();
    let every_byte: Vec<u8> = (0..=255u8).cycle().take(100_000).collect();
    let mut command = world.knarr_command();
    command.args(["run", "-i", "--rm", "busybox", "cat"]);
    let answer = blackbox::finish(command, &every_byte).success();
    assert!(answer.stdout == every_byte, "{} bytes came back", answer.stdout.len());
}

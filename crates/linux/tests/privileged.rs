//! What needs root: mounts, namespaces, cloning. Every case runs in a child with a mount namespace of its own, so that nothing it mounts can
//! stay behind. Not the standard harness: cloning needs a process with one thread.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use linux::Errno;
use linux::clone::{self, CloneArgs, Owner, SingleThreaded};
use linux::fs::{self, Mode, OFlags, Root};
use linux::idmap::{IdMaps, IdSpan};
use linux::mount::{self, AttrChange, FsContext, MountAttr, Overlay, Propagation};
use linux::ns::{self, Namespaces};
use linux::process::{self, Exit};
use linux::{caps, epoll, exec, net, pidfd, pipe, proc, self_exe, signal};

type Case = (&'static str, fn(&SingleThreaded, &Path));

const CASES: &[Case] = &[
    ("an_overlay_is_made_of_descriptors", an_overlay_is_made_of_descriptors),
    ("an_overlay_takes_300_lowers", an_overlay_takes_300_lowers),
    ("the_old_overlay_form_works_too", the_old_overlay_form_works_too),
    ("a_refused_option_shows_the_kernels_words", a_refused_option_shows_the_kernels_words),
    ("a_read_only_tree_is_read_only_below_too", a_read_only_tree_is_read_only_below_too),
    ("a_mount_by_descriptor_ignores_a_swapped_target", a_mount_by_descriptor_ignores_a_swapped_target),
    ("an_idmapped_mount_shows_other_owners", an_idmapped_mount_shows_other_owners),
    (
        "a_network_belongs_to_a_user_namespace_made_among_threads",
        a_network_belongs_to_a_user_namespace_made_among_threads,
    ),
    ("files_are_made_as_somebody_else", files_are_made_as_somebody_else),
    ("the_root_is_pivoted_without_a_directory_for_the_old_one", the_root_is_pivoted),
    ("a_child_starts_in_all_new_namespaces", a_child_starts_in_all_new_namespaces),
    ("a_process_joins_another_by_pidfd", a_process_joins_another_by_pidfd),
    ("a_sibling_belongs_to_the_parent", a_sibling_belongs_to_the_parent),
    ("the_exit_of_a_process_reaped_by_somebody_else_is_known", exit_of_a_stranger_is_known),
    ("our_program_cannot_be_opened_for_writing_through_a_child", our_program_is_protected),
    ("a_program_starts_with_clean_signals", a_program_starts_with_clean_signals),
    ("capabilities_are_dropped_everywhere", capabilities_are_dropped_everywhere),
    ("a_mount_below_stops_a_removal", a_mount_below_stops_a_removal),
];

fn main() {
    if process_is_not_root() {
        eprintln!("SKIPPED: tests/privileged of linux needs root");
        return;
    }
    let token = SingleThreaded::new().expect("one thread");
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let mut failed = Vec::new();
    for (name, case) in CASES {
        if filter.as_deref().is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let dir = std::env::temp_dir().join(format!("knarr-linux-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let args = CloneArgs { namespaces: Namespaces::MOUNT, ..Default::default() };
        let child = clone::spawn(&token, &args, || {
            mount::set_propagation("/", Propagation::Private, true).unwrap();
            let token = SingleThreaded::new().unwrap();
            case(&token, &dir);
            0
        })
        .unwrap();
        let exit = pidfd::wait(&child.pidfd, true).unwrap();
        let good = exit == Some(Exit::Code(0));
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        std::fs::remove_dir_all(&dir).unwrap();
        if !good {
            failed.push((name, exit));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn process_is_not_root() -> bool {
    linux::cred::effective_ids().0 != 0
}

fn dir(path: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn path_fd(path: &Path) -> OwnedFd {
    Root::open(path).unwrap().into_fd()
}

fn an_overlay_is_made_of_descriptors(_: &SingleThreaded, tmp: &Path) {
    let [low1, low2, upper, work, target] =
        ["low,1:x", "low2", "upper", "work", "target"].map(|name| dir(tmp.join(name)));
    std::fs::write(low1.join("one"), "top").unwrap();
    std::fs::write(low2.join("one"), "bottom").unwrap();
    std::fs::write(low2.join("two"), "").unwrap();
    let fds = [&low1, &low2, &upper, &work].map(|path| path_fd(path));
    let overlay = Overlay {
        lowers: vec![fds[0].as_fd(), fds[1].as_fd()],
        upper: Some((fds[2].as_fd(), fds[3].as_fd())),
        options: vec!["xino=off".into()],
        ..Default::default()
    };
    let mounted = overlay.detached(MountAttr::NODEV).unwrap();
    let root = Root::from_fd(mounted);
    assert_eq!(root.read("one", 10).unwrap(), b"top");
    root.stat("two").unwrap();
    mount::attach(&root, path_fd(&target)).unwrap();
    std::fs::write(target.join("new"), "x").unwrap();
    assert!(upper.join("new").exists());
    let shown = proc::mountinfo(None).unwrap();
    let shown = shown.iter().find(|m| m.target == target).unwrap();
    assert_eq!(shown.fs_type, "overlay");
    assert!(shown.options.contains("nodev"));
}

fn an_overlay_takes_300_lowers(_: &SingleThreaded, tmp: &Path) {
    let fds: Vec<OwnedFd> = (0..300)
        .map(|n| {
            let path = dir(tmp.join(format!("layer-with-a-rather-long-name-{n}")));
            std::fs::write(path.join(format!("{n}")), "").unwrap();
            path_fd(&path)
        })
        .collect();
    let overlay = Overlay { lowers: fds.iter().map(|fd| fd.as_fd()).collect(), ..Default::default() };
    let root = Root::from_fd(overlay.detached(MountAttr::empty()).unwrap());
    root.stat("0").unwrap();
    root.stat("299").unwrap();
}

fn the_old_overlay_form_works_too(_: &SingleThreaded, tmp: &Path) {
    let [low, upper, work, target] = ["low", "upper", "work", "target"].map(|name| dir(tmp.join(name)));
    std::fs::write(low.join("file"), "").unwrap();
    let fds = [&low, &upper, &work].map(|path| path_fd(path));
    let overlay =
        Overlay { lowers: vec![fds[0].as_fd()], upper: Some((fds[1].as_fd(), fds[2].as_fd())), ..Default::default() };
    overlay.mount_at(&target, mount::MountFlags::NOSUID).unwrap();
    assert!(target.join("file").exists());
}

fn a_refused_option_shows_the_kernels_words(_: &SingleThreaded, _: &Path) {
    let context = FsContext::open("tmpfs").unwrap();
    let error = context.string("nosuchoption", "1").unwrap_err().to_string();
    assert!(error.contains("nosuchoption") && error.contains("kernel: ") && error.contains("EINVAL"), "{error}");
}

fn a_read_only_tree_is_read_only_below_too(_: &SingleThreaded, tmp: &Path) {
    let source = dir(tmp.join("source"));
    let below = dir(source.join("below"));
    mount::attach_at(mount::new_fs("tmpfs", None, &["size=1m", "mode=0755"], MountAttr::empty()).unwrap(), &below)
        .unwrap();
    let target = dir(tmp.join("target"));
    let tree = mount::clone_tree(path_fd(&source), true).unwrap();
    let change = AttrChange { set: MountAttr::RDONLY | MountAttr::NOSUID, ..Default::default() };
    mount::set_attr(&tree, &change, true).unwrap();
    mount::attach(&tree, path_fd(&target)).unwrap();
    for path in [target.join("x"), target.join("below/x")] {
        assert_eq!(std::fs::write(&path, "").unwrap_err().raw_os_error(), Some(libc_erofs()), "{path:?}");
    }
    std::fs::write(below.join("x"), "").unwrap();
}

fn libc_erofs() -> i32 {
    Errno::ROFS.raw_os_error()
}

fn a_mount_by_descriptor_ignores_a_swapped_target(_: &SingleThreaded, tmp: &Path) {
    let root_dir = dir(tmp.join("root"));
    let outside = dir(tmp.join("outside"));
    let root = Root::open(&root_dir).unwrap();
    let target = root.mkdir_all("data/volume", Mode::from_raw_mode(0o755)).unwrap();
    // The container replaces the directory by a link to the host between resolution and mount.
    std::fs::rename(root_dir.join("data/volume"), root_dir.join("data/old")).unwrap();
    std::os::unix::fs::symlink(&outside, root_dir.join("data/volume")).unwrap();
    let tmpfs = mount::new_fs("tmpfs", None, &[], MountAttr::empty()).unwrap();
    mount::attach(&tmpfs, &target).unwrap();
    assert!(mount::is_mount_point(&root_dir.join("data/old")).unwrap());
    assert!(!mount::is_mount_point(&outside).unwrap());
}

fn an_idmapped_mount_shows_other_owners(token: &SingleThreaded, tmp: &Path) {
    let source = dir(tmp.join("source"));
    std::fs::write(source.join("file"), "").unwrap();
    let (ready, go) = pipe::pipe().unwrap();
    let child = clone::spawn(token, &CloneArgs { namespaces: Namespaces::USER, ..Default::default() }, || {
        let _ = pipe::read(&ready, &mut [0]);
        0
    })
    .unwrap();
    std::fs::write(format!("/proc/{}/uid_map", child.pid), "0 100000 65536").unwrap();
    std::fs::write(format!("/proc/{}/gid_map", child.pid), "0 100000 65536").unwrap();
    let userns = pidfd::namespace(&child.pidfd, Namespaces::USER)
        .or_else(|_| ns::open(format!("/proc/{}/ns/user", child.pid)))
        .unwrap();
    assert_eq!(ns::kind(&userns).unwrap(), Namespaces::USER);
    pipe::write(&go, b"x").unwrap();
    pidfd::wait(&child.pidfd, true).unwrap();
    let tree = mount::clone_tree(path_fd(&source), false).unwrap();
    mount::set_attr(&tree, &AttrChange { idmap: Some(userns.as_fd()), ..Default::default() }, false).unwrap();
    let stat = Root::from_fd(tree).stat("file").unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (100000, 100000));
}

fn a_network_belongs_to_a_user_namespace_made_among_threads(_: &SingleThreaded, _: &Path) {
    let span = vec![IdSpan { inside: 0, outside: 200_000, count: 10 }];
    let maps = IdMaps { uid: span.clone(), gid: span };
    let all: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| clone::user_namespaces(Owner::New(&maps)).unwrap())).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    // One more network for the first one.
    let second = clone::user_namespaces(Owner::Existing(all[0].user.as_fd())).unwrap();
    assert_eq!(ns::identity(&second.user).unwrap(), ns::identity(&all[0].user).unwrap());
    for made in all.iter().chain([&second]) {
        assert_eq!(
            (ns::kind(&made.user).unwrap(), ns::kind(&made.network).unwrap()),
            (Namespaces::USER, Namespaces::NET)
        );
        let owner = ns::owner(&made.network).unwrap();
        assert_eq!(ns::identity(&owner).unwrap(), ns::identity(&made.user).unwrap());
    }
    let mut networks: Vec<_> = all.iter().chain([&second]).map(|made| ns::identity(&made.network).unwrap()).collect();
    networks.sort_unstable();
    networks.dedup();
    assert_eq!(networks.len(), 9);
    // Maps that the kernel refuses are no namespace, and nothing is left of the child that held it.
    let twice = IdMaps { uid: vec![maps.uid[0], maps.uid[0]], gid: maps.gid };
    assert!(clone::user_namespaces(Owner::New(&twice)).unwrap_err().is(Errno::INVAL));
    assert!(clone::user_namespaces(Owner::Existing(second.network.as_fd())).is_err());
    // Answers at once where there is no child to wait for.
    assert!(process::wait_any(true).unwrap().is_none(), "a child is left");
}

fn files_are_made_as_somebody_else(_: &SingleThreaded, tmp: &Path) {
    let closed = dir(tmp.join("closed"));
    let owner = |name: &str| {
        std::fs::write(closed.join(name), "").unwrap();
        let facts = std::fs::metadata(closed.join(name)).unwrap();
        (facts.uid(), facts.gid())
    };
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::thread::scope(|scope| {
        // With the rights of before: the directory is somebody else's.
        let made = scope.spawn(|| linux::cred::make_files_as(1000, 1001).map(|()| owner("theirs")));
        assert_eq!(made.join().unwrap().unwrap(), (1000, 1001));
    });
    assert_eq!(owner("ours"), (0, 0), "it is one thread's");
    linux::cred::make_files_as(5, 6).unwrap();
    linux::cred::make_files_as(0, 0).unwrap();
    assert_eq!(owner("again"), (0, 0));
}

fn the_root_is_pivoted(_: &SingleThreaded, tmp: &Path) {
    let tmpfs = mount::new_fs("tmpfs", None, &[], MountAttr::empty()).unwrap();
    let target = dir(tmp.join("root"));
    mount::attach_at(&tmpfs, &target).unwrap();
    let proc = mount::new_fs("proc", None, &[], MountAttr::NOSUID).unwrap();
    let root = Root::open(&target).unwrap();
    mount::attach(&proc, root.mkdir_all("proc", Mode::from_raw_mode(0o755)).unwrap()).unwrap();
    mount::pivot_root(&root).unwrap();
    mount::unmount_lazily(".").unwrap();
    process::chdir("/").unwrap();
    let names: Vec<_> = linux::tree::entries(Root::open("/").unwrap()).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["proc"]);
    assert_eq!(proc::mountinfo(None).unwrap().len(), 2);
}

fn a_child_starts_in_all_new_namespaces(token: &SingleThreaded, _: &Path) {
    let all = [
        Namespaces::CGROUP,
        Namespaces::IPC,
        Namespaces::MOUNT,
        Namespaces::NET,
        Namespaces::PID,
        Namespaces::UTS,
        Namespaces::USER,
    ];
    let namespaces = all.into_iter().fold(Namespaces::empty(), Namespaces::union);
    let child = clone::spawn(token, &CloneArgs { namespaces, ..Default::default() }, || {
        assert_eq!(std::process::id(), 1);
        process::set_hostname("inside").unwrap();
        net::loopback_up().unwrap();
        std::net::TcpListener::bind("127.0.0.1:0")
            .map(|l| std::net::TcpStream::connect(l.local_addr().unwrap()).unwrap())
            .unwrap();
        9
    })
    .unwrap();
    assert_eq!(pidfd::wait(&child.pidfd, true).unwrap(), Some(Exit::Code(9)));
}

fn a_process_joins_another_by_pidfd(token: &SingleThreaded, _: &Path) {
    let (wait, hold) = pipe::pipe().unwrap();
    let (told, tell) = pipe::pipe().unwrap();
    let namespaces = Namespaces::UTS | Namespaces::NET | Namespaces::PID;
    let first = clone::spawn(token, &CloneArgs { namespaces, ..Default::default() }, || {
        process::set_hostname("joined").unwrap();
        pipe::write(&tell, b"x").unwrap();
        let _ = pipe::read(&wait, &mut [0]);
        0
    })
    .unwrap();
    pipe::read(&told, &mut [0]).unwrap();
    let second = clone::spawn(token, &CloneArgs::default(), || {
        ns::setns_pidfd(&first.pidfd, namespaces).unwrap();
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "joined");
        0
    })
    .unwrap();
    assert_eq!(pidfd::wait(&second.pidfd, true).unwrap(), Some(Exit::Code(0)));
    pipe::write(&hold, b"x").unwrap();
    assert_eq!(pidfd::wait(&first.pidfd, true).unwrap(), Some(Exit::Code(0)));
}

fn a_sibling_belongs_to_the_parent(token: &SingleThreaded, _: &Path) {
    let (read, write) = pipe::pipe().unwrap();
    let middle = clone::spawn(token, &CloneArgs::default(), || {
        let args = CloneArgs { as_sibling: true, ..Default::default() };
        let token = SingleThreaded::new().unwrap();
        let sibling = clone::spawn(&token, &args, || 5).unwrap();
        pipe::write(&write, &sibling.pid.to_ne_bytes()).unwrap();
        0
    })
    .unwrap();
    assert_eq!(pidfd::wait(&middle.pidfd, true).unwrap(), Some(Exit::Code(0)));
    let mut pid = [0; 4];
    pipe::read(&read, &mut pid).unwrap();
    assert_eq!(process::wait_pid(i32::from_ne_bytes(pid), true).unwrap(), Some(Exit::Code(5)));
}

fn exit_of_a_stranger_is_known(token: &SingleThreaded, _: &Path) {
    let (wait, hold) = pipe::pipe().unwrap();
    let (told, tell) = pipe::pipe().unwrap();
    process::set_subreaper(true).unwrap();
    let middle = clone::spawn(token, &CloneArgs::default(), || {
        let token = SingleThreaded::new().unwrap();
        let inner = clone::spawn(&token, &CloneArgs::default(), || {
            let _ = pipe::read(&wait, &mut [0]);
            42
        })
        .unwrap();
        pipe::write(&tell, &inner.pid.to_ne_bytes()).unwrap();
        0
    })
    .unwrap();
    let mut pid = [0; 4];
    pipe::read(&told, &mut pid).unwrap();
    let held = pidfd::open(i32::from_ne_bytes(pid)).unwrap();
    pidfd::wait(&middle.pidfd, true).unwrap();
    pipe::write(&hold, b"x").unwrap();
    assert!(epoll::poll_one(&held, epoll::Interest::IN, 5000).unwrap());
    // Reaped without asking for its status.
    process::wait_any(true).unwrap();
    match pidfd::info(&held) {
        Ok(info) => assert_eq!(info.exit, Some(Exit::Code(42))),
        Err(error) => println!("SKIPPED: no exit information on this kernel: {error}"),
    }
}

fn our_program_is_protected(token: &SingleThreaded, dir: &Path) {
    // A copy of its own: while anybody runs a program the kernel answers ETXTBSY before it looks at the mount.
    let copy = dir.join("sleep");
    std::fs::copy("/bin/sleep", &copy).unwrap();
    let program = self_exe::read_only_view(&copy).unwrap();
    let argv = exec::CStrings::new(["sleep", "100"]).unwrap();
    let envp = exec::CStrings::new::<&str>([]).unwrap();
    let (report, end) = pipe::pipe().unwrap();
    let child = clone::spawn(token, &CloneArgs::default(), || {
        exec::cloexec_from(3).unwrap();
        let error = exec::execve_fd(&program, &argv, &envp);
        let _ = pipe::write(&end, error.to_string().as_bytes());
        1
    })
    .unwrap();
    drop(end);
    // The pipe ends when exec closes it.
    assert_eq!(pipe::read(&report, &mut [0; 100]).unwrap(), 0);
    let error = std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/exe", child.pid)).unwrap_err();
    assert!([Errno::ROFS.raw_os_error(), 26].contains(&error.raw_os_error().unwrap()), "{error}");
    let attributes = proc::stat(child.pid).unwrap();
    assert_ne!(attributes.start_time, 0);
    pidfd::send_signal(&child.pidfd, 9).unwrap();
    assert_eq!(pidfd::wait(&child.pidfd, true).unwrap(), Some(Exit::Signal(9)));
    let path = fs::proc_fd(program.as_fd());
    let error = std::fs::OpenOptions::new().write(true).open(path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc_erofs()));
}

fn a_program_starts_with_clean_signals(token: &SingleThreaded, _: &Path) {
    let _signals = signal::SignalFd::new(&[15, 17]).unwrap();
    let child = clone::spawn(token, &CloneArgs::default(), || {
        signal::reset_for_exec().unwrap();
        let sh = c"/bin/sh";
        // The shell itself and grep may catch signals of their own: only what is blocked or ignored is inherited.
        let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status | grep -v 0000000000000000 && exit 1; exit 0";
        let argv = exec::CStrings::new(["sh", "-c", script]).unwrap();
        exec::execve(sh, &argv, &exec::CStrings::new(["PATH=/bin:/usr/bin"]).unwrap());
        2
    })
    .unwrap();
    assert_eq!(pidfd::wait(&child.pidfd, true).unwrap(), Some(Exit::Code(0)));
}

fn capabilities_are_dropped_everywhere(_: &SingleThreaded, _: &Path) {
    let keep: caps::CapSet =
        ["CAP_CHOWN", "CAP_KILL"].iter().filter_map(|n| caps::Capability::from_name(n, false)).collect();
    caps::limit_bounding(keep).unwrap();
    caps::set(&caps::Sets { effective: keep, permitted: keep, inheritable: keep }).unwrap();
    caps::set_ambient(keep).unwrap();
    assert_eq!(caps::bounding(), keep);
    assert_eq!(caps::ambient(), keep);
    caps::set_ambient(caps::CapSet::EMPTY).unwrap();
    assert_eq!(caps::ambient(), caps::CapSet::EMPTY);
    assert!(ns::unshare(Namespaces::NET).unwrap_err().is(Errno::PERM));
}

fn a_mount_below_stops_a_removal(_: &SingleThreaded, tmp: &Path) {
    let below = dir(tmp.join("tree/a/mounted"));
    mount::attach_at(mount::new_fs("tmpfs", None, &[], MountAttr::empty()).unwrap(), &below).unwrap();
    std::fs::write(below.join("precious"), "").unwrap();
    let root = Root::open(tmp).unwrap();
    let error = linux::tree::remove_all(&root, "tree").unwrap_err();
    assert!(error.is(Errno::XDEV) || error.is(Errno::BUSY), "{error}");
    assert!(below.join("precious").exists());
    let _ = fs::openat(&root, "tree", OFlags::PATH, Mode::empty()).unwrap();
    mount::unmount(&below).unwrap();
}

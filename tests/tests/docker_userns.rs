//! User namespaces as the stock docker client, `knarr` and clients of the API use them: ids of containers, of what they mount, and of what is
//! copied into and out of them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use blackbox::{World, eventually, is_root};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What containers get in these tests: `FIRST+COUNT`.
const REMAP: [&str; 2] = ["--userns-remap", "300000+65536"];

fn can() -> bool {
    is_root() && std::process::Command::new("docker").arg("--version").output().is_ok()
}

fn remapped() -> Option<World> {
    can().then(|| World::start_with(&REMAP))
}

fn sh(world: &World, flags: &[&str], script: &str) -> String {
    let words = ["run", "--rm", "--network", "none"].into_iter().chain(flags.iter().copied());
    world.docker(words.chain(["busybox", "sh", "-c", script])).success().text()
}

/// The ids of a process on the host.
fn ids(pid: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let first = |name: &str| line(name).split_whitespace().next().unwrap_or_default().to_owned();
    format!("{}:{}", first("Uid:"), first("Gid:"))
}

fn pid(world: &World, name: &str) -> String {
    world.docker(["inspect", "-f", "{{.State.Pid}}", name]).success().text()
}

fn namespace(pid: &str, kind: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace").to_string_lossy().into_owned()
}

fn in_host(world: &World, flags: &[&str]) -> String {
    let words = ["run", "--rm", "--network", "none"].into_iter().chain(flags.iter().copied());
    world.docker(words.chain(["busybox", "cat", "/proc/self/uid_map"])).success().text().split_whitespace().collect()
}

#[test]
fn an_engine_gives_its_containers_other_ids_than_the_hosts() {
    let Some(world) = remapped() else { return };
    let options = world.docker(["info", "-f", "{{json .SecurityOptions}}"]).success().text();
    assert!(options.contains("\"name=userns\""), "{options}");
    // Every kind of file can be made, given away and removed, in what the image has too.
    let said = sh(
        &world,
        &[],
        "id -u; awk '{print $1,$2,$3}' /proc/self/uid_map /proc/self/gid_map; mkdir /d && touch /d/f && chown 5:6 /d/f && ln -s f /d/l && mknod /d/p p \
         && stat -c '%u:%g' /d/f /d/p /bin/busybox /etc/hosts /etc/resolv.conf; echo x >> /etc/passwd && echo x >> /etc/hosts && rm -r /usr /home && echo done",
    );
    let wanted = "0\n0 300000 65536\n0 300000 65536\n5:6\n0:0\n0:0\n0:0\n0:0\ndone";
    assert_eq!(said, wanted);
    // What is only the host's root's stays out of reach, set-user-id or not.
    let secret = world.dir().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("file"), "of the host").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let bind = format!("{}:/s", secret.display());
    let said = sh(
        &world,
        &["-v", &bind],
        "stat -c %u /s; cat /s/file 2>&1; touch /s/x 2>&1; mount -t tmpfs none /s 2>&1 | grep -c denied",
    );
    assert!(said.starts_with("65534\n") && said.matches("Permission denied").count() == 2, "{said}");
    assert!(said.ends_with("\n1"), "no right to mount without CAP_SYS_ADMIN: {said}");
    // The way out, and other ways in.
    assert_eq!(in_host(&world, &["--userns=host"]), "004294967295");
    assert_eq!(in_host(&world, &["--user", "1000"]), "030000065536");
    world
        .docker(["run", "-d", "--name", "plain", "--network", "none", "--user", "1000:5", "busybox", "sleep", "1000"])
        .success();
    assert_eq!(ids(&pid(&world, "plain")), "301000:300005");
    assert_eq!(world.docker(["exec", "plain", "id", "-u"]).success().text(), "1000");
    assert_eq!(
        world.docker(["exec", "-u", "0", "plain", "sh", "-c", "id -u; touch /made; stat -c %u /made"]).success().text(),
        "0\n0"
    );
    assert_eq!(world.docker(["inspect", "-f", "{{.HostConfig.UsernsMode}}", "plain"]).text(), "");
    // A terminal, an init and a read-only root of its own.
    assert_eq!(sh(&world, &["-t"], "tty").trim_end(), "/dev/pts/0");
    assert_eq!(sh(&world, &["--init"], "cat /proc/1/comm; id -u"), "docker-init\n0");
    assert!(
        sh(&world, &["--read-only", "--tmpfs", "/t"], "touch /t/x && stat -c %u /t/x; touch /x 2>&1 || true")
            .contains("0\ntouch: /x: Read-only")
    );
    assert_eq!(sh(&world, &["--device", "/dev/zero:/dev/z"], "head -c 2 /dev/z | wc -c"), "2");
    assert_eq!(sh(&world, &["--sysctl", "kernel.msgmax=1234"], "cat /proc/sys/kernel/msgmax"), "1234");
}

#[test]
fn what_needs_the_hosts_root_is_refused_in_dockerds_words() {
    let Some(world) = remapped() else { return };
    let run = |flags: &[&str]| world.docker(["run", "--rm"].iter().chain(flags).chain(&["busybox", "true"]));
    run(&["--privileged"]).exits(125).stderr_has(
        "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
    );
    run(&["--network", "host"])
        .exits(125)
        .stderr_has("cannot share the host's network namespace when user namespaces are enabled");
    run(&["--pid", "host"])
        .exits(125)
        .stderr_has("cannot share the host PID namespace when user namespaces are enabled");
    for flags in [["--privileged", "--network=none"], ["--network=host", "--name=nn"], ["--pid=host", "--network=none"]]
    {
        run(&[&["--userns", "host"], &flags[..]].concat()).success();
    }
    assert_eq!(world.docker(["ps", "-aq"]).text(), "");
    // The stock client knows no other word; the engine answers those that others send.
    for (mode, status) in [("private", 400), ("auto:size=0", 400), ("keep-id", 400), ("auto:size=70000", 201)] {
        let body = json!({"Image": "busybox", "HostConfig": {"UsernsMode": mode}}).to_string();
        let (got, answer) = world.api("POST", "/v1.50/containers/create", Some(&body));
        assert_eq!(got, status, "{mode}: {answer}");
        assert!(status != 400 || answer.contains(&format!("invalid user namespace mode: {mode}")), "{answer}");
    }
    let none = World::without_engine();
    for (remap, why) in [
        ("no-such-user", "Can't create ID mappings: no such user: \"no-such-user\""),
        ("0+5", "Can't create ID mappings: \"0+5\" is not a range FIRST+COUNT of ids"),
    ] {
        let mut command = none.knarr_command();
        command.args(["engine", "--userns-remap", remap]);
        blackbox::finish(command, b"").exits(1).stderr_has(why);
    }
}

#[test]
fn files_go_in_and_out_with_the_ids_that_the_container_sees() {
    let Some(world) = remapped() else { return };
    let dir = world.dir().join("files");
    std::fs::create_dir(&dir).unwrap();
    let file = dir.join("file");
    std::fs::write(&file, "text").unwrap();
    std::os::unix::fs::chown(&file, Some(7), Some(8)).unwrap();
    let path = |path: &Path| path.to_string_lossy().into_owned();
    world
        .docker([
            "run",
            "-d",
            "--name",
            "it",
            "--network",
            "none",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            "mkdir -p /own && touch /own/f && chown 9:10 /own/f && echo said && exec sleep 1000",
        ])
        .success();
    eventually("it has begun", || world.docker(["logs", "it"]).text() == "said");
    // The same while it runs and while it does not.
    for (there, running) in [("one", true), ("two", false)] {
        if !running {
            world.docker(["stop", "-t", "0", "it"]).success();
        }
        for place in ["/", "/d/", "/own/"] {
            world.docker(["cp", &path(&file), &format!("it:{place}{there}")]).success();
        }
        world.docker(["cp", "it:/own/f", &path(&dir.join(format!("{there}.f")))]).success();
        let archive = world.docker(["cp", "it:/own/f", "-"]).success().stdout;
        assert_eq!((&archive[108..115], &archive[116..123]), (&b"0000011"[..], &b"0000012"[..]), "{there}");
        let archive = world.docker(["cp", &format!("it:/d/{there}"), "-"]).success().stdout;
        assert_eq!((&archive[108..115], &archive[116..123]), (&b"0000007"[..], &b"0000010"[..]), "{there}");
    }
    // Ids that the container does not have are refused, and nothing is left of them.
    std::os::unix::fs::chown(&file, Some(70_000), Some(8)).unwrap();
    let refused = || {
        let answer = world.docker(["cp", &path(&file), "it:/three"]).exits(1);
        answer.stderr_has("70000:8 is outside of the user namespace");
    };
    refused();
    world.docker(["start", "it"]).success();
    refused();
    let seen = world.docker([
        "exec",
        "it",
        "sh",
        "-c",
        "stat -c '%n %u:%g' /one /two /d/* /own/*; test -e /three || echo none",
    ]);
    let wanted = "/one 7:8\n/two 7:8\n/d/one 7:8\n/d/two 7:8\n/own/f 9:10\n/own/one 7:8\n/own/two 7:8\nnone";
    assert_eq!(seen.success().text(), wanted);
    // On disk they are what the container sees: nothing has to be changed for another one, whatever ids that has.
    let mountpoint = world.docker(["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]).success().text();
    assert_eq!(std::fs::metadata(Path::new(&mountpoint).join("one")).unwrap().uid(), 7);
    let changes = world.docker(["diff", "it"]).success().text();
    assert_eq!(changes.lines().filter(|line| line.contains("/own")).count(), 4, "{changes}");
    world.docker(["commit", "it", "copy"]).success();
    for flags in [&["--userns=host"][..], &[]] {
        let words = ["run", "--rm", "--network", "none"]
            .iter()
            .chain(flags)
            .chain(&["copy", "stat", "-c", "%u:%g", "/own/f", "/one"]);
        assert_eq!(world.docker(words).success().text(), "9:10\n7:8");
    }
    let exported = world.docker(["export", "it"]).success().stdout;
    let member = exported.chunks(512).find(|block| block.starts_with(b"own/f\0")).expect("own/f is in the archive");
    assert_eq!((&member[108..115], &member[116..123]), (&b"0000011"[..], &b"0000012"[..]));
}

#[test]
fn volumes_belong_to_the_containers_root_and_binds_to_the_host() {
    let Some(world) = remapped() else { return };
    let bind = world.dir().join("bind");
    std::fs::create_dir(&bind).unwrap();
    for (name, owner) in [("root", 0), ("mine", 1000), ("mapped", 300_005)] {
        std::fs::write(bind.join(name), "").unwrap();
        std::os::unix::fs::chown(bind.join(name), Some(owner), Some(owner)).unwrap();
    }
    let spec = |options: &str| format!("{}:/b{options}", bind.display());
    // What the image has at its place comes along with its owners.
    let said = sh(
        &world,
        &["-v", "data:/etc", "-v", "/anon"],
        "chown 5 /etc/group; touch /etc/new /anon/x; stat -c '%n %u' /etc/group /etc/new /etc/passwd /anon/x",
    );
    assert_eq!(said, "/etc/group 5\n/etc/new 0\n/etc/passwd 0\n/anon/x 0");
    // The same for a container with the host's ids, and for one with ids of its own.
    let list = "stat -c '%n %u' /d/group /d/new";
    assert_eq!(sh(&world, &["--userns=host", "-v", "data:/d"], list), "/d/group 5\n/d/new 0");
    let auto = |script: &str| {
        let words = [
            "run",
            "--rm",
            "--network",
            "none",
            "--userns=auto:size=2000",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            script,
        ];
        world.knarr(words).success().text()
    };
    assert_eq!(auto(list), "/d/group 5\n/d/new 0");
    assert_eq!(auto("touch /d/auto && chown 1999 /d/auto && stat -c %u /d/auto"), "1999");
    // A part of a volume.
    sh(&world, &["-v", "data:/d"], "mkdir -p /d/part && chown 3 /d/part");
    assert_eq!(
        sh(
            &world,
            &["--mount", "type=volume,source=data,target=/p,volume-subpath=part"],
            "stat -c %u /p; touch /p/x && stat -c %u /p/x"
        ),
        "3\n0"
    );
    // Binds have the host's ids.
    let owners = "stat -c %u /b/root /b/mine /b/mapped | xargs";
    assert_eq!(sh(&world, &["-v", &spec("")], owners), "65534 65534 5");
    // Unless others are asked for: the container's, or some by hand.
    assert_eq!(
        sh(&world, &["-v", &spec(":idmap")], &format!("{owners}; touch /b/new; stat -c %u /b/new")),
        "0 1000 65534\n0"
    );
    assert_eq!(std::fs::metadata(bind.join("new")).unwrap().uid(), 0);
    let by_hand = spec(":idmap=uids=1000-300000-1#0-300001-1;gids=1000-300000-1#0-300001-1");
    assert_eq!(
        sh(&world, &["-v", &by_hand], &format!("{owners}; touch /b/hand; stat -c %u:%g /b/hand")),
        "1 0 65534\n0:0"
    );
    let made = std::fs::metadata(bind.join("hand")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1000));
    // An image's files have its owners.
    let image = |more: &str| format!("type=image,source=busybox,target=/i{more}");
    assert_eq!(
        sh(&world, &["--mount", &image("")], "stat -c %u /i /i/etc/passwd; touch /i/x 2>&1 | grep -c Read-only"),
        "0\n0\n1"
    );
    assert_eq!(sh(&world, &["--mount", &image(",image-subpath=etc")], "stat -c %u /i/passwd"), "0");
    // What another mount has in a volume is not the volume's.
    let device = format!("device={}", bind.display());
    world.docker(["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "other"]).success();
    assert_eq!(sh(&world, &["-v", "other:/b"], owners), "65534 65534 5");
    assert_eq!(sh(&world, &["-v", "other:/b:idmap"], owners), "0 1000 65534");
}

#[test]
fn a_mount_shows_other_ids_without_a_user_namespace() {
    if !can() {
        return;
    }
    let world = World::start();
    let bind = world.dir().join("bind");
    std::fs::create_dir(&bind).unwrap();
    std::os::unix::fs::chown(&bind, Some(1234), Some(1234)).unwrap();
    let map = "idmap=uids=1234-0-1;gids=1234-0-1";
    let spec = format!("{}:/b:{map}", bind.display());
    assert_eq!(
        sh(
            &world,
            &["-v", &spec],
            "stat -c %u:%g /b; touch /b/x; stat -c %u:%g /b/x; chown 5 /b/x 2>&1 | grep -c Value"
        ),
        "0:0\n0:0\n1"
    );
    let made = std::fs::metadata(bind.join("x")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1234, 1234));
    // A volume of a user's, read as root's, and what inspect says of it.
    sh(&world, &["-v", "data:/d"], "touch /d/f && chown 1234:1234 /d /d/f");
    let words = [
        "create",
        "--name",
        "it",
        "--network",
        "none",
        "-v",
        &format!("data:/d:ro,{map}"),
        "busybox",
        "stat",
        "-c",
        "%u",
        "/d/f",
    ];
    world.docker(words).success();
    assert_eq!(world.docker(["start", "-a", "it"]).success().text(), "0");
    let inspected = world.docker(["inspect", "it"]).success().json();
    assert_eq!(inspected[0]["Mounts"][0]["Mode"], format!("ro,{map}"));
    assert_eq!(inspected[0]["Mounts"][0]["RW"], false);
    let refused = |options: &str| {
        world.docker(["run", "--rm", "-v", &format!("data:/d:{options}"), "busybox", "true"]).exits(125)
    };
    refused("idmap=uids=1-2").stderr_has("invalid mode: idmap=uids=1-2");
    refused("idmap=uids=0-5-9#3-50-1").stderr_has("invalid mode");
    refused("idmap").stderr_has("the container of /d has the host's ids");
    // A file system that cannot do it says so.
    let words = ["run", "--rm", "--network", "none", "-v", &format!("/proc:/p:{map}"), "busybox", "true"];
    world.docker(words).exits(125).stderr_has("show /proc with other ids, which not every file system can");
}

#[test]
fn networks_and_shared_namespaces_work_as_without() {
    let Some(world) = remapped() else { return };
    world.docker(["network", "create", "net"]).success();
    let start = |name: &str, more: &[&str]| {
        world.docker(["run", "-d", "--name", name].iter().chain(more).chain(&["busybox", "sleep", "1000"])).success();
    };
    start("one", &["--network", "net", "--ipc", "shareable"]);
    let sh = |flags: &[&str], script: &str| {
        world.docker(["run", "--rm"].iter().chain(flags).chain(&["busybox", "sh", "-c", script])).success().text()
    };
    // Names, the way out, and what its root may do with its own network: not that of another.
    assert!(sh(&["--network", "net"], "ping -c 1 -W 5 one").contains("1 packets received"));
    assert!(sh(&["--cap-add", "NET_ADMIN"], "ip addr add 10.99.0.1/24 dev lo && ip addr").contains("10.99.0.1"));
    assert!(sh(&[], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start").contains('0'));
    world.docker(["network", "connect", "bridge", "one"]).success();
    assert!(world.docker(["exec", "one", "ip", "addr"]).success().text().contains("eth1"));
    world.docker(["network", "disconnect", "bridge", "one"]).success();
    // Whoever shares a namespace shares the user namespace.
    let theirs = pid(&world, "one");
    for (name, flags, kind) in [
        ("of-net", &["--network", "container:one"][..], "net"),
        ("of-pid", &["--pid", "container:one"], "pid"),
        ("of-ipc", &["--ipc", "container:one", "--network", "none"], "ipc"),
    ] {
        start(name, flags);
        let own = pid(&world, name);
        assert_eq!(namespace(&own, kind), namespace(&theirs, kind), "{name}");
        assert_eq!(namespace(&own, "user"), namespace(&theirs, "user"), "{name}");
        assert_eq!(ids(&own), "300000:300000");
        assert_eq!(
            world.docker(["exec", name, "sh", "-c", "id -u; touch /x && stat -c %u /x"]).success().text(),
            "0\n0"
        );
    }
    assert_eq!(sh(&["--ipc", "host", "--network", "none"], "id -u; test -d /dev/shm && echo shm"), "0\nshm");
    // Its own network, in another's user namespace, is its own to change.
    assert_ne!(namespace(&pid(&world, "of-pid"), "net"), namespace(&theirs, "net"));
    start("host", &["--userns=host", "--network", "none"]);
    assert_eq!(
        sh(&["--pid", "container:host"], "cat /proc/self/uid_map").split_whitespace().collect::<String>(),
        "004294967295"
    );
    world
        .docker(["run", "--rm", "--pid", "container:host", "--ipc", "container:one", "busybox", "true"])
        .exits(125)
        .stderr_has("do not share a user namespace");
    let words = ["run", "--rm", "--userns=auto", "--pid", "container:one", "busybox", "true"];
    world.knarr(words).exits(125).stderr_has("conflicting options: user namespace mode auto");
    // Another container by the same name later on is not the one that was named.
    let words = ["create", "--name", "late", "--network", "none", "--pid", "container:twin", "busybox", "true"];
    start("twin", &["--network", "none"]);
    world.docker(words).success();
    world.docker(["rm", "-f", "twin"]).success();
    start("twin", &["--network", "none", "--userns=host"]);
    world.docker(["start", "late"]).exits(1).stderr_has("No such container: ");
}

#[test]
fn a_container_keeps_its_ids_through_restarts_of_everything() {
    if !can() {
        return;
    }
    let mut world = World::start_with(&REMAP);
    let create = |world: &World, mode: &str, name: &str| {
        let words = [
            "run",
            "-d",
            "--name",
            name,
            "--userns",
            mode,
            "-v",
            "data:/d",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ];
        world.knarr(words).success();
        ids(&pid(world, name))
    };
    world.docker(["run", "-d", "--name", "remapped", "--restart", "always", "busybox", "sleep", "1000"]).success();
    let auto = create(&world, "auto", "auto");
    world.end_engine(Signal::KILL);
    // What is there is adopted; and it is asked only when a container is made.
    world.flags(&[]);
    world.start_engine(&[]);
    assert!(!world.docker(["info", "-f", "{{json .SecurityOptions}}"]).text().contains("userns"));
    for (name, wanted) in [("remapped", "300000:300000"), ("auto", auto.as_str())] {
        for _ in 0..2 {
            assert_eq!(ids(&pid(&world, name)), wanted, "{name}");
            assert_eq!(
                world.docker(["exec", name, "sh", "-c", "id -u; touch /x && stat -c %u /x"]).success().text(),
                "0\n0"
            );
            world.docker(["cp", "/etc/hostname", &format!("{name}:/h")]).success();
            assert_eq!(world.docker(["exec", name, "stat", "-c", "%u", "/h"]).success().text(), "0");
            world.docker(["restart", "-t", "0", name]).success();
        }
    }
    assert_ne!(create(&world, "auto", "second"), auto, "what one has the next one does not get");
    assert_eq!(create(&world, "host", "third"), "0:0");
}

/// RT-32: no two containers have an id of the host in common, their files are theirs, and a program that is root's on disk makes nobody
/// the host's root.
#[test]
fn a_hundred_containers_have_no_id_in_common() {
    if !can() {
        return;
    }
    let world = World::start();
    let body = json!({
        "Image": "busybox", "Cmd": ["sleep", "1000"],
        "HostConfig": {"UsernsMode": "auto", "NetworkMode": "none", "Binds": ["data:/d"]},
    });
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (world, body) = (&world, body.to_string());
            scope.spawn(move || {
                for number in 0..25 {
                    let name = format!("c{}", worker * 25 + number);
                    let (status, answer) = world.api("POST", &format!("/containers/create?name={name}"), Some(&body));
                    assert_eq!(status, 201, "{answer}");
                    let (status, answer) = world.api("POST", &format!("/containers/{name}/start"), None);
                    assert_eq!(status, 204, "{answer}");
                }
            });
        }
    });
    let (_, list) = world.api("GET", "/containers/json", None);
    let list: Value = serde_json::from_str(&list).unwrap();
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for container in list.as_array().expect("a list") {
        let pid = pid(&world, container["Id"].as_str().unwrap());
        for map in ["uid_map", "gid_map"] {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{map}")).unwrap();
            let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
            let [0, first, count] = numbers[..] else { panic!("{map} of {pid}: {text}") };
            assert!(first >= 65536 && count == 65536, "{text}");
            if map == "uid_map" {
                spans.push((first, first + count));
            }
        }
    }
    assert_eq!(spans.len(), 100);
    spans.sort_unstable();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
    // A program in a volume that all of them share, root's and set-user-id on disk, makes its caller the root of its own container at most.
    let su = "cp /bin/busybox /d/busybox && chmod 4755 /d/busybox && stat -c %u:%a /d/busybox";
    assert_eq!(world.docker(["exec", "c0", "sh", "-c", su]).success().text(), "0:4755");
    let open = "sed -i 's/^root:x:/root::/' /etc/passwd";
    world.docker(["exec", "c1", "sh", "-c", open]).success();
    world.docker(["exec", "-d", "-u", "1000", "c1", "/d/busybox", "su", "-c", "exec sleep 4321"]).success();
    let first = std::fs::read_to_string(format!("/proc/{}/uid_map", pid(&world, "c1"))).unwrap();
    let first = first.split_whitespace().nth(1).unwrap().to_owned();
    let who = || {
        let top = world.docker(["top", "c1", "-o", "pid,args"]).success().text();
        let line = top.lines().find(|line| line.ends_with(" sleep 4321") && !line.contains("exec"))?.to_owned();
        let status = std::fs::read_to_string(format!("/proc/{}/status", line.split_whitespace().next()?)).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        Some(ids.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>())
    };
    eventually("the program runs", || who().is_some());
    assert_eq!(who().unwrap(), [first.clone(), first]);
}

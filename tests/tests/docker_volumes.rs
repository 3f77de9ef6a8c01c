//! Volumes as the stock docker client and `knarr` use them: their files, options, events, accounts and their way through
//! crashes.

use blackbox::{World, eventually, is_root};

const NONE: [&str; 4] = ["run", "--rm", "--network", "none"];

/// `docker run --rm --network none ...`, its output.
fn run(world: &World, words: &[&str]) -> String {
    world.docker(NONE.iter().chain(words)).success().text()
}

fn sh(world: &World, flags: &[&str], script: &str) -> String {
    let words: Vec<&str> = flags.iter().copied().chain(["busybox", "sh", "-c", script]).collect();
    run(world, &words)
}

fn world() -> Option<World> {
    (is_root() && std::process::Command::new("docker").arg("--version").output().is_ok()).then(World::start)
}

#[test]
fn a_named_volume_outlives_its_containers_and_is_removed_when_nobody_uses_it() {
    let Some(world) = world() else { return };
    world.docker(["volume", "create", "--label", "tier=db", "data"]).success().stdout("data\n");
    world.docker(["volume", "create", "data"]).success().stdout("data\n");
    sh(&world, &["-v", "data:/d"], "echo kept > /d/file");
    assert_eq!(
        sh(&world, &["--mount", "source=data,target=/d,readonly"], "cat /d/file; echo no > /d/x || true"),
        "kept"
    );
    world.docker(["create", "--name", "user", "--network", "none", "-v", "data:/d", "busybox"]).success();
    let id = world.docker(["inspect", "-f", "{{.Id}}", "user"]).text();
    world.docker(["volume", "rm", "data"]).exits(1).stderr_has(&format!("remove data: volume is in use - [{id}]"));
    let inspected = world.docker(["volume", "inspect", "data"]).success().json();
    assert_eq!(inspected[0]["Driver"], "local");
    assert_eq!(inspected[0]["Scope"], "local");
    assert_eq!(inspected[0]["Labels"]["tier"], "db");
    let mountpoint = inspected[0]["Mountpoint"].as_str().unwrap().to_owned();
    assert_eq!(std::fs::read_to_string(format!("{mountpoint}/file")).unwrap(), "kept\n");
    world.docker(["rm", "-v", "user"]).success();
    // Named: `rm -v` keeps it.
    world.docker(["volume", "ls", "-q", "--filter", "label=tier=db"]).success().stdout("data\n");
    world.docker(["volume", "ls", "-q", "--filter", "dangling=true", "--filter", "name=at"]).stdout("data\n");
    world.docker(["volume", "ls", "-q", "--filter", "driver=other"]).success().stdout("");
    world.docker(["volume", "rm", "data"]).success().stdout("data\n");
    assert!(!std::path::Path::new(&mountpoint).exists());
    world.docker(["volume", "rm", "data"]).exits(1).stderr_has("get data: no such volume");
    world.docker(["volume", "rm", "-f", "data"]).success();
    world.docker(["volume", "inspect", "data"]).exits(1).stderr_has("get data: no such volume");
}

#[test]
fn anonymous_volumes_go_with_their_container_and_prune_spares_names() {
    let Some(world) = world() else { return };
    world.docker(["volume", "create", "named"]).success();
    let nameless = world.docker(["volume", "create"]).success().text();
    assert_eq!(nameless.len(), 64);
    sh(&world, &["-v", "/scratch"], "echo x > /scratch/x");
    world.docker(["create", "--name", "one", "--network", "none", "-v", "/a", "busybox"]).success();
    let of_one = world.docker(["inspect", "-f", "{{(index .Mounts 0).Name}}", "one"]).text();
    world.docker(["rm", "one"]).success();
    // Without -v it stays, and prune takes it: nobody named it.
    let all = world.docker(["volume", "ls", "-q"]).success().text();
    assert!(all.contains(&of_one) && all.contains("named") && all.lines().count() == 3, "{all}");
    let bind = ["--opt", "type=none", "--opt", "o=bind", "--opt", "device=/tmp", "share"];
    world.docker(["volume", "create"].iter().chain(&bind)).success();
    let pruned = world.docker(["volume", "prune", "-f"]).success().text();
    assert!(pruned.contains(&of_one) && pruned.contains(&nameless) && !pruned.contains("named"), "{pruned}");
    world.docker(["create", "--name", "two", "--network", "none", "-v", "/a", "-v", "named:/n", "busybox"]).success();
    world.docker(["rm", "-v", "two"]).success();
    world.docker(["volume", "ls", "-q"]).success().stdout("named\nshare\n");
    // A client of long ago prunes names as well, but nothing that stands for more than its files.
    let (status, body) = world.api("POST", "/v1.41/volumes/prune", None);
    assert!(status == 200 && body.contains("named"), "{status} {body}");
    assert_eq!(world.docker(["volume", "ls", "-q"]).text(), "share");
    world.docker(["volume", "rm", "share"]).success();
}

#[test]
fn a_new_volume_gets_what_the_image_has_and_keeps_its_owner() {
    let Some(world) = world() else { return };
    assert!(sh(&world, &["-v", "conf:/etc"], "ls /etc").contains("passwd"));
    assert!(sh(&world, &["-v", "conf:/c"], "cat /c/passwd").contains("nobody"));
    assert_eq!(sh(&world, &["--mount", "type=volume,src=bare,dst=/tmp,volume-nocopy"], "stat -c %a /tmp"), "755");
    assert_eq!(sh(&world, &["-v", "taken:/tmp"], "stat -c %a /tmp"), "1777");
    // One that has something is left alone.
    sh(&world, &["-v", "own:/x"], "echo mine > /x/passwd");
    assert_eq!(sh(&world, &["-v", "own:/etc"], "cat /etc/passwd"), "mine");
    // A subpath is found inside the volume at the last moment, whatever links say.
    sh(&world, &["-v", "own:/x"], "mkdir -p /x/in/side; echo deep > /x/in/side/f; ln -s /etc /x/out; ln -s in /x/link");
    let sub = |path: &str| format!("type=volume,src=own,dst=/s,volume-subpath={path}");
    assert_eq!(sh(&world, &["--mount", &sub("in/side")], "cat /s/f"), "deep");
    assert_eq!(sh(&world, &["--mount", &sub("link/side")], "cat /s/f"), "deep");
    let outside = world.docker(NONE.iter().chain(&["--mount", &sub("out"), "busybox", "ls", "/s"]));
    assert_ne!(outside.code, 0, "{outside}");
    let missing = world.docker(NONE.iter().chain(&["--mount", &sub("none"), "busybox", "ls", "/s"]));
    assert_ne!(missing.code, 0, "{missing}");
    world.docker(NONE.iter().chain(&["--mount", &sub("../x"), "busybox", "ls"])).exits(125).stderr_has("invalid");
}

#[test]
fn driver_options_are_mounts_that_live_as_long_as_a_user() {
    let Some(world) = world() else { return };
    let mounts = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(world.dir().to_str().unwrap())).count()
    };
    let options = ["-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=1770"];
    world.docker(["volume", "create"].iter().chain(&options).chain(&["fast"])).success();
    assert_eq!(mounts(), 0);
    let flags = ["run", "-d", "--network", "none", "-v", "fast:/f"];
    world
        .docker(flags.iter().chain(&["--name", "aa", "busybox", "sh", "-c", "echo x > /f/x; exec sleep 600"]))
        .success();
    world.docker(flags.iter().chain(&["--name", "bb", "busybox", "sleep", "600"])).success();
    eventually("both see the same files", || world.docker(["exec", "bb", "cat", "/f/x"]).text() == "x");
    assert_eq!(world.docker(["exec", "bb", "stat", "-c", "%a", "/f"]).text(), "1770");
    assert_eq!(mounts(), 1);
    world.docker(["rm", "-f", "aa"]).success();
    assert_eq!(world.docker(["exec", "bb", "cat", "/f/x"]).text(), "x");
    world.docker(["rm", "-f", "bb"]).success();
    eventually("the mount goes with its last user", || mounts() == 0);

    let shared = world.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let device = format!("device={}", shared.display());
    world.docker(["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]).success();
    sh(&world, &["-v", "bound:/b"], "echo there > /b/file");
    assert_eq!(std::fs::read_to_string(shared.join("file")).unwrap(), "there\n");
    world.docker(["volume", "rm", "bound"]).success();
    assert!(shared.join("file").exists(), "removing a volume removes nothing of what it was bound to");
    for (flags, text) in [
        (&["-o", "what=1"][..], "create bad: invalid option: \"what\""),
        (&["-o", "type=tmpfs"], "create bad: missing required option: \"device\""),
        (&["-d", "rexray"], "create bad: error looking up volume plugin rexray: plugin \"rexray\" not found"),
    ] {
        world.docker(["volume", "create"].iter().chain(flags).chain(&["bad"])).exits(1).stderr_has(text);
    }
    world
        .docker(["volume", "create", "a/b"])
        .exits(1)
        .stderr_has("includes invalid characters for a local volume name");
    // What the kernel refuses is said when it is tried.
    world.docker(["volume", "create", "-o", "type=nosuchfs", "-o", "device=none", "odd"]).success();
    world
        .docker(NONE.iter().chain(&["-v", "odd:/o", "busybox", "true"]))
        .exits(125)
        .stderr_has("failed to mount local volume");
}

#[test]
fn volumes_from_and_mount_flags() {
    let Some(world) = world() else { return };
    world
        .docker(["create", "--name", "src", "--network", "none", "-v", "/one", "-v", "two:/two:ro", "busybox"])
        .success();
    assert_eq!(
        sh(&world, &["--volumes-from", "src"], "echo w > /one/f; cat /one/f; echo w > /two/f || echo ro"),
        "w\nro"
    );
    assert_eq!(sh(&world, &["--volumes-from", "src:ro"], "cat /one/f; echo w > /one/g || echo ro"), "w\nro");
    assert_eq!(
        sh(&world, &["--tmpfs", "/t:size=64k,mode=700"], "stat -c %a /t; df -k /t | tail -1 | awk '{print $2}'"),
        "700\n64"
    );
    assert_eq!(sh(&world, &["--mount", "type=tmpfs,dst=/t,tmpfs-size=65536,tmpfs-mode=1770"], "stat -c %a /t"), "1770");
    let dir = world.dir().join("bound");
    std::fs::create_dir(&dir).unwrap();
    let bind = |extra: &str| format!("type=bind,src={},dst=/b{extra}", dir.display());
    assert_eq!(sh(&world, &["--mount", &bind("")], "echo x > /b/x; cat /b/x"), "x");
    assert_eq!(sh(&world, &["--mount", &bind(",readonly,bind-propagation=rslave")], "echo y > /b/y || echo ro"), "ro");
    world
        .docker(NONE.iter().chain(&["--mount", "type=bind,src=/no/such/path,dst=/b", "busybox", "true"]))
        .exits(125)
        .stderr_has("bind source path does not exist: /no/such/path");
    world
        .docker(NONE.iter().chain(&["-v", "xx:/b:what", "busybox", "true"]))
        .exits(125)
        .stderr_has("invalid mode: what");
    world.docker(["rm", "-v", "src"]).success();
    world.docker(["volume", "ls", "-q"]).success().stdout("two\n");
}

#[test]
fn events_tell_a_volumes_life() {
    let Some(world) = world() else { return };
    let since = world.docker(["info", "-f", "{{.SystemTime}}"]).text();
    world.docker(["volume", "create", "ev"]).success();
    run(&world, &["-v", "ev:/e", "busybox", "true"]);
    world.docker(["volume", "rm", "ev"]).success();
    let until = world.docker(["info", "-f", "{{.SystemTime}}"]).text();
    let format = "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.driver}}";
    let flags = ["events", "--since", &since, "--until", &until, "--filter", "type=volume", "--format", format];
    world.docker(flags).success().stdout("create ev local\nmount ev local\nunmount ev local\ndestroy ev local\n");
}

#[test]
fn df_counts_what_du_counts() {
    let Some(world) = world() else { return };
    sh(&world, &["-v", "big:/b"], "head -c 3000000 /dev/zero > /b/f; ln /b/f /b/g; mkdir /b/d; echo x > /b/d/x");
    world.docker(["create", "--name", "user", "--network", "none", "-v", "big:/b", "busybox"]).success();
    let (status, body) = world.api("GET", "/system/df?type=volume", None);
    let usage: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(usage["Volumes"][0]["UsageData"], serde_json::json!({"RefCount": 1, "Size": 3_000_002}));
    assert!(usage["Images"].is_null() && usage["Containers"].is_null());
    world.docker(["system", "df", "-v"]).success().stdout_has("big").stdout_has("3MB");
    world.knarr(["system", "df", "-v"]).success().stdout_has("big").stdout_has("3MB");
}

#[test]
fn a_volume_goes_through_a_tar_and_back() {
    let Some(world) = world() else { return };
    sh(
        &world,
        &["-v", "from:/f"],
        "echo a > /f/a; mkdir /f/d; echo b > /f/d/b; chown 5:6 /f/d; chmod 2750 /f/d; ln -s a /f/l",
    );
    let archive = world.dir().join("v.tar");
    let archive = archive.to_str().unwrap();
    world.knarr(["volume", "export", "-o", archive, "from"]).success();
    world.knarr(["volume", "import", "to", archive]).success();
    let shown = sh(&world, &["-v", "to:/t"], "cd /t; cat a d/b l; stat -c '%a %u %g' d");
    assert_eq!(shown, "a\nb\na\n2750 5 6");
    // Over what is there already: the archive's files win, others stay.
    sh(&world, &["-v", "to:/t"], "echo changed > /t/a; echo own > /t/own");
    world.knarr(["volume", "import", "to", archive]).success();
    assert_eq!(sh(&world, &["-v", "to:/t"], "cat /t/a /t/own"), "a\nown");
    // Half an archive leaves an empty volume empty.
    let half = std::fs::read(archive).unwrap();
    let cut = world.dir().join("cut.tar");
    std::fs::write(&cut, &half[..1600]).unwrap();
    assert_ne!(world.knarr(["volume", "import", "fresh", cut.to_str().unwrap()]).code, 0);
    assert_eq!(sh(&world, &["-v", "fresh:/t"], "ls -A /t"), "");
    world.knarr(["volume", "export", "none"]).exits(1).stderr_has("get none: no such volume");
}

#[test]
fn a_crash_at_any_step_leaves_no_half_volume() {
    if !is_root() {
        return;
    }
    let points = [
        ("engine.volume.create.before_files", "create"),
        ("engine.volume.create.before_commit", "create"),
        ("engine.volume.create.after_commit", "create"),
        ("engine.volume.remove.before_commit", "remove"),
        ("engine.volume.remove.after_commit", "remove"),
        ("engine.volume.before_mount", "mount"),
        ("engine.volume.after_mount", "mount"),
        ("engine.volume.fill.begun", "fill"),
        ("engine.volume.fill.written", "fill"),
    ];
    let mut world = World::start();
    for (point, step) in points {
        let name = format!("v-{}", point.replace('.', "-"));
        let tmpfs = ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", &name];
        match step {
            "remove" => drop(world.knarr(["volume", "create", &name]).success()),
            "mount" => drop(world.knarr(tmpfs).success()),
            _ => {}
        }
        world.end_engine(rustix::process::Signal::KILL);
        world.start_engine(&[("KNARR_CRASH_POINT", point)]);
        let volume = format!("{name}:/etc");
        let words: Vec<&str> = match step {
            "create" => vec!["volume", "create", &name],
            "remove" => vec!["volume", "rm", &name],
            _ => vec!["run", "--rm", "--network", "none", "-v", &volume, "busybox", "ls", "/etc"],
        };
        let cut = world.knarr(&words);
        assert_ne!(cut.code, 0, "{point}: {cut}");
        eventually("the engine ends", || world.engine_ended());
        world.end_engine(rustix::process::Signal::KILL);
        world.start_engine(&[]);
        world.knarr(["doctor"]).success();
        let known = world.knarr(["volume", "ls", "-q"]).success().text();
        let there = known.lines().any(|line| line == name);
        match point {
            "engine.volume.create.before_files"
            | "engine.volume.create.before_commit"
            | "engine.volume.remove.after_commit" => {
                assert!(!there, "{point}: {known}");
            }
            _ => assert!(there, "{point}: {known}"),
        }
        if matches!(step, "mount" | "fill") {
            let shown =
                world.knarr(["run", "--rm", "--network", "none", "-v", &volume, "busybox", "cat", "/etc/passwd"]);
            shown.success().stdout_has("nobody");
        }
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(world.dir().to_str().unwrap()), "{table}");
}

/// `--mount type=image`: an image's files, read-only, in a container of another; the image stays while that is there.
#[test]
fn an_image_is_mounted_and_kept() {
    let Some(mut world) = world() else { return };
    let folder = blackbox::context(&[
        ("Dockerfile", "FROM scratch\nCOPY tree /tree\nCOPY tree/a /b\n"),
        ("tree/a", "a\n"),
        ("tree/sub/c", "c\n"),
    ]);
    world.knarr(["build", "-q", "-t", "data:1", folder.path().to_str().unwrap()]).success();
    let run = |more: &[&str], script: &str| {
        let words: Vec<&str> = NONE.iter().chain(more).copied().chain(["busybox", "sh", "-c", script]).collect();
        world.docker(words)
    };
    let mount = "--mount=type=image,source=data:1,target=/data";
    let script = "cat /data/tree/a /data/tree/sub/c /data/b; touch /data/x 2>&1 | grep -c Read-only; umount /data 2>&1 | grep -ci perm";
    assert_eq!(run(&[mount], script).success().text(), "a\nc\na\n1\n1");
    let inner = "--mount=type=image,source=data:1,target=/data,image-subpath=tree/sub";
    assert_eq!(run(&[inner], "ls /data; cat /data/c").success().text(), "c\nc");
    for (subpath, why) in
        [("nowhere", "No such file"), ("../..", "must be a relative path"), ("/tree", "must be a relative path")]
    {
        run(&[&format!("{mount},image-subpath={subpath}")], "true").exits(125).stderr_has(why);
    }
    run(&["--mount=type=image,source=nobody:1,target=/x"], "true").exits(125).stderr_has("nobody:1");
    run(&["--mount=type=image,target=/x"], "true").exits(125).stderr_has("Source must not be empty");
    // As long as a container refers to it, running or not.
    let words = ["run", "-d", "--name", "user", "--network", "none", mount, "busybox", "sleep", "1000"];
    let id = world.docker(words).success().text();
    let shown = world.docker(["inspect", "-f", "{{range.Mounts}}{{.Type}} {{.Name}} {{.RW}}{{end}}", "user"]);
    assert_eq!(shown.success().text(), "image data:1 false");
    let short = &id[..12];
    world.docker(["rmi", "data:1"]).exits(1).stderr_has(short);
    world.docker(["rmi", "-f", &world.docker(["images", "-q", "data:1"]).text()]).exits(1).stderr_has(short);
    world.knarr(["doctor"]).success();
    // It outlives the engine, with its name gone too.
    world.end_engine(rustix::process::Signal::KILL);
    world.start_engine(&[]);
    assert_eq!(world.docker(["exec", "user", "cat", "/data/b"]).success().text(), "a");
    world.docker(["rmi", "-f", "data:1"]).success();
    world.knarr(["builder", "prune", "-af"]).success();
    world.docker(["image", "prune", "-af"]).success();
    world.docker(["restart", "-t", "0", "user"]).success();
    assert_eq!(world.docker(["exec", "user", "cat", "/data/b"]).success().text(), "a");
    world.docker(["stop", "-t", "0", "user"]).success();
    assert_eq!(world.docker(["cp", "user:/data/tree/a", "-"]).success().stdout.len() % 512, 0);
    let places = world.run_dir().join("images");
    assert_eq!(std::fs::read_dir(&places).map_or(0, Iterator::count), 0);
    let other = ["run", "--rm", "--network", "none", "--volumes-from", "user", "busybox", "cat", "/data/tree/a"];
    assert_eq!(world.docker(other).success().text(), "a");
    world.docker(["rm", "user"]).success();
    world.docker(["image", "prune", "-af"]).success();
    world.knarr(["doctor"]).success();
}

/// An engine that is killed takes off what its containers no longer need.
#[test]
fn an_images_mount_goes_with_its_container_while_the_engine_is_away() {
    let Some(mut world) = world() else { return };
    let script = "while test ! -e /end/now; do sleep 0.1; done";
    let end = tempfile::tempdir().unwrap();
    let bind = format!("{}:/end", end.path().display());
    let mount = "--mount=type=image,source=busybox,target=/data";
    let words = ["run", "-d", "--name", "user", "--network", "none", "-v", &bind, mount, "busybox", "sh", "-c", script];
    world.docker(words).success();
    let places = world.run_dir().join("images");
    assert_eq!(std::fs::read_dir(&places).unwrap().count(), 1);
    world.end_engine(rustix::process::Signal::KILL);
    std::fs::write(end.path().join("now"), "").unwrap();
    world.start_engine(&[]);
    world.docker(["wait", "user"]).success();
    blackbox::eventually("nothing is mounted", || std::fs::read_dir(&places).unwrap().count() == 0);
    world.docker(["rm", "user"]).success();
    world.knarr(["doctor"]).success();
}

/// An engine that ends before an image is in its place leaves nothing mounted, and the container can be started.
#[test]
fn an_images_mount_that_was_cut_off_is_made_again() {
    let Some(mut world) = world() else { return };
    let mount = "--mount=type=image,source=busybox,target=/data";
    world.docker(["create", "--name", "user", "--network", "none", mount, "busybox", "ls", "/data/bin"]).success();
    world.end_engine(rustix::process::Signal::KILL);
    world.start_engine(&[("KNARR_CRASH_POINT", "engine.image_mount.before_attach")]);
    assert_ne!(world.docker(["start", "user"]).code, 0);
    eventually("the engine ends", || world.engine_ended());
    world.end_engine(rustix::process::Signal::KILL);
    world.start_engine(&[]);
    assert_eq!(std::fs::read_dir(world.run_dir().join("images")).unwrap().count(), 0);
    world.docker(["start", "-a", "user"]).success().stdout_has("busybox");
    world.docker(["rm", "user"]).success();
    world.knarr(["doctor"]).success();
}

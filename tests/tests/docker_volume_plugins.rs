//! Volumes of other drivers, by the stock client: a plugin as Docker's documentation describes them.

use std::process::Command;

use blackbox::plugin::VolumePlugin;
use blackbox::{World, eventually, is_root};

struct Place {
    world: World,
    plugin: VolumePlugin,
    dir: tempfile::TempDir,
}

fn place(flags: &[&str]) -> Option<Place> {
    if !is_root() || Command::new("docker").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs root and a docker client on the path");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let plugins = dir.path().join("plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    let plugin = VolumePlugin::start(&plugins.join("shelf.sock"), &dir.path().join("volumes"));
    let world = World::start_with(&[&["--plugin-dir", plugins.to_str().unwrap()], flags].concat());
    Some(Place { world, plugin, dir })
}

#[test]
fn a_plugins_volumes_are_made_listed_used_and_removed() {
    let Some(Place { world, plugin, dir }) = place(&[]) else { return };
    let docker = |words: &str| world.docker(words.split(' ')).success().text();
    let run = |flags: &str, script: &str| {
        let words = ["run", "--rm", "--network", "none"].into_iter().chain(flags.split(' '));
        world.docker(words.chain(["busybox", "sh", "-c", script])).success().text()
    };
    assert_eq!(docker("volume create -d shelf -o size=1g --label a=b one"), "one");
    assert_eq!(plugin.options("one"), serde_json::json!({ "size": "1g" }));
    let one = world.docker(["volume", "inspect", "one"]).success().json()[0].clone();
    let folder = plugin.folder("one").display().to_string();
    for (field, expected) in [
        ("Driver", serde_json::json!("shelf")),
        ("Scope", "global".into()),
        ("Mountpoint", folder.clone().into()),
        ("CreatedAt", "2026-01-02T03:04:05Z".into()),
        ("Labels", serde_json::json!({ "a": "b" })),
        ("Options", serde_json::json!({ "size": "1g" })),
        ("Status", serde_json::json!({ "shelf": 7 })),
    ] {
        assert_eq!(one[field], expected, "{field}: {one}");
    }
    // A second time it is the same one.
    docker("volume create -d shelf one");
    assert_eq!(plugin.calls("VolumeDriver.Create"), 1);
    docker("volume create ours");
    world.docker(["volume", "create", "-d", "shelf", "ours"]).exits(1).stderr_has("exists with driver local");
    world.docker(["volume", "create", "-d", "local", "one"]).exits(1).stderr_has("exists with driver shelf");
    world.docker(["volume", "create", "-d", "nobody", "none"]).exits(1).stderr_has("plugin \"nobody\" not found");
    // What the plugin has without us is there too.
    plugin.has("found");
    assert_eq!(docker("volume ls -q"), "found\none\nours");
    assert_eq!(docker("volume ls -q -f driver=shelf"), "found\none");
    assert_eq!(docker("volume inspect -f {{.Driver}} found"), "shelf");
    assert!(docker("info -f {{.Plugins.Volume}}").contains("shelf"));

    // In containers: what is written is the plugin's, mounted and unmounted under one id.
    run("-v one:/x", "echo hello > /x/file");
    assert_eq!(std::fs::read_to_string(plugin.folder("one").join("file")).unwrap(), "hello\n");
    assert_eq!(run("-v one:/x:ro", "cat /x/file; touch /x/no 2>&1 | grep -c Read-only"), "hello\n1");
    assert_eq!((plugin.mounts(), plugin.calls("VolumeDriver.Mount")), (Vec::new(), 2));
    run("-v found:/x", "echo mine > /x/file");
    assert_eq!(std::fs::read_to_string(plugin.folder("found").join("file")).unwrap(), "mine\n");
    // Made with its first container, filled from the image unless it is not to be.
    assert!(run("--volume-driver shelf -v two:/etc", "ls /etc").contains("passwd"));
    assert!(plugin.folder("two").join("passwd").exists());
    run("--volume-driver shelf -v three:/etc:nocopy", "true");
    assert!(!plugin.folder("three").join("passwd").exists());
    run("--mount type=volume,src=four,dst=/x,volume-driver=shelf,volume-opt=color=red", "true");
    assert_eq!(plugin.options("four"), serde_json::json!({ "color": "red" }));
    // One without a name goes with its container.
    run("--volume-driver shelf -v /anonymous", "true");
    assert_eq!(plugin.volumes(), ["found", "four", "one", "three", "two"]);

    // While it is used it stays, and its place is shown.
    let id = docker("run -d --name user -v one:/x busybox sleep 1000");
    assert_eq!(plugin.mounts(), [("one".to_owned(), id.clone())]);
    let shown = docker("inspect -f {{range.Mounts}}{{.Driver}}|{{.Name}}|{{.Source}}{{end}} user");
    assert_eq!(shown, format!("shelf|one|{folder}"));
    world.docker(["volume", "rm", "one"]).exits(1).stderr_has("volume is in use");
    assert_eq!(docker("exec user cat /x/file"), "hello");
    docker("restart -t 0 user");
    assert_eq!(plugin.mounts(), [("one".to_owned(), id)]);
    docker("stop -t 0 user");
    assert_eq!(plugin.mounts(), []);
    std::fs::write(dir.path().join("sent"), "sent").unwrap();
    world.docker(["cp", dir.path().join("sent").to_str().unwrap(), "user:/x/sent"]).success();
    assert_eq!(std::fs::read_to_string(plugin.folder("one").join("sent")).unwrap(), "sent");
    assert_eq!(plugin.mounts(), []);
    docker("rm user");
    // A prune is for volumes of our own.
    assert!(docker("volume prune -af").contains("ours"));
    assert_eq!(plugin.volumes().len(), 5);
    plugin.refuses("VolumeDriver.Remove");
    world.docker(["volume", "rm", "one"]).exits(1).stderr_has("is not to be had today");
    assert!(docker("volume ls -q").contains("one"));
    plugin.refuses("");
    docker("volume rm one two three four found");
    assert_eq!(plugin.volumes(), Vec::<String>::new());
    assert_eq!(docker("volume ls -q"), "");
    world.knarr(["doctor"]).success();
}

/// A plugin elsewhere is named by a file, in either form; what is no plugin is told.
#[test]
fn files_say_where_plugins_are() {
    let Some(Place { world, plugin, dir }) = place(&[]) else { return };
    let file = |name: &str, text: &str| std::fs::write(dir.path().join("plugins").join(name), text).unwrap();
    let address = format!("unix://{}", dir.path().join("plugins/shelf.sock").display());
    file("spec.spec", &address);
    file("json.json", &serde_json::json!({ "Name": "json", "Addr": address }).to_string());
    file("tls.json", r#"{"Addr":"tcp://localhost:1","TLSConfig":{"InsecureSkipVerify":true}}"#);
    for driver in ["spec", "json"] {
        world.docker(["volume", "create", "-d", driver, driver]).success();
    }
    assert_eq!(plugin.volumes(), ["json", "spec"]);
    world.docker(["volume", "create", "-d", "tls", "x1"]).exits(1).stderr_has("TLS");
    world.docker(["volume", "rm", "spec", "json"]).success();
}

/// A plugin that keeps silent, or is gone: its own volumes wait or fail, with its name, and everything else goes on.
#[test]
fn a_silent_plugin_and_one_that_vanishes_hold_up_nobody_else() {
    let Some(Place { world, plugin, dir: _dir }) = place(&["--plugin-timeout", "1s"]) else { return };
    let run = ["run", "--rm", "--network", "none", "-v", "one:/x", "busybox", "true"];
    world.docker(["volume", "create", "-d", "shelf", "one"]).success();
    world.docker(["volume", "create", "ours"]).success();
    for call in ["VolumeDriver.Mount", "VolumeDriver.Get", "VolumeDriver.List"] {
        plugin.is_silent_on(call);
        match call {
            "VolumeDriver.Mount" => {
                drop(world.docker(run).exits(125).stderr_has("volume plugin shelf does not answer"))
            }
            "VolumeDriver.Get" => {
                world.docker(["volume", "inspect", "one"]).exits(1).stderr_has("no answer to VolumeDriver.Get");
            }
            _ => {
                let (status, body) = world.api("GET", "/volumes", None);
                let told: serde_json::Value = serde_json::from_str(&body).unwrap();
                let names: Vec<&str> =
                    told["Volumes"].as_array().unwrap().iter().flat_map(|v| v["Name"].as_str()).collect();
                assert_eq!((status, names), (200, vec!["one", "ours"]), "{body}");
                assert!(told["Warnings"][0].as_str().unwrap().contains("shelf does not answer"), "{body}");
            }
        }
        world.docker(["run", "--rm", "--network", "none", "-v", "ours:/x", "busybox", "true"]).success();
    }
    plugin.is_silent_on("");
    // Whatever it has mounted without an answer was taken back.
    eventually("nothing is mounted", || plugin.mounts().is_empty());
    // Gone under a running container: that one can be ended, and no other begun.
    world
        .docker(["run", "-d", "--name", "user", "--network", "none", "-v", "one:/x", "busybox", "sleep", "1000"])
        .success();
    plugin.vanish();
    world.docker(["exec", "user", "touch", "/x/still"]).success();
    world.docker(["stop", "-t", "0", "user"]).success();
    world.docker(["start", "user"]).exits(1).stderr_has("plugin \"shelf\" not found");
    world.docker(["volume", "ls", "-q"]).success().stdout_has("ours");
    world.docker(["rm", "user"]).success();
    world.docker(["volume", "rm", "one"]).exits(1).stderr_has("not found");
    world.docker(["volume", "rm", "-f", "one"]).success();
    world.docker(["volume", "ls", "-q"]).success().stdout("ours\n");
    plugin.listen();
    world.docker(["volume", "ls", "-q"]).success().stdout("one\nours\n");
    world.docker(["volume", "rm", "ours"]).success();
    world.knarr(["doctor"]).success();
}

/// An engine that is killed forgets nothing that a plugin holds for it.
#[test]
fn mounts_are_taken_back_after_a_kill() {
    let Some(Place { mut world, plugin, dir: _dir }) = place(&[]) else { return };
    let run = |world: &World, name: &str, script: &str| {
        let words = ["run", "-d", "--name", name, "--network", "none", "--volume-driver", "shelf", "-v", "one:/x"];
        world.docker(words.into_iter().chain(["busybox", "sh", "-c", script])).success().text()
    };
    let stays = run(&world, "stays", "sleep 1000");
    let ends = run(&world, "ends", "while test ! -e /x/end; do sleep 0.1; done");
    assert_eq!(plugin.mounts().len(), 2);
    world.end_engine(rustix::process::Signal::KILL);
    std::fs::write(plugin.folder("one").join("end"), "").unwrap();
    world.start_engine(&[]);
    assert_eq!(world.docker(["wait", &ends]).success().text(), "0");
    eventually("the one that has ended is unmounted", || plugin.mounts() == [("one".to_owned(), stays.clone())]);
    let shown = world.docker(["inspect", "-f", "{{(index .Mounts 0).Source}}", "stays"]).success().text();
    assert_eq!(shown, plugin.folder("one").display().to_string());
    world.docker(["rm", "-f", "stays", "ends"]).success();
    assert_eq!(plugin.mounts(), []);
    world.docker(["volume", "rm", "one"]).success();
    world.knarr(["doctor"]).success();
}

/// Ended just before and just after its plugin has mounted a volume, the engine has it taken back.
#[test]
fn a_mount_that_was_cut_off_is_taken_back() {
    let Some(Place { mut world, plugin, dir: _dir }) = place(&[]) else { return };
    let run = ["run", "--rm", "--network", "none", "-v", "one:/x", "busybox", "true"];
    world.docker(["volume", "create", "-d", "shelf", "one"]).success();
    for (point, mounts) in [("engine.volume.driver.before_mount", 0), ("engine.volume.driver.after_mount", 1)] {
        world.end_engine(rustix::process::Signal::KILL);
        world.start_engine(&[("KNARR_CRASH_POINT", point)]);
        assert_ne!(world.docker(run).code, 0, "{point}");
        eventually("the engine ends", || world.engine_ended());
        assert_eq!(plugin.mounts().len(), mounts, "{point}");
        world.end_engine(rustix::process::Signal::KILL);
        world.start_engine(&[]);
        eventually("nothing is mounted", || plugin.mounts().is_empty());
        world.docker(run).success();
        assert_eq!(plugin.mounts(), [], "{point}");
    }
    world.docker(["container", "prune", "-f"]).success();
    world.docker(["volume", "rm", "one"]).success();
    world.knarr(["doctor"]).success();
}

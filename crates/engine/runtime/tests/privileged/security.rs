//! The attacks on container runtimes that have become advisories, each tried on this one.

use serde_json::json;

use super::Test;
use super::bundle::Bundle;

pub const TESTS: &[Test] = &[
    ("a_working_directory_never_leads_outside", cwd),
    ("the_programs_file_cannot_be_reached", own_file),
    ("links_in_the_image_lead_nowhere", links),
    ("a_fake_null_device_masks_nothing_else", fake_null),
    ("sysctls_of_the_host_are_refused", sysctls),
    ("devices_are_denied", devices),
    ("hostile_ids_are_refused", ids),
    ("only_the_standard_streams_are_open", descriptors),
    ("a_mount_may_not_set_ids", nosuid),
    ("tests_notice_a_weakened_build", weakened),
];

/// Each defence is switched off in turn; the test that guards it must fail.
fn weakened() {
    if !cfg!(feature = "weaken") {
        println!("skipped: only a build with --features weaken can be weakened");
        return;
    }
    for (defence, test) in [
        ("cwd", "a_working_directory_never_leads_outside"),
        ("descriptors", "only_the_standard_streams_are_open"),
        ("links", "links_in_the_image_lead_nowhere"),
        ("null", "a_fake_null_device_masks_nothing_else"),
        ("devices", "devices_are_denied"),
        ("window", "rt_03_nothing_of_the_host_is_open_in_a_process_that_enters"),
        ("targets", "rt_04_mounts_stay_inside"),
        ("turn", "namespaces_are_joined_by_path"),
        ("start-time", "rt_31_a_number_used_again"),
        ("console", "rt_06_the_console_goes_nowhere_else"),
        ("proc", "rt_07_writes_to_proc_go_to_proc"),
        ("maps", "rt_09_sizes_arrive_whole"),
        ("bounding", "rt_11_16_34_identity_and_limits_are_exact"),
        ("inheritable", "rt_11_16_34_identity_and_limits_are_exact"),
        ("groups", "rt_11_16_34_identity_and_limits_are_exact"),
        ("limits", "rt_11_16_34_identity_and_limits_are_exact"),
        ("keyring", "rt_20_session_keyrings_are_not_shared"),
        ("masks", "rt_21_masked_paths_are_empty"),
        ("read-only", "rt_21_masked_paths_are_empty"),
        ("sysctl", "sysctls_of_the_host_are_refused"),
    ] {
        let run = |weak: &str| {
            std::process::Command::new("/proc/self/exe").arg(test).env("KNARR_WEAKEN", weak).output().unwrap()
        };
        assert!(run("").status.success(), "{test} fails by itself");
        let weak = run(defence);
        assert_eq!(weak.status.code(), Some(1), "{test} does not notice that {defence} is off: {weak:?}");
    }
}

/// CVE-2024-21626.
fn cwd() {
    let running = Bundle::new("sleep 100");
    running.start();
    for n in 0..24 {
        let path = format!("/proc/self/fd/{n}");
        let mut b = Bundle::new("pwd; ls -di .");
        b.config["process"]["cwd"] = json!(path);
        let said = b.run();
        assert_ne!(said.code, 0, "{said:?}");
        let said = running.call(&["exec", "--cwd", &path, &running.id, "pwd"]);
        assert_ne!(said.code, 0, "{said:?}");
        let said = running.call(&["exec", &running.id, &format!("/proc/self/fd/{n}/bin/sh"), "-c", "echo escaped"]);
        assert!(!said.out.contains("escaped"), "{said:?}");
    }
    // A directory that is only missing is made, as root of the container.
    let mut b = Bundle::new("pwd");
    b.config["process"]["cwd"] = json!("/made/here");
    b.run().ok().says("/made/here");
}

/// CVE-2019-5736: the container is handed our program as its entry point and as a script's interpreter, and watches for it in /proc.
fn own_file() {
    let digest = || std::process::Command::new("sha256sum").arg("/proc/self/exe").env_clear().output().unwrap().stdout;
    let ours = std::fs::read_link("/proc/self/exe").unwrap();
    let sum = || std::process::Command::new("sha256sum").arg(&ours).output().unwrap().stdout;
    let _ = digest;
    let before = sum();
    let mut b = Bundle::new("");
    b.config["process"]["args"] = json!(["/proc/self/exe", "--runc", "--version"]);
    b.run().ok().says("runc version");
    std::fs::write(b.rootfs().join("script"), "#!/proc/self/exe --runc\n").unwrap();
    std::fs::set_permissions(b.rootfs().join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let b2 = Bundle::new(
        "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); for p in /proc/[0-9]*; do case $(readlink $p/exe) in *busybox|'') ;; *) echo saw $(readlink $p/exe); : >> $p/exe && echo OPENED; ls $p/fd && echo LISTED;; esac; done; done 2>/dev/null; echo done",
    );
    b2.write();
    b2.call_detached(&["run", "-d", "-b", b2.dir.to_str().unwrap(), &b2.id]).ok();
    for _ in 0..60 {
        b2.call(&["exec", &b2.id, "true"]);
    }
    let out = b2.read("out");
    assert!(!out.contains("OPENED") && !out.contains("LISTED"), "{out}");
    assert_eq!(before, sum());
}

/// CVE-2026-41579 and its relatives: every path that setting up touches is a link to something of the host.
fn links() {
    let canary = Bundle::new("");
    let outside = canary.dir.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "host").unwrap();
    for name in ["dev", "sys", "tmp", "etc"] {
        let b = Bundle::new("true");
        std::fs::remove_dir_all(b.rootfs().join(name)).unwrap();
        std::os::unix::fs::symlink(&outside, b.rootfs().join(name)).unwrap();
        let _ = b.run();
        let left: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["file"], "{name}");
    }
    let b = Bundle::new("true");
    std::fs::remove_dir(b.rootfs().join("proc")).unwrap();
    std::os::unix::fs::symlink("/bin", b.rootfs().join("proc")).unwrap();
    b.run().fails("not an ordinary directory");
    // A link that dangles, one in a circle, a file and a FIFO where a mount goes.
    for make in [
        |path: &std::path::Path| std::os::unix::fs::symlink("/no/such/place", path).unwrap(),
        |path: &std::path::Path| std::os::unix::fs::symlink("loop", path).unwrap(),
        |path: &std::path::Path| std::fs::write(path, "file").unwrap(),
        |path: &std::path::Path| {
            let dir = linux::fs::open_host(path.parent().unwrap(), linux::fs::OFlags::PATH).unwrap();
            linux::fs::mknodat(
                &dir,
                path.file_name().unwrap(),
                linux::fs::FileType::Fifo,
                linux::fs::Mode::from_raw_mode(0o600),
                0,
                0,
            )
            .unwrap();
        },
    ] {
        let mut b = Bundle::new("echo ran");
        make(&b.rootfs().join("loop"));
        b.config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/loop", "type": "tmpfs", "source": "tmpfs"}));
        let said = b.run();
        assert!(said.code == 0 || said.err.contains("mount tmpfs on /loop"), "{said:?}");
    }
}

/// CVE-2025-31133: masks come from the host's null device, whatever the image has at /dev/null.
fn fake_null() {
    let mut b = Bundle::new("cat /masked; echo end; : > /masked; cat /victim");
    // Without a /dev of its own the image's would be used.
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    std::fs::write(b.rootfs().join("masked"), "secret").unwrap();
    std::fs::write(b.rootfs().join("victim"), "untouched").unwrap();
    std::os::unix::fs::symlink("/victim", b.rootfs().join("dev/null")).unwrap();
    b.config["linux"]["maskedPaths"] = json!(["/masked", "/proc/interrupts"]);
    let said = b.run();
    assert!(said.out.starts_with("end") && said.out.contains("untouched"), "{said:?}");
    assert_eq!(std::fs::read_to_string(b.rootfs().join("masked")).unwrap(), "secret");
}

fn sysctls() {
    let mut b = Bundle::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    b.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel.msgmax": "5555"});
    b.run().ok().says("77\n5555");
    for (key, text) in [
        ("kernel.core_pattern", "not in a separate kernel namespace"),
        ("vm.overcommit_memory", "not in a separate kernel namespace"),
        ("kernel.hostname", "hostname field"),
        ("net/../kernel/core_pattern", "not the name of a sysctl"),
    ] {
        let mut b = Bundle::new("true");
        b.config["linux"]["sysctl"] = json!({key: "1"});
        b.run().fails(text);
    }
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    for namespaces in [
        json!([{"type": "mount"}, {"type": "uts"}, {"type": "pid"}]),
        json!([{"type": "mount"}, {"type": "uts"}, {"type": "pid"}, {"type": "network", "path": "/proc/self/ns/net"}]),
        json!([{"type": "mount"}, {"type": "uts"}, {"type": "pid"}, {"type": "network", "path": "/proc/1/ns/net"}]),
    ] {
        let mut b = Bundle::new("true");
        b.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/mqueue");
        b.config["linux"]["namespaces"] = namespaces;
        b.config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "78"});
        b.run().fails("net");
    }
    assert_eq!(host, std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap());
}

fn devices() {
    let b = Bundle::new(
        "mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null bs=1 count=1; mknod /tmp/kmsg c 1 11 && dd if=/tmp/kmsg of=/dev/null count=1; \
         head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x > /dev/null && echo fine",
    );
    let said = b.run();
    assert_eq!(said.err.matches("Operation not permitted").count(), 2, "{said:?}");
    assert!(said.out.contains("4\n4\nfine"), "{said:?}");
}

fn ids() {
    let b = Bundle::new("true");
    b.write();
    for id in ["", ".", "..", "../x", "a/b", "a b", "a\nb", "é", "/etc", "a;b", &"x".repeat(1025)] {
        for command in [
            &["state", id][..],
            &["start", id],
            &["kill", id],
            &["delete", "--force", id],
            &["exec", id, "true"],
            &["pause", id],
        ] {
            let said = b.call(command);
            assert!(said.code != 0 && said.err.contains("invalid container ID format"), "{command:?} {said:?}");
        }
        assert_ne!(b.call(&["create", "-b", b.dir.to_str().unwrap(), id]).code, 0);
    }
    assert!(!b.state_dir().exists());
}

fn descriptors() {
    let b = Bundle::new("ls /proc/$$/fd | tr '\\n' ' '");
    std::os::unix::fs::symlink("busybox", b.rootfs().join("bin/tr")).unwrap();
    b.write();
    // The caller leaks a directory of the host without close-on-exec.
    let leaked = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "exec 7</ 9</etc; exec \"$@\"",
            "sh",
            std::fs::read_link("/proc/self/exe").unwrap().to_str().unwrap(),
            "--runc",
            "--root",
        ])
        .arg(b.state_dir())
        .args(["run", "-b", b.dir.to_str().unwrap(), &b.id])
        .output()
        .unwrap();
    assert_eq!(super::bundle::Said::of(leaked).ok().out.trim(), "0 1 2");
    let b = Bundle::new("sleep 100");
    b.start();
    b.call(&["exec", &b.id, "sh", "-c", "echo /proc/$$/fd/*"]).ok().says("/fd/0 /proc");
    // Descriptors that are asked for come along.
    let kept = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "exec 3</etc/hostname; exec \"$@\"",
            "sh",
            std::fs::read_link("/proc/self/exe").unwrap().to_str().unwrap(),
            "--runc",
            "--root",
        ])
        .arg(b.state_dir())
        .args(["exec", "--preserve-fds", "1", &b.id, "sh", "-c", "cat <&3"])
        .output()
        .unwrap();
    assert_eq!(super::bundle::Said::of(kept).ok().out, std::fs::read_to_string("/etc/hostname").unwrap());
}

fn nosuid() {
    let mut b = Bundle::new("/v/id -u; /w/id -u");
    let data = b.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::copy("/proc/self/exe", data.join("unused")).unwrap();
    std::fs::copy(b.rootfs().join("bin/busybox"), data.join("id")).unwrap();
    std::fs::set_permissions(data.join("id"), std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    b.config["process"]["user"]["uid"] = json!(1000);
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/v", "type": "bind", "source": data, "options": ["rbind", "nosuid"]}));
    mounts.push(json!({"destination": "/w", "type": "bind", "source": data, "options": ["rbind", "noexec"]}));
    let said = b.run();
    assert!(said.out.starts_with("1000\n") && said.err.contains("Permission denied"), "{said:?}");
}

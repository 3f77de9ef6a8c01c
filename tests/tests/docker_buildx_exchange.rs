//! What goes in and out of a build over BuildKit's protocol beside an image in the store: caches, archives, attestations,
//! answers about a file, several platforms, contexts from elsewhere.

use std::path::Path;
use std::process::Command;

use blackbox::web::Web;
use blackbox::{Answer, GitServer, Registry, World, context, is_root};
use serde_json::Value;

fn world() -> Option<World> {
    if !is_root() || Command::new("docker").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs root and a docker client on the path");
        return None;
    }
    let world = World::start();
    world.plugin("docker-buildx").then_some(world)
}

fn build_of(world: &World, place: &str, flags: &[&str]) -> Answer {
    let mut command = world.docker_command();
    command.arg("build").args(flags).arg(place).env("BUILDKIT_PROGRESS", "plain").env("NO_COLOR", "1");
    blackbox::finish(command, b"")
}

fn build(world: &World, context: &Path, flags: &[&str]) -> Answer {
    build_of(world, &context.display().to_string(), flags)
}

fn run(world: &World, image: &str, script: &str) -> String {
    world.docker(["run", "--rm", "--network", "none", image, "sh", "-c", script]).success().text()
}

fn json(bytes: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(bytes.as_ref()).unwrap()
}

/// A document of a layout, by what refers to it.
fn blob(layout: &Path, link: &Value) -> Value {
    let digest = link["digest"].as_str().unwrap().trim_start_matches("sha256:");
    json(std::fs::read(layout.join("blobs/sha256").join(digest)).unwrap())
}

/// An archive, unpacked.
fn unpacked(archive: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    assert!(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder.path()).status().unwrap().success());
    folder
}

/// With `rewrite-timestamp=true` nothing that was made is later than `SOURCE_DATE_EPOCH`, whatever the cache has.
#[test]
fn files_have_the_given_time_whatever_the_cache_has() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN echo x > /b\nWORKDIR /w\nCOPY a /a\n"), ("a", "a")]);
    // Steps of now, in the cache.
    build(&world, folder.path(), &["-q"]).success();
    let out = tempfile::tempdir().unwrap();
    let made = |name: &str, secs: &str, more: &[&str]| {
        let place = out.path().join(name);
        let flag =
            format!("type=oci,tar=false,dest={},rewrite-timestamp=true,compression=uncompressed", place.display());
        let arg = format!("SOURCE_DATE_EPOCH={secs}");
        build(&world, folder.path(), &[&["-o", &flag, "--build-arg", &arg], more].concat()).success();
        let link = json(std::fs::read(place.join("index.json")).unwrap())["manifests"][0].clone();
        let layers = blob(&place, &link)["layers"].as_array().unwrap().clone();
        let files: Vec<String> = layers[layers.len() - 3..]
            .iter()
            .flat_map(|layer| {
                let digest = layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
                let mut tar = Command::new("tar");
                tar.args(["--full-time", "-tvf"]).arg(place.join("blobs/sha256").join(digest)).env("TZ", "UTC");
                let listed = tar.output().unwrap();
                assert!(listed.status.success());
                String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();
        (link["digest"].as_str().unwrap().to_owned(), files)
    };
    let (first, files) = made("first", "1700000000", &[]);
    for name in ["b", "w/", "a"] {
        assert!(files.iter().any(|line| line.ends_with(&format!(" {name}"))), "{name}: {files:?}");
    }
    for line in &files {
        assert!(line.contains("2023-11-14 22:13:20"), "{line}");
    }
    // Another time is another step; the same one is in the cache, and done again it comes to the same.
    let (_, later) = made("later", "1700000001", &[]);
    assert!(later.iter().all(|line| line.contains("2023-11-14 22:13:21")), "{later:?}");
    assert_eq!(made("cached", "1700000000", &[]).0, first);
    assert_eq!(made("again", "1700000000", &["--no-cache"]).0, first);
    let refused = build(&world, folder.path(), &["-o", "type=image,name=x,rewrite-timestamp=perhaps"]);
    refused.exits(1).stderr_has("non-bool value for rewrite-timestamp: perhaps");
}

#[test]
fn caches_go_out_and_come_back() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let text = "FROM busybox AS build\nRUN echo made > /made\nCOPY file /file\nFROM busybox\nCOPY --from=build /made /file /out/\nCOPY --link file /linked\nRUN cat /out/made > /end\n";
    let folder = context(&[("Dockerfile", text), ("file", "content")]);
    let kept = tempfile::tempdir().unwrap();
    let local = kept.path().join("cache").display().to_string();
    let app = format!("{}/app:1", registry.address);
    let to = [
        format!("--cache-to=type=local,dest={local},mode=max"),
        format!("--cache-to=type=registry,ref={}/cache,mode=max", registry.address),
        format!("--cache-to=type=registry,ref={}/least", registry.address),
        "--cache-to=type=inline".into(),
    ];
    let mut flags: Vec<&str> = to.iter().map(String::as_str).collect();
    flags.extend(["-t", &app, "--push"]);
    let told = build(&world, folder.path(), &flags).success().errors();
    assert!(told.contains("exporting cache to registry") && told.contains("exporting cache to client directory"));
    assert!(kept.path().join("cache/index.json").exists(), "the folder is a layout");
    let forget = || {
        let _ = world.knarr(["rmi", "-f", &app]);
        world.knarr(["builder", "prune", "-af"]).success();
    };
    // Of the steps alone, not of the base that is here.
    let steps = |from: &str| {
        forget();
        let flag = format!("--cache-from={from}");
        let mut flags = vec!["-t", app.as_str()];
        if !from.is_empty() {
            flags.push(&flag);
        }
        let told = build(&world, folder.path(), &flags).success().errors();
        told.lines().filter(|line| line.ends_with(" CACHED")).count() - bases(&told)
    };
    assert_eq!(steps(""), 0);
    assert_eq!(steps(&format!("type=local,src={local}")), 5);
    assert_eq!(steps(&format!("type=registry,ref={}/cache", registry.address)), 5);
    assert_eq!(steps(&format!("{}/least", registry.address)), 3);
    assert_eq!(steps(&app), 2);
    assert_eq!(run(&world, &app, "cat /end /linked"), "made\ncontent");
    // A cache that is not there is told of, and the build goes on.
    forget();
    let flag = format!("--cache-from={}/nothing", registry.address);
    let told = build(&world, folder.path(), &[&flag]).success().errors();
    assert!(told.contains("importing cache manifest from") && told.contains("ERROR"), "{told}");
    // One that cannot be made is refused, and by name.
    build(&world, folder.path(), &["--cache-to=type=nowhere,mode=max"])
        .exits(1)
        .stderr_has("unknown cache exporter: \"nowhere\"");
    world.knarr(["doctor"]).success();
}

/// Vertices of base images that say they are cached, as they always are.
fn bases(told: &str) -> usize {
    let lines: Vec<&str> = told.lines().collect();
    let cached = |number: &str| lines.iter().any(|line| *line == format!("{number} CACHED"));
    let named = lines.iter().filter(|line| line.contains("] FROM "));
    let numbers: std::collections::BTreeSet<&str> = named.filter_map(|line| line.split(' ').next()).collect();
    numbers.into_iter().filter(|number| cached(number)).count()
}

#[test]
fn attestations_and_annotations_leave_with_the_image() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let text = "FROM busybox\nARG V\nCOPY status /var/lib/dpkg/status\nRUN --mount=type=secret,id=token true\n";
    let status = "Package: tool\nStatus: install ok installed\nArchitecture: all\nVersion: 1.2\n";
    let folder = context(&[("Dockerfile", text), ("status", status)]);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("o.tar");
    let output = format!("type=oci,dest={}", file.display());
    let said = ["--provenance=mode=max", "--sbom=true", "--build-arg=V=7", "--annotation=manifest:who=me"];
    let flags = [&["-o", &output, "--annotation=index:all=us"][..], &said].concat();
    build(&world, folder.path(), &flags).success();
    let layout = unpacked(&file);
    let top = json(std::fs::read(layout.path().join("index.json")).unwrap());
    let index = blob(layout.path(), &top["manifests"][0]);
    assert_eq!(index["annotations"]["all"], "us");
    assert_eq!(blob(layout.path(), &index["manifests"][0])["annotations"]["who"], "me");
    let attested = &index["manifests"][1];
    assert_eq!(attested["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(attested["annotations"]["vnd.docker.reference.digest"], index["manifests"][0]["digest"]);
    let manifest = blob(layout.path(), attested);
    let statements: Vec<Value> =
        manifest["layers"].as_array().unwrap().iter().map(|l| blob(layout.path(), l)).collect();
    assert_eq!(statements[0]["predicateType"], "https://slsa.dev/provenance/v0.2");
    assert_eq!(statements[0]["predicate"]["invocation"]["parameters"]["args"]["build-arg:V"], "7");
    assert_eq!(statements[1]["predicateType"], "https://spdx.dev/Document");
    let packages = statements[1]["predicate"]["packages"].as_array().unwrap();
    assert!(packages.iter().any(|p| p["name"] == "tool" && p["versionInfo"] == "1.2"), "{packages:?}");
    // In the newer form, if that is asked for.
    let said_newer = ["--provenance=mode=max,version=v1", "--build-arg=V=7", "-o", &output];
    build(&world, folder.path(), &said_newer).success();
    let layout = unpacked(&file);
    let top = json(std::fs::read(layout.path().join("index.json")).unwrap());
    let index = blob(layout.path(), &top["manifests"][0]);
    let statement = blob(layout.path(), &blob(layout.path(), &index["manifests"][1])["layers"][0]);
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["request"]["args"]["build-arg:V"], "7");
    assert!(definition["resolvedDependencies"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/busybox@latest"));
    assert!(statement["predicate"]["runDetails"]["metadata"]["finishedOn"].is_string());
    // The same to a registry, from where others read it.
    let name = format!("{}/said:1", registry.address);
    let metadata = out.path().join("metadata.json");
    let place = metadata.display().to_string();
    build(&world, folder.path(), &[&["-t", &name, "--push", "--metadata-file", &place][..], &said].concat()).success();
    let told = json(std::fs::read(&metadata).unwrap());
    assert_eq!(told["image.name"], name.as_str());
    assert_eq!(told["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    let shown = world.docker(["buildx", "imagetools", "inspect", &name, "--format", "{{json .Provenance}}"]).success();
    assert_eq!(shown.json()["SLSA"]["invocation"]["parameters"]["args"]["build-arg:V"], "7");
    let shown = world.docker(["buildx", "imagetools", "inspect", &name]).success().text();
    assert!(shown.contains(told["containerimage.digest"].as_str().unwrap()), "{shown}");
    world.docker(["rmi", &name]).success();
    world.docker(["run", "--rm", &name, "true"]).success();
    // The store keeps neither: it is said before anything is built.
    for flags in [
        &["--provenance=mode=max", "-t", "x"][..],
        &["--sbom=true", "-t", "x"],
        &["--annotation=a=b", "-o", "type=image,name=x"],
    ] {
        let refused = build(&world, folder.path(), flags).exits(1).errors();
        assert!(
            refused.contains("not in this engine's image store") || refused.contains("not kept in this"),
            "{refused}"
        );
    }
    build(&world, folder.path(), &["--sbom=generator=x/y", "-o", &output])
        .exits(1)
        .stderr_has("generator x/y is not run");
    world.knarr(["doctor"]).success();
}

#[test]
fn questions_about_a_file_are_answered() {
    let Some(world) = world() else { return };
    let text = "# check=skip=none\nFROM busybox as first\nARG WHO=me\nRUN --mount=type=secret,id=tok,required true\n# what ships\nFROM first AS last\nCOPY x /x\n";
    let folder = context(&[("Dockerfile", text), ("x", "")]);
    let checked = build(&world, folder.path(), &["--check"]).exits(1).text();
    assert!(
        checked.contains("Check complete, 1 warning has been found!") && checked.contains("FromAsCasing"),
        "{checked}"
    );
    assert!(checked.contains("   2 | >>> FROM busybox as first"), "{checked}");
    let outline = build(&world, folder.path(), &["--call=outline"]).success().text();
    assert!(outline.contains("WHO") && outline.contains("tok"), "{outline}");
    let targets = build(&world, folder.path(), &["--call=targets"]).success().text();
    assert!(targets.contains("first") && targets.contains("last (default)"), "{targets}");
    let document = build(&world, folder.path(), &["--call=targets,format=json"]).success().json();
    assert_eq!(document["targets"][1]["name"], "last");
    let described = build(&world, folder.path(), &["--call=subrequests.describe"]).success().text();
    assert!(described.contains("outline") && described.contains("lint"), "{described}");
    let clean = context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    build(&world, clean.path(), &["--check"]).success().stdout_has("Check complete, no warnings found.");
    // Nothing was built for any of it.
    assert!(!world.docker(["buildx", "du"]).success().text().contains("RUN true"));
}

#[test]
fn archives_and_layouts_come_to_the_client() {
    let Some(world) = world() else { return };
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN echo made > /made\nLABEL from=file over=file\n")]);
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).display().to_string();
    let docker = format!("type=docker,name=arch/ive:1,dest={}", at("docker.tar"));
    let layout = format!("type=oci,name=lay/out:1,tar=false,dest={}", at("layout"));
    let (id, metadata) = (at("id"), at("metadata.json"));
    let flags = ["-o", &docker, "--label=over=flag", "--iidfile", &id, "--metadata-file", &metadata];
    build(&world, folder.path(), &flags).success();
    world.docker(["load", "-i", &at("docker.tar")]).success().stdout_has("arch/ive:1");
    assert_eq!(run(&world, "arch/ive:1", "cat /made"), "made");
    let labels = world.docker(["inspect", "-f", "{{json .Config.Labels}}", "arch/ive:1"]).success().json();
    assert_eq!(labels, serde_json::json!({ "from": "file", "over": "flag" }));
    let told = json(std::fs::read(&metadata).unwrap());
    assert_eq!(told["containerimage.config.digest"], std::fs::read_to_string(&id).unwrap().as_str());
    build(&world, folder.path(), &["-o", &layout]).success();
    let index = json(std::fs::read(out.path().join("layout/index.json")).unwrap());
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/lay/out:1");
    let config = blob(&out.path().join("layout"), &blob(&out.path().join("layout"), &index["manifests"][0])["config"]);
    assert_eq!(config["config"]["Labels"]["over"], "file");
    // And a layout is a context again.
    let next = context(&[("Dockerfile", "FROM base\nCOPY --from=base /made /again\n")]);
    let named = format!("--build-context=base=oci-layout://{}", at("layout"));
    build(&world, next.path(), &["-t", "next", &named]).success();
    assert_eq!(run(&world, "next", "cat /again"), "made");
    blackbox::eventually("what stood for the layout is gone", || {
        // base, arch/ive and next.
        world.docker(["images", "-aq"]).success().text().lines().count() == 3
    });
    world.knarr(["doctor"]).success();
}

/// `oci-mediatypes=false` gives Docker's names, which an archive for Docker has anyway; what they have no word for keeps OCI's.
#[test]
fn parts_go_by_the_names_that_are_asked_for() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN seq 30000 > /numbers\n")]);
    let out = tempfile::tempdir().unwrap();
    let (oci, docker) = ("application/vnd.oci.image", "application/vnd.docker.");
    let platforms = "--platform=linux/amd64,linux/arm64";
    let cross = context(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    for (number, (folder, asked, flags, family)) in [
        (&folder, "type=oci", &[][..], oci),
        (&folder, "type=oci,oci-mediatypes=false", &[], docker),
        (&folder, "type=oci,oci-mediatypes=false,compression=gzip", &[], docker),
        (&folder, "type=docker", &[], docker),
        (&folder, "type=docker,oci-mediatypes=true", &[], oci),
        (&folder, "type=oci,oci-mediatypes=false,compression=zstd", &[], oci),
        (&folder, "type=oci,oci-mediatypes=false,annotation.a=b", &[], oci),
        (&folder, "type=oci,oci-mediatypes=false", &["--provenance=true"], oci),
        (&cross, "type=oci,oci-mediatypes=false", &[platforms, "--provenance=false"], docker),
    ]
    .into_iter()
    .enumerate()
    {
        // With this driver buildx writes no folder for an archive of Docker's.
        let archive = out.path().join(format!("{number}.tar"));
        let output = format!("--output={asked},dest={}", archive.display());
        build(&world, folder.path(), &[&[output.as_str()], flags].concat()).success();
        let layout = unpacked(&archive);
        let place = layout.path();
        let mut found = vec![json(std::fs::read(place.join("index.json")).unwrap())["manifests"][0].clone()];
        let mut names = Vec::new();
        while let Some(one) = found.pop() {
            let name = one["mediaType"].as_str().unwrap().to_owned();
            if name.ends_with("json") && !name.contains("in-toto") {
                let document = blob(place, &one);
                // A manifest says of itself what the one who points at it says.
                assert!(document["mediaType"].as_str().is_none_or(|own| own == name), "{asked}: {document}");
                found.extend(document["manifests"].as_array().into_iter().flatten().cloned());
                found.extend(document["layers"].as_array().into_iter().flatten().cloned());
                found.extend(document.get("config").filter(|config| config["digest"].is_string()).cloned());
            }
            if !name.contains("in-toto") {
                names.push(name);
            }
        }
        assert!(names.len() >= 3 && names.iter().all(|name| name.starts_with(family)), "{asked} {flags:?}: {names:?}");
    }
    // To a registry, which tells what it has; and back by the stock client.
    let app = format!("{}/app:1", registry.address);
    let flag = format!("type=registry,name={app},oci-mediatypes=false,compression=gzip");
    build(&world, folder.path(), &["-o", &flag]).success();
    let manifest = world.docker(["buildx", "imagetools", "inspect", "--raw", &app]).success().json();
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    world.knarr(["rmi", "-f", &app]).success();
    world.docker(["pull", "-q", &app]).success();
    assert_eq!(run(&world, &app, "tail -n 1 /numbers"), "30000");
    // What only passes through does not stay.
    let gone = format!("{}/gone:1", registry.address);
    build(&world, folder.path(), &["-o", &format!("type=image,name={gone},push=true,store=false")]).success();
    world.docker(["image", "inspect", &gone]).exits(1);
    world.docker(["pull", "-q", &gone]).success();
    for (flag, part) in [
        ("--output=type=image,oci-mediatypes=perhaps", "non-bool value"),
        ("--output=type=image,registry.insecure=true", "not supported"),
        ("--cache-to=type=registry,ref=localhost:1/x,oci-mediatypes=false", "OCI image manifest"),
        ("--cache-to=type=registry,ref=localhost:1/x,image-manifest=false", "OCI image manifest"),
    ] {
        build(&world, folder.path(), &[flag]).exits(1).stderr_has(part);
    }
    world.knarr(["doctor"]).success();
}

/// Layers leave packed as they are asked for: what was built here, and with force also what came in another form. All forms are
/// the same image.
#[test]
fn layers_leave_in_the_form_that_is_asked_for() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let base = format!("{}/base:1", registry.address);
    let bottom = context(&[("Dockerfile", "FROM busybox\nRUN seq 20000 > /numbers\n")]);
    // A base whose layers came as gzip.
    build(&world, bottom.path(), &["-o", &format!("type=registry,name={base},compression=gzip")]).success();
    world.knarr(["builder", "prune", "-af"]).success();
    // Nothing of it is here in another form.
    world.knarr(["rmi", "-f", &base, "busybox"]).success();
    let folder = context(&[("Dockerfile", &format!("FROM {base}\nRUN seq 30000 > /more\n"))]);
    let out = tempfile::tempdir().unwrap();
    let mut ids = std::collections::BTreeSet::new();
    let mut sizes = std::collections::BTreeMap::new();
    let [gzip, zstd, plain] = ["tar+gzip", "tar+zstd", "tar"];
    for (asked, expected) in [
        ("compression=uncompressed", [gzip, gzip, plain]),
        ("compression=zstd", [gzip, gzip, zstd]),
        ("compression=zstd,compression-level=1,force-compression=true", [zstd, zstd, zstd]),
        ("compression=zstd,compression-level=19,force-compression=true", [zstd, zstd, zstd]),
        ("compression=uncompressed,force-compression=true", [plain, plain, plain]),
        ("compression-level=9,force-compression=true", [gzip, gzip, gzip]),
    ] {
        let place = out.path().join(format!("layout{}", sizes.len()));
        let flag = format!("type=oci,tar=false,dest={},{asked}", place.display());
        build(&world, folder.path(), &["-o", &flag]).success();
        let manifest = blob(&place, &json(std::fs::read(place.join("index.json")).unwrap())["manifests"][0]);
        let layers = manifest["layers"].as_array().unwrap();
        let kind = |layer: &Value| layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
        // The base may be one layer or more; the last is the step's.
        let kinds: Vec<String> = layers.iter().map(kind).collect();
        assert_eq!(kinds[kinds.len() - 3..], expected, "{asked}");
        let diff_ids = blob(&place, &manifest["config"])["rootfs"]["diff_ids"].clone();
        for (layer, diff_id) in layers.iter().zip(diff_ids.as_array().unwrap()) {
            let digest = layer["digest"].as_str().unwrap().trim_start_matches("sha256:");
            let packed = std::fs::read(place.join("blobs/sha256").join(digest)).unwrap();
            assert_eq!(packed.len() as u64, layer["size"].as_u64().unwrap(), "{asked}");
            let is = |magic: &[u8]| packed.starts_with(magic);
            assert_eq!((is(&[0x1f, 0x8b]), is(&[0x28, 0xb5, 0x2f, 0xfd])), (kind(layer) == gzip, kind(layer) == zstd));
            if kind(layer) == plain {
                assert_eq!(*diff_id, layer["digest"], "{asked}");
            }
        }
        ids.insert(manifest["config"]["digest"].as_str().unwrap().to_owned());
        sizes.insert(asked, layers.iter().map(|layer| layer["size"].as_u64().unwrap()).sum::<u64>());
    }
    assert_eq!(ids.len(), 1, "the image is the same in every form");
    let size =
        |asked: &str| sizes[format!("compression=zstd,compression-level={asked},force-compression=true").as_str()];
    assert!(
        size("19") < size("1") && size("1") < sizes["compression=uncompressed,force-compression=true"],
        "{sizes:?}"
    );
    // To a registry and back; and an archive.
    let app = format!("{}/app:1", registry.address);
    let flag = format!("type=image,name={app},push=true,compression=zstd,force-compression=true");
    build(&world, folder.path(), &["-o", &flag]).success();
    world.knarr(["rmi", "-f", &app]).success();
    world.knarr(["builder", "prune", "-af"]).success();
    world.docker(["pull", "-q", &app]).success();
    assert_eq!(run(&world, &app, "tail -n 1 /numbers /more | grep 0"), "20000\n30000");
    let archive = out.path().join("packed.tar");
    build(
        &world,
        folder.path(),
        &["-o", &format!("type=docker,name=packed:1,dest={},compression=gzip", archive.display())],
    )
    .success();
    world.docker(["load", "-i", archive.to_str().unwrap()]).success();
    assert_eq!(run(&world, "packed:1", "tail -n 1 /more"), "30000");
    // A cache too, and it serves again.
    let kept = out.path().join("cache");
    let to = format!("--cache-to=type=local,dest={},mode=max,compression=zstd,force-compression=true", kept.display());
    build(&world, folder.path(), &["-t", "app", &to]).success();
    let manifest = blob(&kept, &json(std::fs::read(kept.join("index.json")).unwrap())["manifests"][0]);
    assert!(
        manifest["layers"].as_array().unwrap().iter().all(|layer| layer["mediaType"].as_str().unwrap().ends_with(zstd))
    );
    world.knarr(["rmi", "-f", "app", "packed:1"]).success();
    world.knarr(["builder", "prune", "-af"]).success();
    let from = format!("--cache-from=type=local,src={}", kept.display());
    let told = build(&world, folder.path(), &["-t", "app", &from]).success().errors();
    assert!(told.lines().filter(|line| line.ends_with(" CACHED")).count() > bases(&told), "{told}");
    assert_eq!(run(&world, "app", "tail -n 1 /more"), "30000");
    for (flag, part) in [
        ("--output=type=oci,dest=-,compression=estargz", "estargz is not supported"),
        ("--output=type=image,compression=brotli", "unsupported compression type"),
        ("--output=type=oci,dest=-,compression=gzip,compression-level=10", "not between 0 and 9"),
    ] {
        build(&world, folder.path(), &[flag]).exits(1).stderr_has(part);
    }
    // The client makes the folder before it asks.
    let to = format!("--cache-to=type=local,dest={},compression=estargz", out.path().join("none").display());
    build(&world, folder.path(), &[&to]).exits(1).stderr_has("estargz is not supported");
    world.knarr(["doctor"]).success();
}

/// A layer is packed once for each form: whoever asks again gets the blob that is there, while the layer is.
#[test]
fn layers_are_packed_once() {
    let Some(world) = world() else { return };
    let registries = [Registry::start(), Registry::start()];
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN seq 30000 > /numbers\n")]);
    let push = |registry: &Registry| {
        let app = format!("{}/app:1", registry.address);
        let flag = format!("type=registry,name={app},compression=zstd,force-compression=true");
        build(&world, folder.path(), &["-o", &flag]).success();
        world.docker(["buildx", "imagetools", "inspect", "--raw", &app]).success().text()
    };
    let packed = || {
        let told = world.docker(["buildx", "du", "--verbose", "--filter", "type=internal"]).success().text();
        told.lines().filter(|line| line.contains("packed layer")).count()
    };
    let blobs = || std::fs::read_dir(world.root().join("blobs/sha256")).unwrap().count();
    assert_eq!(packed(), 0);
    let before = blobs();
    let first = push(&registries[0]);
    let layers = packed();
    assert!(layers >= 2, "{layers}");
    assert!(blobs() >= before + layers);
    // Without their files nothing could be packed again.
    let (place, aside) = (world.root().join("layers"), world.root().join("layers.aside"));
    std::fs::rename(&place, &aside).unwrap();
    std::fs::create_dir(&place).unwrap();
    let second = push(&registries[1]);
    std::fs::remove_dir(&place).unwrap();
    std::fs::rename(&aside, &place).unwrap();
    assert_eq!(second, first);
    world.knarr(["doctor", "--deep"]).success();
    // It is cache, and goes with the cache alone.
    world.docker(["builder", "prune", "-f", "--filter", "type=internal"]).success();
    assert_eq!(packed(), 0);
    assert!(blobs() <= before + 1, "{}", blobs());
    assert_eq!(push(&registries[0]), first);
    assert_eq!(packed(), layers);
    // And with what it was packed from.
    for registry in &registries {
        world.knarr(["rmi", "-f", &format!("{}/app:1", registry.address)]).success();
    }
    world.docker(["builder", "prune", "-af", "--filter", "type=regular"]).success();
    world.knarr(["rmi", "-f", "busybox"]).success();
    assert_eq!((packed(), blobs()), (0, 0));
    world.knarr(["doctor", "--deep"]).success();
}

#[test]
fn stages_are_built_anew_on_demand() {
    let Some(world) = world() else { return };
    let text = "FROM busybox AS one\nRUN head -c 9 /dev/urandom | od -x > /one\nFROM busybox AS two\nRUN head -c 9 /dev/urandom | od -x > /two\nFROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\n";
    let folder = context(&[("Dockerfile", text)]);
    let look = |flags: &[&str]| {
        build(&world, folder.path(), &[&["-t", "anew"][..], flags].concat()).success();
        (run(&world, "anew", "cat /one"), run(&world, "anew", "cat /two"))
    };
    let first = look(&[]);
    assert_eq!(look(&[]), first);
    let second = look(&["--no-cache-filter", "two"]);
    assert!(second.0 == first.0 && second.1 != first.1, "{first:?} {second:?}");
    let third = look(&["--no-cache"]);
    assert!(third.0 != second.0 && third.1 != second.1, "{second:?} {third:?}");
}

#[test]
fn contexts_come_from_addresses() {
    let Some(world) = world() else { return };
    let web = Web::start();
    let tree = context(&[
        ("Dockerfile", "FROM busybox\nCOPY file /file\n"),
        ("file", "remote"),
        ("sub/Dockerfile", "FROM busybox\nCOPY own /file\n"),
        ("sub/own", "of sub"),
    ]);
    let sh = |script: &str| {
        let done = Command::new("sh").args(["-ec", script]).current_dir(tree.path()).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    web.file("/ctx.tgz", sh("tar -cz Dockerfile file"), "\"1\"");
    build_of(&world, &web.url("/ctx.tgz"), &["-t", "tar"]).success();
    assert_eq!(run(&world, "tar", "cat /file"), "remote");
    web.file("/Dockerfile", "FROM busybox\nRUN echo alone > /file\n", "\"1\"");
    build_of(&world, &web.url("/Dockerfile"), &["-t", "text"]).success();
    assert_eq!(run(&world, "text", "cat /file"), "alone");
    let Some(server) = GitServer::start(tree.path()) else { return };
    sh(
        "mkdir repo && mv Dockerfile file sub repo && cd repo && git init -q -b main && git add -A && git -c user.name=t -c user.email=t@t commit -qm one",
    );
    let repository = server.url("repo");
    build_of(&world, &format!("{repository}#main"), &["-t", "git"]).success();
    assert_eq!(run(&world, "git", "cat /file"), "remote");
    build_of(&world, &format!("{repository}#main:sub"), &["-t", "sub"]).success();
    assert_eq!(run(&world, "sub", "cat /file"), "of sub");
    let named = format!("--build-context=other={repository}#main");
    let folder = context(&[("Dockerfile", "FROM busybox\nCOPY --from=other sub/own /file\n")]);
    build(&world, folder.path(), &["-t", "named", &named]).success();
    assert_eq!(run(&world, "named", "cat /file"), "of sub");
    build_of(&world, &web.url("/nothing.tgz"), &[]).exits(1);
    world.knarr(["doctor"]).success();
}

#[test]
fn several_platforms_leave_in_one_index() {
    let Some(world) = world() else { return };
    let registry = Registry::start();
    let base = format!("{}/base:1", registry.address);
    let two = ["--platform", "linux/amd64,linux/arm64"];
    let text = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /for\nENV ARCH=$TARGETARCH\n";
    let folder = context(&[("Dockerfile", text), ("amd64", "a"), ("arm64", "b")]);
    build(&world, folder.path(), &[&two[..], &["-t", &base, "--push"]].concat()).success();
    let index = world.docker(["buildx", "imagetools", "inspect", "--raw", &base]).success().json();
    let platforms: Vec<_> =
        index["manifests"].as_array().unwrap().iter().map(|m| &m["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    // On a base of several platforms each finds its own.
    let text = format!("FROM {base}\nCOPY --from={base} /for /copied\n");
    let next = context(&[("Dockerfile", &text)]);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("two.tar");
    let output = format!("type=oci,dest={}", file.display());
    build(&world, next.path(), &[&two[..], &["-o", &output]].concat()).success();
    let layout = unpacked(&file);
    let top = json(std::fs::read(layout.path().join("index.json")).unwrap());
    let index = blob(layout.path(), &top["manifests"][0]);
    for (at, arch) in ["amd64", "arm64"].into_iter().enumerate() {
        let config = blob(layout.path(), &blob(layout.path(), &index["manifests"][at])["config"]);
        assert_eq!(config["architecture"], arch);
        let environment = config["config"]["Env"].as_array().unwrap();
        assert!(environment.contains(&format!("ARCH={arch}").into()), "{environment:?}");
    }
    // What cannot be is said, and why.
    build(&world, folder.path(), &[&two[..], &["-t", "x"]].concat())
        .exits(1)
        .stderr_has("holds images of one platform each");
    let docker = format!("type=docker,dest={}", out.path().join("x.tar").display());
    build(&world, folder.path(), &[&two[..], &["-o", &docker]].concat())
        .exits(1)
        .stderr_has("docker exporter does not support exporting manifest lists");
    world.knarr(["doctor"]).success();
}

/// A step of another machine's kind, where nothing emulates it, fails as it does for BuildKit.
#[test]
fn a_step_for_another_machine_needs_emulation() {
    let Some(world) = world() else { return };
    if std::fs::read_dir("/proc/sys/fs/binfmt_misc")
        .is_ok_and(|all| all.flatten().any(|e| e.file_name().to_string_lossy().contains("arm")))
    {
        eprintln!("SKIPPED: this machine emulates arm");
        return;
    }
    // A program for arm64 as far as its header goes.
    let mut program = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0xb7, 0, 1, 0, 0, 0];
    program.resize(120, 0);
    let folder = context(&[("Dockerfile", "FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN true\n")]);
    std::fs::write(folder.path().join("sh"), program).unwrap();
    let told = build(&world, folder.path(), &["--platform", "linux/arm64"]).exits(1).errors();
    assert!(told.to_lowercase().contains("exec format error") && told.contains(">>> RUN true"), "{told}");
}

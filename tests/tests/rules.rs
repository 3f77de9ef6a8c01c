//! The repository's own rules, kept by reading its files: nothing is built or run here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates of ours each crate may import, as in ARCHITECTURE.md. `knarr` wires everything and may import all.
const LAYERS: &[(&str, &[&str])] = &[
    ("vocab", &[]),
    ("linux", &["vocab"]),
    ("nameserver", &["vocab"]),
    ("runtime", &["linux", "vocab"]),
    ("keeper", &["runtime", "linux", "vocab"]),
    ("db", &["vocab"]),
    ("image", &["db", "linux", "vocab"]),
    ("network", &["linux", "vocab"]),
    ("registry", &["image", "db", "vocab"]),
    ("engine", &["cdi", "registry", "network", "image", "keeper", "runtime", "db", "linux", "nameserver", "vocab"]),
    ("pods", &["engine", "linux", "network", "vocab"]),
    ("spdy", &[]),
    ("streaming", &["pods", "spdy"]),
    ("grpc", &[]),
    ("cdi", &[]),
    ("cri", &["engine", "grpc", "pods", "streaming", "vocab"]),
    ("build", &["engine", "image", "registry", "db", "linux", "vocab"]),
    ("buildkit", &["build", "engine", "grpc", "image", "linux", "vocab"]),
    ("docker-api", &["build", "buildkit", "engine", "image", "linux", "streaming", "vocab"]),
    ("store", &["db", "linux", "vocab"]),
    ("cel", &["vocab"]),
    ("resources", &["cel", "vocab"]),
    ("client", &["resources", "vocab"]),
    ("apiserver", &["cel", "client", "resources", "store", "vocab"]),
    ("cache", &["client", "resources"]),
    ("controllers", &["cache", "resources"]),
    ("scheduler", &["cache", "resources"]),
    // A whole cluster but its nodes, and nothing of the program stands on it.
    ("simulation", &["apiserver", "cache", "client", "controllers", "resources", "scheduler", "store", "vocab"]),
    ("proxy", &["cache", "linux", "resources"]),
    ("dns", &["cache", "nameserver", "resources", "vocab"]),
    // Its door to containers has the engine behind it.
    ("kubelet", &["cache", "client", "cri", "engine", "grpc", "linux", "pods", "resources", "streaming", "vocab"]),
    (
        "knarr",
        &[
            "vocab",
            "linux",
            "runtime",
            "keeper",
            "db",
            "image",
            "registry",
            "network",
            "engine",
            "build",
            "buildkit",
            "docker-api",
            "store",
            "cel",
            "resources",
            "client",
            "apiserver",
            "cache",
            "controllers",
            "scheduler",
            "kubelet",
            "cri",
            "grpc",
            "cdi",
            "pods",
            "spdy",
            "streaming",
            "proxy",
            "dns",
        ],
    ),
    // The black box sees what a user sees.
    ("blackbox", &[]),
    ("fuzz", &[]),
];

/// Crates that only tests may use, and every crate's tests may.
const TOOLS: &[&str] = &["fuzz"];

/// Words of Docker's container JSON. Inside the engine hull only `docker-api` may spell them.
const DOCKER_WORDS: &[&str] =
    &["\"HostConfig\"", "\"NetworkSettings\"", "\"RestartPolicy\"", "\"PortBindings\"", "\"AttachStdin\""];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace root").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// Every crate's folder by its name.
fn crates() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        let manifest = folder.join("Cargo.toml");
        if manifest.exists() {
            let text = read(&manifest);
            let name = text.lines().find_map(|line| line.strip_prefix("name = ")).expect("a package name");
            found.insert(name.trim_matches('"').to_owned(), folder);
        } else {
            folders.extend(subfolders(&folder));
        }
    }
    found
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("list {}: {e}", folder.display()));
    entries.map(|entry| entry.expect("a directory entry").path()).filter(|path| path.is_dir()).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("list {}: {e}", folder.display())) {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The names in `[dependencies]`, `[dev-dependencies]` and `[build-dependencies]`, also of `[target.*]`.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end_matches(']').ends_with("dependencies");
        } else if inside {
            let name: String =
                line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_').collect();
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
    names
}

/// A line of code without its comment. Strings that contain `//` lose their end, which no rule here minds.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let ours = crates();
    let mut faults = Vec::new();
    for (name, folder) in &ours {
        let Some(allowed) = layers.get(name.as_str()) else {
            faults.push(format!("{name}: not in the layer table of tests/tests/rules.rs"));
            continue;
        };
        for dependency in dependencies(&read(&folder.join("Cargo.toml"))) {
            if TOOLS.contains(&dependency.as_str()) {
                let manifest = read(&folder.join("Cargo.toml"));
                let before_tests = manifest.split("[dev-dependencies]").next().expect("a part before it");
                if before_tests.lines().any(|line| line.starts_with(&dependency)) {
                    faults.push(format!("{name} imports {dependency}, which is for tests"));
                }
            } else if ours.contains_key(&dependency) && !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{name} imports {dependency}, which is not below it"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_layer_table_has_no_cycle_and_the_engine_hull_does_not_know_the_cluster() {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    fn below<'a>(name: &'a str, layers: &BTreeMap<&'a str, &'a [&'a str]>, depth: usize) -> BTreeSet<&'a str> {
        assert!(depth < 20, "a cycle through {name}");
        let mut all = BTreeSet::new();
        for &next in layers[name] {
            all.insert(next);
            all.extend(below(next, layers, depth + 1));
        }
        all
    }
    let cluster = BTreeSet::from([
        "cel",
        "store",
        "resources",
        "client",
        "apiserver",
        "cache",
        "controllers",
        "scheduler",
        "simulation",
        "kubelet",
        "proxy",
        "dns",
    ]);
    for (name, _) in LAYERS {
        let reached = below(name, &layers, 0);
        if *name != "knarr" && !cluster.contains(name) {
            assert!(reached.is_disjoint(&cluster), "{name} reaches the cluster hull: {reached:?}");
        }
    }
}

#[test]
fn unsafe_stays_in_the_linux_crate() {
    let mut faults = Vec::new();
    for (name, folder) in crates() {
        let manifest = read(&folder.join("Cargo.toml"));
        if name == "linux" {
            assert!(
                manifest.contains("[lints.rust]") || manifest.contains("workspace = true"),
                "linux has a lint table"
            );
            continue;
        }
        if !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("{name}: the manifest does not take the workspace's lints"));
        }
        for file in rust_files(&folder) {
            for (number, line) in read(&file).lines().enumerate() {
                let keyword = has_word(code_of(line), "unsafe") && !line.contains("\"unsafe\"");
                let lifted = line.contains("allow(unsafe_code)");
                if (keyword || lifted) && !file.ends_with("tests/rules.rs") {
                    faults.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_workspace_forbids_unsafe_code() {
    let manifest = read(&root().join("Cargo.toml"));
    assert!(manifest.contains("unsafe_code = \"forbid\""), "the root manifest's lint table");
}

#[test]
fn every_crate_is_named_in_the_architecture() {
    let text = read(&root().join("ARCHITECTURE.md"));
    for name in crates().keys().filter(|name| *name != "blackbox") {
        assert!(text.contains(&format!("`{name}`")), "{name} is missing in the layer table of ARCHITECTURE.md");
        assert!(text.contains(&format!("{name}/")), "{name} is missing on the map of ARCHITECTURE.md");
    }
}

#[test]
fn only_docker_api_spells_dockers_json_inside_the_engine_hull() {
    let mut faults = Vec::new();
    for (name, folder) in crates() {
        if matches!(name.as_str(), "docker-api" | "knarr" | "blackbox") {
            continue;
        }
        for file in rust_files(&folder.join("src")) {
            for (number, line) in read(&file).lines().enumerate() {
                if DOCKER_WORDS.iter().any(|word| code_of(line).contains(word)) {
                    faults.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn a_file_past_a_thousand_lines_says_why_in_its_header() {
    let mut faults = Vec::new();
    for folder in crates().values() {
        for file in rust_files(folder) {
            let text = read(&file);
            let lines = text.lines().count();
            let header: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
            if lines > 1000 && !header.contains("One file because") {
                faults.push(format!("{}: {lines} lines, and no \"One file because\" in its header", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut faults = Vec::new();
    for folder in crates().values() {
        for file in rust_files(&folder.join("src")) {
            if !read(&file).starts_with("//!") {
                faults.push(file.display().to_string());
            }
        }
    }
    assert!(faults.is_empty(), "no module comment: {faults:#?}");
}

#[test]
fn decisions_are_numbered_without_gaps() {
    let mut numbers: Vec<u32> = fs::read_dir(root().join("docs/decisions"))
        .expect("docs/decisions")
        .map(|entry| entry.expect("a directory entry").file_name().into_string().expect("a plain name"))
        .filter(|name| name != "README.md")
        .map(|name| name.split('-').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name}: no number")))
        .collect();
    numbers.sort_unstable();
    let expected: Vec<u32> = (1..=numbers.len() as u32).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn every_dependency_is_named_in_the_root_manifest() {
    let mut faults = Vec::new();
    for (name, folder) in crates() {
        let mut inside = false;
        for line in read(&folder.join("Cargo.toml")).lines() {
            if let Some(section) = line.strip_prefix('[') {
                inside = section.trim_end_matches(']').ends_with("dependencies");
            } else if inside && line.contains('=') && !line.starts_with('#') && !line.contains("workspace = true") {
                faults.push(format!("{name}: {line}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

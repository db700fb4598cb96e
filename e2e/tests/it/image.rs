//! The image that `e2e/image/build` makes of built programs: the same bytes from the same programs, and nothing in it but
//! them and what they stand on. It needs no cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::harness;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PROGRAMS: [&str; 2] = ["sluice", "sluice-operator"];

/// Prints what is in an archive: its names, its configuration, and the files of its layers; writes one of them out.
const LOOK: &str = r#"
import io, json, sys, tarfile
image = tarfile.open(sys.argv[1])
read = lambda name: image.extractfile(name).read()
[described] = json.loads(read("manifest.json"))
files = {}
for layer in described["Layers"]:
    layer = tarfile.open(fileobj=io.BytesIO(read(layer)))
    for member in layer:
        about = {"mode": oct(member.mode), "owner": [member.uid, member.gid], "mtime": member.mtime, "type": "other"}
        about["type"] = "folder" if member.isdir() else "file" if member.isreg() else "other"
        if member.name == "etc/passwd":
            about["text"] = layer.extractfile(member).read().decode()
        if member.name == "usr/bin/sluice":
            open(sys.argv[2], "wb").write(layer.extractfile(member).read())
        assert member.name not in files, member.name
        files[member.name] = about
print(json.dumps({"names": described["RepoTags"], "config": json.loads(read(described["Config"])), "files": files}))
"#;

/// Prints which file a `.gnu_debuglink` names, and whether its checksum is that of the symbols.
const LINKS: &str = r#"
import sys, zlib
link, symbols = (open(path, "rb").read() for path in sys.argv[1:])
print(link.split(b"\0")[0].decode(), int.from_bytes(link[-4:], "little") == zlib.crc32(symbols))
"#;

/// The built programs, and what makes an image of them; or what is missing.
fn programs() -> Result<[PathBuf; 2], String> {
    for program in ["python3", "strip", "objcopy", "readelf", "ldd"] {
        let mut asked = Command::new(program);
        asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if !asked.status().is_ok_and(|status| status.success()) {
            return Err(format!("{program} is missing"));
        }
    }
    if !Path::new("/usr/share/ca-certificates/mozilla").is_dir() {
        return Err("Debian's package ca-certificates is missing".to_owned());
    }
    let inside = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = PROGRAMS.map(|name| inside.with_file_name("debug").join(name));
    match built.iter().find(|program| !program.is_file()) {
        Some(missing) => Err(format!("{} is not built", missing.display())),
        None => Ok(built),
    }
}

fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let (said, problem) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    ensure!(done.status.success(), "{command:?}: {problem}{said}");
    Ok(said.into_owned())
}

/// Makes the image; `umask` is that of whoever does it.
fn build(programs: &[PathBuf], out: &Path, umask: &str) -> Result<()> {
    let made = format!("umask {umask} && exec e2e/image/build \"$@\"");
    let mut command = Command::new("bash");
    command
        .args(["-c", &made, "build"])
        .args(programs)
        .arg("-o")
        .arg(out);
    command.current_dir(ROOT).env_remove("SOURCE_DATE_EPOCH");
    output(&mut command).map(drop)
}

/// The labels that the Dockerfile gives, with its version.
fn labels_of_the_dockerfile() -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(Path::new(ROOT).join("e2e/image/Dockerfile"))?;
    let (_, version) = text.split_once("ARG VERSION=").context("no version")?;
    let version = version.lines().next().context("no version")?;
    let (_, labels) = text.split_once("LABEL ").context("no labels")?;
    let labels = labels
        .lines()
        .map(|line| line.trim().trim_end_matches('\\').trim_end());
    let pairs = labels.map_while(|line| line.split_once('='));
    let unquoted = |value: &str| value.trim_matches('"').replace("${VERSION}", version);
    Ok(pairs
        .map(|(name, value)| (name.to_owned(), unquoted(value)))
        .collect())
}

#[test]
fn an_image_is_the_same_bytes_whoever_makes_it_and_holds_what_it_needs() -> Result<()> {
    let programs = match programs() {
        Ok(programs) => programs,
        Err(why) => {
            harness::skip("image", &why);
            return Ok(());
        }
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image");
    // What an earlier run has left.
    drop(fs::remove_dir_all(&folder));
    // Beside the first ones: other times, other paths.
    let copies = folder.join("copies");
    fs::create_dir_all(&copies)?;
    let mut copied = Vec::new();
    for (name, program) in PROGRAMS.iter().zip(&programs) {
        fs::copy(program, copies.join(name))?;
        copied.push(copies.join(name));
    }
    let (one, two) = (folder.join("one.tar"), folder.join("two.tar"));
    build(&programs, &one, "022")?;
    build(&copied, &two, "077")?;
    ensure!(
        fs::read(&one)? == fs::read(&two)?,
        "{} and {} differ",
        one.display(),
        two.display()
    );

    let program = folder.join("sluice");
    let mut look = Command::new("python3");
    let seen = output(look.args(["-c", LOOK]).args([&one, &program]))?;
    let seen: Value = serde_json::from_str(&seen)?;
    assert_eq!(seen["names"], json!(["localhost/sluice:dev"]));
    assert_configuration(&seen["config"])?;
    assert_small(&seen["files"])?;
    for name in PROGRAMS {
        let [one, two] = ["one", "two"].map(|image| folder.join(format!("{image}.symbols/{name}.debug")));
        ensure!(fs::read(&one)? == fs::read(&two)?, "{} differs", one.display());
    }
    its_symbols_are_beside_it(&program, &folder.join("one.symbols/sluice.debug"))?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// The program has no symbols, and leads debuggers and profilers to the file that has them.
fn its_symbols_are_beside_it(program: &Path, symbols: &Path) -> Result<()> {
    let read = |what: &str, file: &Path| output(Command::new("readelf").args([what, "--wide"]).arg(file));
    let (stripped, kept) = (
        read("--section-headers", program)?,
        read("--section-headers", symbols)?,
    );
    ensure!(
        !stripped.contains(" .symtab ") && !stripped.contains(" .debug_info "),
        "{stripped}"
    );
    ensure!(
        kept.contains(" .symtab ") && kept.contains(" .debug_info "),
        "{kept}"
    );
    let id = read("--notes", program)?;
    let id = id.lines().find(|line| line.contains("Build ID"));
    let id = id.context("no build id")?;
    ensure!(
        read("--notes", symbols)?.contains(id),
        "{id} is not that of the symbols"
    );
    let link = program.with_extension("link");
    let section = format!(".gnu_debuglink={}", link.display());
    output(
        Command::new("objcopy")
            .args(["--dump-section", &section])
            .arg(program)
            .arg(program.with_extension("copy")),
    )?;
    let said = output(Command::new("python3").args(["-c", LINKS]).args([&link, symbols]))?;
    ensure!(said.trim() == "sluice.debug True", "{said}");
    Ok(())
}

fn assert_configuration(image: &Value) -> Result<()> {
    let config = &image["config"];
    assert_eq!(image["os"], "linux");
    assert_eq!(
        config["User"], "65532:65532",
        "a number, or runAsNonRoot cannot be checked"
    );
    for unset in ["Entrypoint", "Cmd"] {
        ensure!(config.get(unset).is_none(), "pods name the program: {config}");
    }
    let labels: BTreeMap<String, String> = serde_json::from_value(config["Labels"].clone())?;
    let version = labels.get("org.opencontainers.image.version").map(String::as_str);
    assert_eq!(version, Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(labels, labels_of_the_dockerfile()?, "the Dockerfile on the right");
    assert_eq!(labels.len(), 5);
    Ok(())
}

fn assert_small(files: &Value) -> Result<()> {
    let mut programs = 0;
    for (name, about) in files.as_object().context("no files")? {
        ensure!(
            about["owner"] == json!([0, 0]) && about["mtime"] == 0,
            "{name}: {about}"
        );
        let mode = about["mode"].as_str().unwrap_or_default();
        let folder = about["type"] == "folder";
        let known = match name.as_str() {
            "tmp" => folder && mode == "0o1777",
            "etc/passwd" => about["text"]
                .as_str()
                .is_some_and(|text| text.contains(":65532:65532:")),
            "etc/group" | "etc/nsswitch.conf" | "etc/ssl/certs/ca-certificates.crt" => mode == "0o644",
            _ if folder => mode == "0o755",
            _ if name.starts_with("lib") && name.contains(".so") => mode == "0o755",
            _ => {
                programs += 1;
                let its = name.strip_prefix("usr/bin/");
                its.is_some_and(|name| PROGRAMS.contains(&name)) && mode == "0o755"
            }
        };
        if !known {
            bail!("{name} has no business there: {about}");
        }
    }
    assert_eq!(programs, PROGRAMS.len());
    Ok(())
}

#!/usr/bin/env python3
"""Writes a container image from files, without a daemon and without a base image.

The archive is an OCI layout that `docker load`, `podman load`, `ctr images import` and `kind load image-archive` all
read. The same files give the same bytes: members are sorted, times are SOURCE_DATE_EPOCH or 0, owners are root.

  image.py OUT.tar --ref NAME:TAG [--ref ..] --file /path/in/image=FILE [--file ..] [options]
"""

import argparse
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

MACHINES = {62: "amd64", 183: "arm64"}  # e_machine of an ELF header
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
# Debian's own certificates, and not /etc/ssl/certs: that bundle may hold the machine's private authorities.
CERTIFICATES = pathlib.Path("/usr/share/ca-certificates/mozilla")


def fail(message):
    sys.exit(f"image.py: {message}")


def architecture(path):
    """The architecture of an ELF file, as images name it; None if it is no ELF file."""
    with open(path, "rb") as file:
        head = file.read(20)
    if head[:4] != b"\x7fELF":
        return None
    machine = int.from_bytes(head[18:20], "little")
    return MACHINES.get(machine) or fail(f"{path}: unknown machine {machine}")


def libraries(path):
    """Every shared library that a program loads at its start, the loader included, at the path it is looked up at."""
    run = subprocess.run(["ldd", path], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    if "not a dynamic executable" in run.stderr or "statically linked" in run.stdout:
        return set()
    if run.returncode or "not found" in run.stdout:
        fail(f"{path}: its libraries are not on this machine:\n{run.stdout}{run.stderr}")
    return set(re.findall(r"(?:=> |^\s*)(/\S+) \(0x", run.stdout, re.MULTILINE))


def certificates():
    """Debian's certificate authorities as one file."""
    found = sorted(CERTIFICATES.glob("*.crt"))
    if not found:
        fail(f"no certificates in {CERTIFICATES}: install Debian's package ca-certificates")
    return b"".join(path.read_bytes().rstrip() + b"\n" for path in found)


def stripped(path, folder, symbols):
    """A copy for the image: without debug information, or without any symbol, which then go to a file in `symbols`."""
    name = os.path.basename(path)
    copy = os.path.join(folder, name)
    if symbols:
        command = [pathlib.Path(__file__).with_name("split-symbols"), path, copy, os.path.join(symbols, f"{name}.debug")]
    else:
        command = ["strip", "--strip-debug", "-o", copy, path]
    if not shutil.which("strip"):
        fail("--strip and --symbols need Debian's package binutils")
    subprocess.run(command, check=True)
    return copy


def layer(files):
    """A layer of (path in the image -> bytes or a path to read, mode), with the folders above, as bytes."""
    members = {}
    for path, (content, mode) in files.items():
        name = path.strip("/")
        for parent in pathlib.PurePosixPath(name).parents:
            if str(parent) != ".":
                members.setdefault(str(parent), (None, 0o755))
        members[name] = (content, mode)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, (content, mode) in sorted(members.items()):
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = mode, EPOCH
            if content is None:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
                continue
            data = content if isinstance(content, bytes) else pathlib.Path(content).read_bytes()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def base_files(programs, user, with_certificates):
    """What a dynamically linked program needs around itself: libraries, name look-up, its user, a place for files."""
    files = {"/tmp": (None, 0o1777)}
    for library in sorted(set().union(*(libraries(program) for program in programs))):
        # The file itself, under the name of the link that leads to it: nothing in the image needs the link.
        files[library] = (os.path.realpath(library), 0o755)
    uid, gid = user.split(":")
    files["/etc/passwd"] = (f"root:x:0:0:root:/:/\nnonroot:x:{uid}:{gid}:nonroot:/tmp:/\n".encode(), 0o644)
    files["/etc/group"] = (f"root:x:0:\nnonroot:x:{gid}:\n".encode(), 0o644)
    # Without it glibc asks DNS before it reads /etc/hosts.
    files["/etc/nsswitch.conf"] = (b"hosts: files dns\n", 0o644)
    if with_certificates:
        files["/etc/ssl/certs/ca-certificates.crt"] = (certificates(), 0o644)
    return files


def archive(out, refs, config, layers):
    """Writes the layout: blobs by digest, and both indexes, the one of OCI and the one older Docker engines read."""
    blobs = {}

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def encoded(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    parts = [blob(data, "application/vnd.oci.image.layer.v1.tar") for data in layers]
    config["rootfs"] = {"type": "layers", "diff_ids": [part["digest"] for part in parts]}
    about = blob(encoded(config), "application/vnd.oci.image.config.v1+json")
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = blob(encoded({"schemaVersion": 2, "mediaType": manifest_type, "config": about, "layers": parts}), manifest_type)
    names = [{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref.rsplit(":", 1)[1]} for ref in refs]
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**manifest, "annotations": named} for named in names],
    }
    place = "blobs/sha256/{}".format
    older = [
        {
            "Config": place(about["digest"][7:]),
            "RepoTags": refs,
            "Layers": [place(part["digest"][7:]) for part in parts],
        }
    ]
    blobs["oci-layout"] = encoded({"imageLayoutVersion": "1.0.0"})
    blobs["index.json"] = encoded(index)
    blobs["manifest.json"] = encoded(older)
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in sorted(blobs.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), EPOCH, 0o644
            tar.addfile(member, io.BytesIO(data))
    return manifest["digest"]


def pair(text):
    left, separator, right = text.partition("=")
    if not (left and separator and right):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form left=right")
    return left, right


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="archive to write")
    parser.add_argument("--ref", action="append", required=True, help="name and tag of the image; may be repeated")
    parser.add_argument("--file", type=pair, action="append", required=True, help="/path/in/image=FILE; a program")
    parser.add_argument("--entrypoint", help="program that starts unless the pod names another")
    parser.add_argument("--user", default="65532:65532", help="uid:gid of the processes (default %(default)s)")
    parser.add_argument("--label", type=pair, action="append", default=[], help="key=value")
    parser.add_argument("--certificates", action="store_true", help="add Debian's certificate authorities")
    symbols = parser.add_mutually_exclusive_group()
    symbols.add_argument("--strip", action="store_true", help="leave out debug information; names of functions stay")
    symbols.add_argument("--symbols", metavar="FOLDER", help="leave out all symbols, and write them to files in this folder")
    parsed = parser.parse_args()
    for ref in parsed.ref:
        if not re.fullmatch(r"\S+/\S+:[\w.-]+", ref):
            parser.error(f"--ref {ref}: wanted registry/name:tag, such as localhost/sluice:dev")
    if not re.fullmatch(r"\d+:\d+", parsed.user):
        parser.error(f"--user {parsed.user}: wanted uid:gid in numbers, so that runAsNonRoot can be checked")
    return parsed


def main():
    options = arguments()
    for _, source in options.file:
        if not os.path.isfile(source):
            fail(f"{source} is no file: build it first")
    sources = [source for _, source in options.file]
    machines = {machine for machine in map(architecture, sources) if machine}
    if len(machines) != 1:
        fail(f"the programs are for {sorted(machines) or 'no machine'}: one architecture is wanted")
    config = {"User": options.user, "Env": ["PATH=/usr/bin:/bin"], "WorkingDir": "/", "Labels": dict(options.label)}
    if options.entrypoint:
        config["Entrypoint"] = [options.entrypoint]
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    image = {"architecture": machines.pop(), "os": "linux", "created": created, "config": config}
    if options.symbols:
        os.makedirs(options.symbols, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        strips = options.strip or options.symbols
        programs = {
            path: (stripped(source, folder, options.symbols) if strips else source, 0o755) for path, source in options.file
        }
        # The programs change with every build, what they stand on hardly ever: a layer each.
        layers = [layer(base_files(sources, options.user, options.certificates)), layer(programs)]
        digest = archive(options.out, options.ref, image, layers)
    size = os.path.getsize(options.out) / 2**20
    print(f"{' '.join(options.ref)} {digest} {size:.1f} MiB: {options.out}")
    if options.symbols:
        print(f"symbols: {options.symbols}")


if __name__ == "__main__":
    main()

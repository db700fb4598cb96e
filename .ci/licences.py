"""Checks the dependencies of every target: their licences, crates that are banned, and crates of which the
workspace may hold one version only. Reads the lock file through `cargo metadata`; Python's standard library only.

    python3 .ci/licences.py             checks the workspace
    python3 .ci/licences.py --self-test checks the checks
"""

import collections
import json
import re
import subprocess
import sys

# Permissive licences that a binary under Apache-2.0 may contain.
ALLOWED = {
    # Of data, here the root certificates of Mozilla.
    "CDLA-Permissive-2.0",
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}

# Crates that must not be in the tree, by name or by a pattern that matches the whole name, and why.
BANNED = {
    r"openssl|openssl-sys|native-tls": "needs a system library; use rustls",
    r"protoc-bin-vendored.*|protobuf-src|protoc": "brings or builds protoc; protox compiles .proto files in Rust",
    r"serde_yaml": "archived by its author; the workspace names the fork serde_yaml_ng",
    r"cmake": "needs a system tool that a Rust toolchain does not bring",
}

# Families of which two versions would not understand each other's types.
ONE_VERSION = r"arrow(-.*)?|datafusion(-.*)?|parquet|object_store|tonic|prost|tokio|kube(-.*)?|k8s-openapi|schemars"

TOKEN = re.compile(r"\s*(\(|\)|/|[A-Za-z0-9.+-]+)")


def permits(expression):
    """Whether an SPDX expression (`/`, as old manifests write it, means OR) can be met with ALLOWED licences."""
    tokens = TOKEN.findall(expression) + [None]
    if "".join(token or "" for token in tokens) != re.sub(r"\s", "", expression):
        raise ValueError(f"not an SPDX expression: {expression!r}")
    permitted, rest = alternatives(tokens)
    if rest != [None]:
        raise ValueError(f"not an SPDX expression: {expression!r}")
    return permitted


def alternatives(tokens):
    permitted, tokens = conjunction(tokens)
    while tokens[0] in ("OR", "/"):
        other, tokens = conjunction(tokens[1:])
        permitted = permitted or other
    return permitted, tokens


def conjunction(tokens):
    permitted, tokens = term(tokens)
    while tokens[0] == "AND":
        other, tokens = term(tokens[1:])
        permitted = permitted and other
    return permitted, tokens


def term(tokens):
    if tokens[0] == "(":
        permitted, tokens = alternatives(tokens[1:])
        if tokens[0] != ")":
            raise ValueError("a closing parenthesis is missing")
        return permitted, tokens[1:]
    if tokens[0] in (None, ")", "/", "AND", "OR", "WITH"):
        raise ValueError("a licence is missing")
    name, tokens = tokens[0], tokens[1:]
    if tokens[0] == "WITH" and tokens[1] is not None:
        name, tokens = f"{name} WITH {tokens[1]}", tokens[2:]
    return name in ALLOWED, tokens


def problems(packages):
    """What is wrong with the packages of `cargo metadata`, a line each."""
    versions = collections.defaultdict(set)
    for package in packages:
        name, licence = package["name"], package["license"]
        versions[name].add(package["version"])
        place = f"{name} {package['version']}"
        if licence is None:
            yield f"{place}: it states no licence in its manifest"
        else:
            try:
                if not permits(licence):
                    yield f"{place}: licence {licence} is not allowed"
            except ValueError as error:
                yield f"{place}: {error}"
        for pattern, reason in BANNED.items():
            if re.fullmatch(pattern, name):
                yield f"{place}: banned: {reason}"
        if package["source"] and not package["source"].startswith("registry+"):
            yield f"{place}: comes from {package['source']}; use a published release"
    for name, found in sorted(versions.items()):
        if len(found) > 1 and re.fullmatch(ONE_VERSION, name):
            yield f"{name}: {len(found)} versions, {' and '.join(sorted(found))}; one is allowed"


def self_test():
    def package(name, licence, version="1.0.0", source="registry+x"):
        return {"name": name, "license": licence, "version": version, "source": source}

    good = ["MIT", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
    bad = ["GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0 WITH Other-exception", "MIT OR", "(MIT", "MIT; x", ""]
    for licence in good:
        found = list(problems([package("a", licence)]))
        assert not found, found
    for licence in bad + [None]:
        assert list(problems([package("a", licence)])), licence
    for banned in ["openssl-sys", "serde_yaml", "protoc-bin-vendored-linux-x86_64"]:
        assert list(problems([package(banned, "MIT")])), banned
    assert not list(problems([package("serde_yaml_ng", "MIT")]))
    assert list(problems([package("arrow-array", "MIT"), package("arrow-array", "MIT", "2.0.0")]))
    assert not list(problems([package("syn", "MIT"), package("syn", "MIT", "2.0.0")]))
    assert list(problems([package("a", "MIT", source="git+x")]))


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    found = list(problems(packages))
    for problem in found:
        print(problem)
    if found:
        sys.exit(f"{len(found)} problems in {len(packages)} packages")
    print(f"{len(packages)} packages, all licences allowed, no banned crate, one version where one is required")


if __name__ == "__main__":
    main()

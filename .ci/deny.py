"""Checks the dependencies by the rules of deny.toml, for machines without cargo-deny: the licences that crates state, crates
that are banned, crates of which the tree holds several versions, and where they come from. Reads the lock file through
`cargo metadata`; Python's standard library only.

    python3 .ci/deny.py             checks the workspace
    python3 .ci/deny.py --self-test checks the checks
"""

import collections
import json
import pathlib
import re
import subprocess
import sys
import tomllib

TOKEN = re.compile(r"\s*(\(|\)|/|[A-Za-z0-9.+-]+)")


class Rules:
    """What deny.toml says."""

    def __init__(self, text):
        rules = tomllib.loads(text)
        if rules["bans"]["multiple-versions"] != "deny" or set(rules["sources"].values()) != {"deny"}:
            sys.exit("deny.toml: multiple versions and unknown sources are denied; nothing else is implemented here")
        self.targets = rules["graph"]["targets"]
        self.licences = set(rules["licenses"]["allow"])
        self.banned = {ban["crate"]: ban["reason"] for ban in rules["bans"]["deny"]}
        self.skipped = {skip["crate"] for skip in rules["bans"]["skip"]}


def permits(expression, allowed):
    """Whether an SPDX expression (`/`, as old manifests write it, means OR) can be met with these licences."""
    tokens = TOKEN.findall(expression) + [None]
    if "".join(token or "" for token in tokens) != re.sub(r"\s", "", expression):
        raise ValueError(f"not an SPDX expression: {expression!r}")
    permitted, rest = alternatives(tokens, allowed)
    if rest != [None]:
        raise ValueError(f"not an SPDX expression: {expression!r}")
    return permitted


def alternatives(tokens, allowed):
    permitted, tokens = conjunction(tokens, allowed)
    while tokens[0] in ("OR", "/"):
        other, tokens = conjunction(tokens[1:], allowed)
        permitted = permitted or other
    return permitted, tokens


def conjunction(tokens, allowed):
    permitted, tokens = term(tokens, allowed)
    while tokens[0] == "AND":
        other, tokens = term(tokens[1:], allowed)
        permitted = permitted and other
    return permitted, tokens


def term(tokens, allowed):
    if tokens[0] == "(":
        permitted, tokens = alternatives(tokens[1:], allowed)
        if tokens[0] != ")":
            raise ValueError("a closing parenthesis is missing")
        return permitted, tokens[1:]
    if tokens[0] in (None, ")", "/", "AND", "OR", "WITH"):
        raise ValueError("a licence is missing")
    name, tokens = tokens[0], tokens[1:]
    if tokens[0] == "WITH" and tokens[1] is not None:
        name, tokens = f"{name} WITH {tokens[1]}", tokens[2:]
    return name in allowed, tokens


def problems(packages, rules):
    """What is wrong with the packages of `cargo metadata`, a line each."""
    versions, met = collections.defaultdict(set), set()
    for package in packages:
        name, licence = package["name"], package["license"]
        place = f"{name}@{package['version']}"
        if place in rules.skipped:
            met.add(place)
        else:
            versions[name].add(package["version"])
        if licence is None:
            yield f"{place}: it states no licence in its manifest"
        else:
            try:
                if not permits(licence, rules.licences):
                    yield f"{place}: licence {licence} is not allowed"
            except ValueError as error:
                yield f"{place}: {error}"
        if name in rules.banned:
            yield f"{place}: banned: {rules.banned[name]}"
        if package["source"] and not package["source"].startswith("registry+"):
            yield f"{place}: comes from {package['source']}; use a published release"
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            yield f"{name}: {len(found)} versions, {' and '.join(sorted(found))}; one is allowed, or see deny.toml"
    for unmet in sorted(rules.skipped - met):
        yield f"deny.toml skips {unmet}, which is not in the tree"


def self_test():
    rules = Rules(
        """
        [graph]
        targets = []
        [licenses]
        allow = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
        [bans]
        multiple-versions = "deny"
        deny = [{ crate = "openssl", reason = "why" }]
        skip = [{ crate = "syn@1.0.0" }]
        [sources]
        unknown-git = "deny"
        """
    )

    def package(name, licence, version="1.0.0", source="registry+x"):
        return {"name": name, "license": licence, "version": version, "source": source}

    def found(*packages):
        return list(problems([package("syn", "MIT"), *packages], rules))

    good = ["MIT", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
    bad = ["GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0 WITH Other-exception", "MIT OR", "(MIT", "MIT; x", ""]
    for licence in good:
        assert not found(package("a", licence)), licence
    for licence in bad + [None]:
        assert found(package("a", licence)), licence
    assert found(package("openssl", "MIT")) == ["openssl@1.0.0: banned: why"]
    assert not found(package("openssl_ng", "MIT"))
    assert found(package("arrow-array", "MIT"), package("arrow-array", "MIT", "2.0.0"))
    assert not found(package("syn", "MIT", "2.0.0"))
    assert found(package("syn", "MIT", "2.0.0"), package("syn", "MIT", "3.0.0"))
    assert list(problems([], rules)) == ["deny.toml skips syn@1.0.0, which is not in the tree"]
    assert found(package("a", "MIT", source="git+x"))


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    rules = Rules((pathlib.Path(__file__).parent.parent / "deny.toml").read_text(encoding="utf-8"))
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    for target in rules.targets:
        command += ["--filter-platform", target]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    found = list(problems(packages, rules))
    for problem in found:
        print(problem)
    if found:
        sys.exit(f"{len(found)} problems in {len(packages)} packages")
    print(f"{len(packages)} packages, all licences allowed, no banned crate, no second version but those of deny.toml")


if __name__ == "__main__":
    main()

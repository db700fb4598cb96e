"""Checks the versions in Cargo.lock: none is yanked, and none has an advisory of the RustSec database.

    python3 .ci/advisories.py             checks the workspace
    python3 .ci/advisories.py --self-test checks the checks

SLUICE_ADVISORY_DB names a folder with a copy of https://github.com/rustsec/advisory-db. No registry of packages has one,
so that without the variable advisories are not checked, which is told. Whether a version is yanked, the registry's index
says, as cargo keeps it; it is brought up to date first, where that is possible. Python's standard library only.
"""

import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

# Advisories that do not concern this workspace.
RULES = tomllib.loads(pathlib.Path(__file__).parent.parent.joinpath("deny.toml").read_text(encoding="utf-8"))
IGNORED = {ignored["id"] for ignored in RULES["advisories"]["ignore"]}

# Notices about a crate that is not vulnerable: told, not refused.
NOTICES = ("unmaintained", "notice")

REQUIREMENT = re.compile(r"\s*(>=|<=|>|<|=|\^|~|)\s*(\d[^\s,]*)\s*")


def key(version):
    """The version as something that compares; a pre-release is below its release."""
    version = version.split("+")[0]
    release, _, pre = version.partition("-")
    numbers = [int(number) for number in release.split(".")]
    numbers += [0] * (3 - len(numbers))
    parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split(".")]
    return (numbers, 0 if pre else 1, parts)


def meets(version, requirements):
    """Whether a version meets all of `>= 1.2.3, < 2`, as Cargo reads them."""
    for requirement in requirements.split(","):
        if requirement.strip() == "*":
            continue
        found = REQUIREMENT.fullmatch(requirement)
        if not found:
            raise ValueError(f"not a requirement: {requirement!r}")
        sign, other = found.groups()
        mine, bound = key(version), key(other)
        numbers = [int(number) for number in re.split(r"[-+]", other)[0].split(".")]
        if sign in ("", "^"):
            # Up to the next number that is not zero, or the last one written.
            last = next((at for at, number in enumerate(numbers) if number), len(numbers) - 1)
        else:
            last = min(len(numbers) - 1, 1)
        above = numbers[:last] + [numbers[last] + 1]
        fits = {
            ">=": mine >= bound,
            "<=": mine <= bound,
            ">": mine > bound,
            "<": mine < bound,
            "=": mine[0][: len(numbers)] == numbers and (len(numbers) < 3 or mine == bound),
        }.get(sign, mine >= bound and mine < key(".".join(map(str, above))))
        if not fits:
            return False
    return True


def packages_of(lock):
    """Names and versions of a lock file that come from a registry."""
    for package in tomllib.loads(lock)["package"]:
        if package.get("source", "").startswith("registry+"):
            yield package["name"], package["version"]


def front_matter(text):
    """The TOML of an advisory: the first fenced block of its Markdown."""
    return tomllib.loads(re.search(r"```toml\n(.*?)```", text, re.DOTALL).group(1))


def advisories_of(database):
    """The advisories about crates, by crate."""
    found = collections.defaultdict(list)
    for path in sorted(pathlib.Path(database, "crates").glob("*/RUSTSEC-*.md")):
        advisory = front_matter(path.read_text(encoding="utf-8"))
        if "withdrawn" not in advisory["advisory"]:
            found[advisory["advisory"]["package"]].append(advisory)
    if not found:
        sys.exit(f"{database} is no advisory database: it has no crates/NAME/RUSTSEC-*.md")
    return found


def concerned(packages, advisories):
    """The packages that an advisory is about: whether it is a notice only, and a line each."""
    for name, version in packages:
        for advisory in advisories.get(name, []):
            head, versions = advisory["advisory"], advisory.get("versions", {})
            safe = versions.get("patched", []) + versions.get("unaffected", [])
            if head["id"] in IGNORED or any(meets(version, requirements) for requirements in safe):
                continue
            kind = head.get("informational")
            fix = " or ".join(versions.get("patched", [])) or "no release mends it"
            yield kind in NOTICES, f"{name} {version}: {head['id']}{f' ({kind})' if kind else ''}: {fix}"


def index_path(name):
    """Where a registry's index has a crate."""
    if len(name) < 4:
        folder = f"{len(name)}/{name[0]}" if len(name) == 3 else str(len(name))
    else:
        folder = f"{name[:2]}/{name[2:4]}"
    return f"{folder}/{name}".lower()


def releases_of(cached):
    """Whether each release is yanked, in an entry of the index as cargo keeps it: texts that end with NUL."""
    parts = [part for part in cached.split(b"\0") if part.startswith(b"{")]
    return {release["vers"]: release["yanked"] for release in map(json.loads, parts)}


def yanked(packages, index):
    """The packages that are yanked, and those of which the index says nothing."""
    withdrawn, unknown = [], []
    for name, version in packages:
        entries = [cache / index_path(name) for cache in index if (cache / index_path(name)).is_file()]
        releases = {}
        for entry in entries:
            releases.update(releases_of(entry.read_bytes()))
        if version not in releases:
            unknown.append(f"{name} {version}")
        elif releases[version]:
            withdrawn.append(f"{name} {version}: it is yanked; cargo update -p {name}")
    return withdrawn, unknown


def self_test():
    for version, requirements, fits in [
        ("1.2.3", ">= 1.2.3", True),
        ("1.2.3-rc.1", ">= 1.2.3", False),
        ("1.2.3-rc.2", "> 1.2.3-rc.1", True),
        ("1.10.0", ">= 1.9.1, < 2", True),
        ("2.0.0", ">= 1.9.1, < 2", False),
        ("0.3.9", "^0.3.4", True),
        ("0.4.0", "^0.3.4", False),
        ("1.9.0", "1.2", True),
        ("0.0.4", "^0.0.3", False),
        ("1.2.9", "~1.2.3", True),
        ("1.3.0", "~1.2.3", False),
        ("1.2.3", "= 1.2.3", True),
        ("1.2.4", "=1.2.3", False),
        ("9.9.9", "*", True),
    ]:
        assert meets(version, requirements) == fits, (version, requirements)
    text = '```toml\n[advisory]\nid = "RUSTSEC-1"\npackage = "a"\n[versions]\npatched = [">= 1.1.0"]\nunaffected = ["< 0.5"]\n```\n# A\n'
    advisories = {"a": [front_matter(text)]}
    lines = list(concerned([("a", "1.0.0"), ("a", "1.1.0"), ("a", "0.4.0"), ("b", "1.0.0")], advisories))
    assert lines == [(False, "a 1.0.0: RUSTSEC-1: >= 1.1.0")], lines
    lock = '[[package]]\nname = "a"\nversion = "1.0.0"\nsource = "registry+x"\n[[package]]\nname = "own"\nversion = "0.1.0"\n'
    assert list(packages_of(lock)) == [("a", "1.0.0")]
    cached = b'\x03\x02\0\0\0etag\0' + b'1.0.0\0{"vers": "1.0.0", "yanked": true}\0' + b'1.0.1\0{"vers": "1.0.1", "yanked": false}\0'
    assert releases_of(cached) == {"1.0.0": True, "1.0.1": False}
    assert [index_path(name) for name in ["a", "ab", "abc", "Serde"]] == ["1/a", "2/ab", "3/a/abc", "se/rd/serde"]


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    packages = sorted(packages_of(pathlib.Path("Cargo.lock").read_text(encoding="utf-8")))
    # Reads the index anew; the lock file stays as it is.
    update = subprocess.run(["cargo", "update", "--dry-run", "--quiet"], stderr=subprocess.PIPE, text=True, check=False)
    as_of = "" if update.returncode == 0 else ", as cargo last read it: it cannot be reached"
    home = pathlib.Path(os.environ.get("CARGO_HOME") or pathlib.Path.home() / ".cargo")
    problems, unknown = yanked(packages, list(home.glob("registry/index/*/.cache")))
    problems += [f"{name}: the index of the registry has no such release" for name in unknown]
    print(f"{len(packages)} packages compared with the index{as_of}: {len(problems)} problems")
    database = os.environ.get("SLUICE_ADVISORY_DB")
    if database:
        found = list(concerned(packages, advisories_of(database)))
        print(f"compared with the advisories of {database}: {len(found)} concern this workspace")
        for is_notice, line in found:
            print(f"notice: {line}" if is_notice else line)
        problems += [line for is_notice, line in found if not is_notice]
    else:
        print(
            "SKIPPED: advisories were NOT checked, as there is no database of them: no registry of packages has one. Set"
            " SLUICE_ADVISORY_DB to a copy of https://github.com/rustsec/advisory-db"
        )
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

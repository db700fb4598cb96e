"""Makes the README's commands part of the checks. A block that starts with ```sh is run as it is; one of ```console takes
too long for that here, or needs what is not here, and something else does the same (see SHORTER). Other blocks are refused.

    python3 .ci/readme.py tests     prints the command that runs the tests
    python3 .ci/readme.py examples  runs every other block, in order, in one shell at the root of the repository
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)
# For a command of a ```console block, the file that has one which does the same, and that one: the same program with the
# same options. What docs/quickstart.md has is run by the tests of e2e/.
SHORTER = {
    "e2e/run --keep": (".ci/run", "e2e/run"),
    "cargo bench --bench tpch -- --scale 1": (
        ".ci/run",
        "cargo bench --locked --profile dev --bench tpch -- --scale 0.01",
    ),
    "docker build -f e2e/image/Dockerfile -t localhost/sluice:dev .": ("docs/quickstart.md", None),
    "docker save localhost/sluice:dev -o target/sluice-image.tar": ("docs/quickstart.md", None),
    "cargo build --release --workspace --bins": ("e2e/run", "cargo build --locked --workspace --bins"),
    "e2e/image/build target/release/sluice target/release/sluice-operator -o target/sluice-image.tar": (
        "e2e/run",
        '"$here/image/build" "$target/debug/sluice" "$target/debug/sluice-operator" \\\n    -o "$target/e2e/image.tar"',
    ),
}
# Longer than any example takes on two cores, the first build included.
LIMIT_SECONDS = 35 * 60


def blocks():
    text = (ROOT / "README.md").read_text()
    return [(text.count("\n", 0, found.start()) + 1, found.group(1)) for found in BLOCK.finditer(text)]


def is_tests(block):
    return block.lstrip().startswith("cargo test")


def tests():
    check_fences()
    check_console()
    found = [block for _, block in blocks() if is_tests(block)]
    if len(found) != 1 or len(found[0].strip().splitlines()) != 1:
        sys.exit(f"README.md: {len(found)} sh blocks run the tests; give one, of one line")
    return found[0].strip()


def unknown_fences(text):
    """What opens a block that nothing here looks at; a block that is not closed too."""
    fences = FENCE.findall(text)
    unknown = [fence for fence in fences[0::2] if fence not in ("```sh", "```console")]
    return unknown + [fence for fence in fences[1::2] if fence != "```"] + (["no end"] if len(fences) % 2 else [])


def check_fences():
    for text, unknown in [
        ("```sh\na\n```\n\n```console\nb\n```\n", []),
        ("```bash\na\n```\n", ["```bash"]),
        ("  ```sh\na\n```\n", ["  ```sh"]),
        ("~~~sh\na\n~~~\n", ["~~~sh", "~~~"]),
        ("```sh cluster\na\n```\n", ["```sh cluster"]),
        ("```sh\na\n", ["no end"]),
    ]:
        assert unknown_fences(text) == unknown, text
    if unknown := unknown_fences((ROOT / "README.md").read_text()):
        sys.exit(f"README.md: nothing runs blocks with {unknown}: ```sh or ```console starts one, at the margin")


def check_console():
    for block in CONSOLE.findall((ROOT / "README.md").read_text()):
        for command in block.strip().splitlines():
            file, same = SHORTER.get(command, (None, None))
            if file is None or (same or f"{command}\n") not in (ROOT / file).read_text():
                sys.exit(f"README.md: nothing does what `{command}` does: make it a ```sh block, or see SHORTER")


def examples():
    check_fences()
    check_console()
    shown = [(line, block) for line, block in blocks() if not is_tests(block)]
    if not shown:
        sys.exit("README.md: it has no sh block to run")
    script = ["set -euo pipefail", f"cd '{ROOT}'"]
    for line, block in shown:
        script += [f"echo '--- README.md, line {line}' >&2", block]
    # What an earlier run has made; the examples start without it.
    shutil.rmtree(ROOT / "target/try", ignore_errors=True)
    # A group of its own: what an example leaves behind is ended with it.
    shell = subprocess.Popen(["bash", "-c", "\n".join(script)], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        code = shell.wait(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        code = f"no end after {LIMIT_SECONDS} s"
    finally:
        try:
            os.killpg(shell.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if code != 0:
        sys.exit(f"README.md: its examples failed: {code}")
    print(f"{len(shown)} blocks of README.md ran")


if __name__ == "__main__":
    if sys.argv[1:] == ["tests"]:
        print(tests())
    elif sys.argv[1:] == ["examples"]:
        examples()
    else:
        sys.exit(__doc__)

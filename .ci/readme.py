"""Makes the README's commands part of the checks. A block that starts with ```sh is run as it is; one of ```console takes
too long for that here, and .ci/run has a command that does the same (see SHORTER).

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
# What .ci/run does for a command of a ```console block: the same program with the same options.
SHORTER = {
    "e2e/run --keep": "e2e/run",
    "cargo bench --bench tpch -- --scale 1": "cargo bench --locked --profile dev --bench tpch -- --scale 0.01",
}
# Longer than any example takes on two cores, the first build included.
LIMIT_SECONDS = 35 * 60


def blocks():
    text = (ROOT / "README.md").read_text()
    return [(text.count("\n", 0, found.start()) + 1, found.group(1)) for found in BLOCK.finditer(text)]


def is_tests(block):
    return block.lstrip().startswith("cargo test")


def tests():
    found = [block for _, block in blocks() if is_tests(block)]
    if len(found) != 1 or len(found[0].strip().splitlines()) != 1:
        sys.exit(f"README.md: {len(found)} sh blocks run the tests; give one, of one line")
    return found[0].strip()


def check_console():
    run = (ROOT / ".ci/run").read_text()
    for block in CONSOLE.findall((ROOT / "README.md").read_text()):
        for command in block.strip().splitlines():
            if SHORTER.get(command) is None or SHORTER[command] not in run:
                sys.exit(f"README.md: nothing in .ci/run does what `{command}` does: make it a ```sh block")


def examples():
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

"""Passes the output of `cargo test` through and ends it with one line over all test programs, which it also writes to a file.

    cargo test | python3 .ci/summary.py FILE
    python3 .ci/summary.py --self-test

Fails when a test failed, or when the output holds no test that passed.
"""

import re
import sys

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;")


def total(lines, show):
    """Shows each line; answers the numbers of tests that passed, failed and were ignored."""
    sums = [0, 0, 0]
    for line in lines:
        show(line)
        if found := RESULT.match(line):
            sums = [before + int(now) for before, now in zip(sums, found.groups())]
    return sums


def verdict(passed, failed, ignored):
    """The last line, and whether the tests as a whole passed."""
    line = f"{passed} passed, {failed} failed"
    if ignored:
        line += f", {ignored} ignored"
    return line, passed > 0 and failed == 0


def self_test():
    ok = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n"
    bad = "test result: FAILED. 1 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n"
    seen = []
    assert verdict(*total([ok, "other\n", ok], seen.append)) == ("6 passed, 0 failed", True)
    assert seen == [ok, "other\n", ok]
    assert verdict(*total([ok, bad], seen.append)) == ("4 passed, 2 failed, 1 ignored", False)
    assert not verdict(*total(["nothing\n"], seen.append))[1]


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    line, passed = verdict(*total(sys.stdin, lambda line: print(line, end="", flush=True)))
    print(line, flush=True)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        print(line, file=file)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()

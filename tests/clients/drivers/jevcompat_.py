# /// script
# dependencies = ["jevcompat==0.1.1"]
# ///
"""The conformance suite of System One: with a key, which 33 of its 34 demands on a server then are about."""

import sys

from jevcompat.runner import run

url, model = sys.argv[1:3]
key = sys.argv[3] if len(sys.argv) > 3 else None
for name in (model, "jev-latest"):
    report = run(url, key=key, model=name)
    failed = [(one.id, one.level, [found.message for found in one.findings]) for one in report.results if one.findings]
    assert not failed, failed
    assert report.verdict == "conformant", (report.verdict, report.inconclusive)
    left = {one.id for one in report.results if one.status == "skip"}
    expected = {"auth.ignored-when-off"} if key else {"auth.bearer", "auth.missing", "auth.invalid"}
    assert left == expected, left
print("jevcompat: ok")

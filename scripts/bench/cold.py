"""The cold rows: a first seal, a seal again, and reading everything back, all from the disk.

Every timed step starts with nothing of the disk in the page cache.
"""

import os
import shutil
import statistics
import subprocess
import time

from contestants import age_key, contestants
from harness import ROOT, fail, say

# What is measured in passing: any mount answers, and memory is highest after a whole copy.
ALONG_WITH = {"find": ["mount"], "cp-a": ["rss"]}
COLD = {"first", "again", "size", "mount", "find", "cp-r", "cp-a", "restore", "rss"}


class ColdRun:
    """One round over everything asked for; `record` takes each figure."""

    def __init__(self, bench, index, binaries, only, record):
        self.bench = bench
        self.only = only
        self.record = record
        self.index = index
        self.contestants = contestants(bench, binaries, index)

    def all(self):
        self.store()
        for measure in ("find", "cp-r", "cp-a"):
            if self.only & {measure, *ALONG_WITH.get(measure, ())}:
                self.read(measure)
        if "restore" in self.only:
            self.restores()
        for each in self.contestants:
            if each.answers:
                self.record("mount", each.name, statistics.median(each.answers))
            if each.peaks:
                self.record("rss-mount", each.name, max(each.peaks))
            self.bench.remove(each.top)

    def store(self):
        for each in self.contestants:
            each.create()
            self.bench.cold()
            spent = each.seal(self.bench.tree)
            self.record("first", each.name, spent.secs)
            self.record("rss-seal", each.name, spent.peak)
            self.record("size", each.name, each.stored())
        if self.only & {"first", "size"}:
            self.archive()
        if "again" in self.only:
            for each in self.contestants:
                self.bench.cold()
                self.record("again", each.name, each.seal(self.bench.tree).secs)

    def archive(self):
        """What people do by hand: one encrypted archive."""
        top = self.bench.path("archive")
        os.makedirs(top)
        _, recipient = age_key(top)
        target = os.path.join(top, "tree.tar.zst.age")
        pipeline = 'tar -C "$1" -cf - . | zstd -q -3 -T0 | age -r "$2" -o "$3"'
        self.bench.cold()
        command = ["bash", "-o", "pipefail", "-c", pipeline, "archive", self.bench.tree, recipient, target]
        self.record("first", "plain", self.bench.timed(command).secs)
        self.record("size", "plain", os.path.getsize(target))
        self.bench.remove(top)

    def read(self, measure):
        for each in self.contestants:
            each.mount()
            self.record(measure, each.name, self.step(measure, each.copied_from(), each))
            each.unmount()
        if measure in self.only:
            self.bench.cold()
            self.record(measure, "plain", self.step(measure, self.bench.tree, None))

    def step(self, measure, source, each):
        if measure == "find":
            with open(os.devnull, "w") as nowhere:
                process = [shutil.which("find"), source, "-printf", "%s\\n"]
                started = time.perf_counter()
                subprocess.run(process, stdout=nowhere, stderr=self.bench.log, check=False)
                return time.perf_counter() - started
        destination = self.bench.path("out")
        # Where some files cannot be read, cp says so and goes on; the time still counts.
        secs = self.bench.timed(["cp", measure[2:], source, destination], allowed=(0, 1)).secs
        if each and each.name == "coffre" and measure == "cp-a":
            if self.index == 0:
                self.check(destination, "what cp -a took out of coffre's mount")
        self.bench.discard(destination)
        return secs

    def check(self, copy, what):
        """The time of a wrong copy means nothing."""
        ignore = [] if os.getuid() == 0 else ["--ignore", "uid,gid,unreadable"]
        compared = subprocess.run(
            [os.path.join(ROOT, "scripts", "compare-trees"), *ignore, self.bench.tree, copy],
            capture_output=True, text=True, check=False,
        )
        if compared.returncode != 0:
            say(compared.stdout + compared.stderr)
            fail(f"{what} is not the tree")

    def restores(self):
        """Everything back, by each in turn and by cp -a: every other round the other one is first."""
        destination = self.bench.path("out")
        turns = self.contestants if self.index % 2 == 0 else self.contestants[::-1]
        for each in turns:
            spent = each.restore(self.bench.tree, destination)
            self.record("restore", each.name, spent.secs)
            self.record("restore-cpu", each.name, spent.cpu)
            self.record("restore-rss", each.name, spent.peak)
            if each.name == "coffre" and self.index == 0:
                self.check(destination, "what coffre restored")
            self.bench.discard(destination)
        self.bench.cold()
        spent = self.bench.timed(["cp", "-a", self.bench.tree, destination], allowed=(0, 1))
        self.record("restore", "plain", spent.secs)
        self.record("restore-cpu", "plain", spent.cpu)
        self.bench.discard(destination)

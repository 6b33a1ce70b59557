"""The warm rows of seal: first, unchanged, day by day, and after a kill.

The tree is in the page cache throughout, so that what is measured is the work of the programs and
not of the disk. Days move a copy of the tree on, never the tree that was given.
"""

import os
import shlex
import signal
import subprocess
import time

from contestants import contestants
from harness import HERE, fail, stored_bytes

DAYS = (2, 3, 4)
# Pairs of unchanged seals in a run: they take a fraction of a second and vary by more than others.
UNCHANGED_PAIRS = 5
KILLED_AT_SHARE = 0.9
# How often the size of a vault is looked at that is going to be killed.
WATCH_SECS = 0.005


class WarmRun:
    """One round over the warm rows asked for; `record` takes each figure."""

    def __init__(self, bench, index, binaries, options, record):
        self.bench = bench
        self.binaries = binaries
        self.days_command = options.days
        self.record = record
        self.index = index

    def turns(self, purpose):
        """The contestants, with empty vaults; every other round the other one is first."""
        found = contestants(self.bench, self.binaries, f"{purpose}-{self.index}")
        for each in found:
            each.create()
        return found if self.index % 2 == 0 else found[::-1]

    def all(self, only):
        if only & {"seal", "unchanged", "days"}:
            self.seals(only)
        if "killed" in only:
            self.killed()

    def seals(self, only):
        tree = self.bench.tree
        if "days" in only:
            tree = self.bench.path(f"days-{self.index}", "tree")
            os.makedirs(os.path.dirname(tree))
            subprocess.run(["cp", "-a", self.bench.tree, tree], check=True)
        found = self.turns("seals")
        self.bench.warm(tree)
        for each in found:
            os.sync()
            spent = each.seal(tree)
            self.record("warm-first", each.name, spent.secs)
            self.record("warm-cpu", each.name, spent.cpu)
            self.record("warm-rss", each.name, spent.peak)
            self.record("warm-size", each.name, each.stored())
        if "unchanged" in only:
            self.unchanged(tree, found)
        if "days" in only:
            self.days(tree, found)
            self.bench.discard(os.path.dirname(tree))
        for each in found:
            self.bench.remove(each.top)

    def unchanged(self, tree, found):
        for _ in range(UNCHANGED_PAIRS):
            for each in found:
                before = each.stored()
                os.sync()
                spent = each.seal(tree)
                self.record("unchanged", each.name, spent.secs)
                self.record("unchanged-cpu", each.name, spent.cpu)
                self.record("unchanged-bytes", each.name, each.stored() - before)
            looked = look(self.bench, tree)
            self.record("unchanged", "plain", looked.secs)
            self.record("unchanged-cpu", "plain", looked.cpu)

    def days(self, tree, found):
        for day in DAYS:
            move_on(self.bench, self.days_command, tree, day)
            self.bench.warm(tree)
            for each in found:
                before = each.stored()
                os.sync()
                self.record(f"day-{day}", each.name, each.seal(tree).secs)
                self.record(f"day-{day}-added", each.name, each.stored() - before)

    def killed(self):
        """How much of a first seal that died is not done again by the next."""
        self.bench.warm(self.bench.tree)
        whole = self.turns("whole")
        for each in whole:
            os.sync()
            full_secs = each.seal(self.bench.tree).secs
            full_bytes = each.stored()
            self.bench.remove(each.top)
            again = type(each)(self.bench, each.binary, f"killed-{self.index}")
            again.create()
            os.sync()
            kill_at(again, self.bench, full_bytes * KILLED_AT_SHARE)
            self.record("killed-held", again.name, again.stored() / full_bytes)
            os.sync()
            next_secs = again.seal(self.bench.tree).secs
            self.record("killed-full", again.name, full_secs)
            self.record("killed-next", again.name, next_secs)
            self.record("killed", again.name, next_secs / full_secs)
            self.bench.remove(again.top)


def look(bench, tree):
    """What a look at every entry costs, without a program that keeps anything."""
    return bench.timed(["sh", "-c", 'exec find "$1" -printf "%s %T@\\n" >/dev/null', "look", tree])


def move_on(bench, template, tree, day):
    """Makes the next day of a tree in place, by make-day or by the command given."""
    template = template or shlex.quote(os.path.join(HERE, "make-day")) + " {tree} {day}"
    command = template.replace("{tree}", shlex.quote(tree)).replace("{day}", str(day))
    if bench.start(["bash", "-c", command]).wait():
        bench.show_log()
        fail(f"day {day} could not be made with: {command}")


def kill_at(each, bench, nbytes):
    """Starts a first seal and kills it as soon as its vault holds so many bytes."""
    words = ("seal", bench.tree) if each.name == "coffre" else ("backup", "--quiet", bench.tree)
    process = bench.start(each.command(*words), each.env)
    while stored_bytes(each.vault) < nbytes:
        if process.poll() is not None:
            fail(f"{each.name} was done before it could be killed; a larger tree takes longer")
        time.sleep(WATCH_SECS)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    bench.running.remove(process)

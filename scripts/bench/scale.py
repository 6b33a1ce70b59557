"""The rows about size: very many files, a vault that is large already, very many bytes, the archive profile.

Each makes its own data below the working directory and removes it at once.
"""

import os
import random
import shutil

from contestants import Coffre, age_key
from harness import HERE, fail, say
from warm import look

# Unchanged seals of the many files in a run, each beside a find.
UNCHANGED_PAIRS = 3
BLOB_BYTES = 256_000_000
# The part that is sealed alone, to see that memory does not follow the amount.
PART = 4


class ScaleRun:
    """One round over the rows asked for that are about size; `record` takes each figure."""

    def __init__(self, bench, index, binaries, options, record):
        self.bench = bench
        self.binary = binaries.get("coffre")
        self.options = options
        self.record = record
        self.index = index

    def all(self, only):
        if not self.binary:
            return
        if only & {"many", "large"}:
            self.many(only)
        if "incompressible" in only:
            self.incompressible()
        if "archive" in only:
            self.archive()

    def coffre(self, purpose):
        each = Coffre(self.bench, self.binary, f"{purpose}-{self.index}")
        each.create()
        return each

    def many(self, only):
        tree = self.bench.path("many")
        if not os.path.isdir(tree):
            # A block of 4 KiB and an inode for each file, and a little for the vault.
            self.bench.free_or_fail(self.options.many * 6000, f"a tree of {self.options.many} files")
            say(f"making {self.options.many} files")
            if self.bench.start([os.path.join(HERE, "make-many"), "--files", str(self.options.many), tree]).wait():
                self.bench.show_log()
                fail("the files could not be made")
        entries = sum(len(folders) + len(names) for _, folders, names in os.walk(tree))
        self.bench.warm(tree)
        each = self.coffre("many")
        spent = each.seal(tree)
        self.record("many-first", "coffre", spent.secs)
        self.record("many-rss", "coffre", spent.peak)
        self.record("many-size", "coffre", each.stored())
        if "many" in only:
            for _ in range(UNCHANGED_PAIRS):
                before = each.stored()
                os.sync()
                spent = each.seal(tree)
                self.record("many-again", "coffre", entries / spent.secs)
                self.record("many-again-rss", "coffre", spent.peak)
                self.record("many-again-bytes", "coffre", each.stored() - before)
                self.record("many-again", "plain", entries / look(self.bench, tree).secs)
        if "large" in only:
            self.bench.warm(self.bench.tree)
            self.record("large-rss", "coffre", each.seal(self.bench.tree).peak)
        self.bench.remove(each.top)

    def incompressible(self):
        nbytes = self.options.incompressible_mb * 1_000_000
        # The data, and one copy at a time of what is made of it.
        top = self.bench.path("blobs")
        if not os.path.isdir(top):
            self.bench.free_or_fail(2 * nbytes, f"{nbytes / 1e9:.1f} GB of data and a copy")
            blobs(top, nbytes)
        self.bench.warm(top)
        each = self.coffre("blobs")
        spent = each.seal(top)
        self.record("blobs", "coffre", spent.secs)
        self.record("blobs-cpu", "coffre", spent.cpu)
        self.record("blobs-rss", "coffre", spent.peak)
        self.bench.remove(each.top)
        os.sync()
        spent = self.pipeline(top)
        self.record("blobs", "plain", spent.secs)
        self.record("blobs-cpu", "plain", spent.cpu)
        each = self.coffre("part")
        self.record("blobs-rss", "plain", each.seal(os.path.join(top, "part")).peak)
        self.bench.remove(each.top)

    def pipeline(self, tree):
        top = self.bench.path("pipeline")
        os.makedirs(top)
        _, recipient = age_key(top)
        line = 'tar -C "$1" -cf - . | zstd -q -1 -T0 | age -r "$2" -o "$3"'
        words = ["pipeline", tree, recipient, os.path.join(top, "blobs.tar.zst.age")]
        spent = self.bench.timed(["bash", "-o", "pipefail", "-c", line, *words])
        self.bench.remove(top)
        os.sync()
        return spent

    def archive(self):
        tree = os.path.realpath(self.options.archive_of or self.bench.tree)
        each = self.coffre("archive")
        if not each.can("--profile"):
            say("this coffre has no seal --profile archive; left out")
        elif not shutil.which("7z"):
            say("there is no 7z; apt-get install p7zip-full; left out")
        else:
            self.bench.warm(tree)
            spent = each.seal(tree, "--profile", "archive")
            self.record("archive", "coffre", spent.secs)
            self.record("archive-cpu", "coffre", spent.cpu)
            self.record("archive-rss", "coffre", spent.peak)
            self.record("archive-size", "coffre", each.stored())
            target = os.path.join(each.top, "tree.7z")
            # 1: some files could not be read.
            spent = self.bench.timed(["7z", "a", "-mx=9", "-bd", target, tree], allowed=(0, 1))
            self.record("archive", "plain", spent.secs)
            self.record("archive-cpu", "plain", spent.cpu)
            self.record("archive-rss", "plain", spent.peak)
            self.record("archive-size", "plain", os.path.getsize(target))
        self.bench.remove(each.top)


def blobs(top, nbytes):
    """Files of random bytes, the first quarter of them in a directory of its own."""
    say(f"making {nbytes / 1e9:.1f} GB that do not compress")
    source = random.Random(1)
    made = 0
    for index in range(-(-nbytes // BLOB_BYTES)):
        folder = os.path.join(top, "part" if made < nbytes // PART else "rest")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"blob-{index:04}"), "wb") as f:
            left = min(BLOB_BYTES, nbytes - made)
            made += left
            while left:
                left -= f.write(source.randbytes(min(left, 1 << 20)))

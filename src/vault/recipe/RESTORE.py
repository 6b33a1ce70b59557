#!/usr/bin/env python3
"""Restore a snapshot of this Coffre vault with nothing but python3, age and zstd.

    python3 RESTORE.py [--check] [--keep-damaged] IDENTITY DEST [SNAPSHOT]

IDENTITY   what opens one of keys/owner-*.age: an age identity file or an SSH private key; or that
           key file already decrypted; or the word `passphrase` (or `-`), and age asks for it
DEST       a new or empty directory; nothing is written outside of it
SNAPSHOT   sealer/seq, as in snaps/; without it the newest one
--check    also compare every object that is read with its name (needs b3sum)
--keep-damaged   keep files of which a part is lost, with zeros for that part; else they are removed

Run it as root to get owners, devices and file capabilities back. Exit status: 0 everything is
restored, 4 something is missing or wrong and listed, 1 nothing could be done.

How to do it by hand, if even this script does not run any more:

 1. age -d -i IDENTITY keys/owner-0001-age.age > id     The vault's own keys, an age identity file.
    age -d -i id keys/epoch-0002.age >> id              More of them, if there is such a file.
 2. age -d -i id snaps/SEALER/SEQ.age | zstd -dc        The manifest, one CBOR map (RFC 8949). Its key 7
                                                        is the id of the root directory's node.
 3. age -d -i id packs/ab/....age | zstd -dc            The chunks of a pack, one after the other. Their
    ids and lengths are in the table `CFIX` near the end of what age prints; the last 32 bytes say where.
 4. A node is a chunk too: CBOR, the entries of one directory. An entry of a directory holds the id of its
    own node (key 8), that of a file the ids and lengths of its chunks in order (key 7), and holes (key 13).
"""
import argparse, collections, errno, glob, os, re, shutil, signal, stat, struct, subprocess, sys, tempfile, time
from subprocess import DEVNULL, PIPE, Popen

DATA, META = 1, 2  # kinds of packs
MAGIC = struct.pack("<I", 0x184D2A5C)  # starts a zstd frame that `zstd -d` steps over
# Keys of an entry in a node. The others (names of owners, ctime, source inode ...) cannot be restored.
NAME, MODE, UID, GID, MTIME, SIZE, LINK, CHUNKS, NODE, TARGET, DEVICE, XATTRS = range(12)
HOLES, INLINE, CHUNK_LISTS = 13, 14, 20
SCRATCH = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;
    CREATE TABLE pack  (number INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE place (id BLOB, pack INTEGER);           -- which pack holds a chunk
    CREATE TABLE node  (id BLOB PRIMARY KEY, raw BLOB);   -- the chunks of the meta packs read so far
    CREATE TABLE file  (number INTEGER PRIMARY KEY, path BLOB, inode TEXT);
    CREATE TABLE link  (inode TEXT, path BLOB);           -- the names of each file that has several
    CREATE TABLE piece (id BLOB, length INTEGER, file INTEGER, offset INTEGER);  -- what is still to be written
    CREATE INDEX link_by_inode ON link (inode);"""


class Fatal(Exception):
    """Nothing more can be done. Holds what happened, and a hint."""


class Damage(Exception):
    """One object or entry is not what it should be; the rest may be fine."""


MALFORMED = (Damage, LookupError, TypeError, ValueError, OverflowError, struct.error)


def say(text):
    print("RESTORE: " + text, file=sys.stderr, flush=True)


def show(path):
    """A name for the screen: it may hold any bytes, but no control characters reach the terminal."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def need(condition, complaint):
    if not condition:
        raise Damage(complaint)


def first_line(output):
    return (output or b"").decode(errors="replace").strip().split("\n")[0] or "it failed"


# ---- CBOR: definite lengths, shortest numbers, sorted maps; nothing else is ever stored ----

def decode(data):
    try:
        value, end = decode_item(data, 0, 0)
    except (IndexError, UnicodeDecodeError):
        raise Damage("its CBOR is garbled") from None
    need(end == len(data) and isinstance(value, dict) and value.get(0) == 1, "it is not a CBOR map of version 1")
    return known(value)


def known(fields):
    need(max(fields) < 128, "it has field %d, of a newer Coffre" % max(fields))  # below 128: may be ignored
    return fields


def decode_item(data, at, depth):
    major, n = data[at] >> 5, data[at] & 31
    at += 1
    if n >= 24:
        need(n < 28, "its CBOR has no definite length")
        width = 1 << (n - 24)
        n = int.from_bytes(data[at:at + width], "big")
        at += width
        need(n >= 24 if width == 1 else n >> 4 * width, "its CBOR has an overlong number")
    if major < 2:
        return (n if major == 0 else -1 - n), at
    if major < 4:
        need(at + n <= len(data), "its CBOR ends early")
        return (data[at:at + n] if major == 2 else data[at:at + n].decode()), at + n
    need(major < 6 and depth < 8, "its CBOR is of a kind that is never used")
    items, fields, last_key = [], {}, b""
    for _ in range(n):
        start = at
        item, at = decode_item(data, at, depth + 1)
        if major == 4:
            items.append(item)
            continue
        need(data[start:at] > last_key and isinstance(item, (int, str)), "its CBOR has unsorted keys")
        last_key = data[start:at]
        fields[item], at = decode_item(data, at, depth + 1)
    return (items if major == 4 else fields), at


# ---- The vault: keys, snapshots, and which pack holds what ----

class Vault:
    def __init__(self, root, private, check):
        self.root, self.identity, self.check = root, os.path.join(private, "id"), check
        self.trouble = False  # something is wrong that no list of lost files tells of
        self.bad, self.read, self.indexed, self.scanned = {}, set(), set(), False  # packs, by name
        lines = [line.split(" ") for line in self.bytes("VAULT").decode().splitlines()]
        if lines[0] != ["coffre-vault", "1"] or any(line[0] == "need" for line in lines):
            raise Fatal("this vault has a format that this script does not know", "use a newer Coffre")
        self.id = bytes.fromhex(next(line[1] for line in lines if line[0] == "id"))

    def bytes(self, name):
        with open(os.path.join(self.root, name), "rb") as f:
            return f.read()

    def files(self, pattern):
        """Names in the vault, sorted. glob leaves out unfinished writes, since these start with a dot."""
        return sorted(os.path.relpath(p, self.root) for p in glob.glob(os.path.join(glob.escape(self.root), pattern)))

    def run(self, *argv, data=b"", stdout=PIPE):
        return subprocess.run(argv, input=data, stdout=stdout, stderr=PIPE, cwd=self.root)

    def warn(self, text):
        self.trouble = True
        say("warning: " + text)

    def open_keys(self, given):
        """Leaves the vault's own identities in a file: data, meta, perhaps older pairs."""
        ask = given in ("-", "passphrase")
        keys = b"" if ask else self.bytes(os.path.abspath(given))
        pattern = "keys/owner-*-passphrase.age" if ask else "keys/owner-*.age"
        names = {os.path.basename(path) for path in self.files(pattern) + self.files("parity/" + pattern)}
        tried, errors = set(), []
        # Every key file has a second copy in parity/: without it, all the rest would be lost with it.
        for path in [place + name for name in sorted(names) for place in ("keys/", "parity/keys/")]:
            sealed = self.bytes(path) if os.path.isfile(os.path.join(self.root, path)) else None
            if b"# coffre-vs " in keys or sealed is None or sealed in tried:
                continue
            tried.add(sealed)
            say("opening " + path)
            # age asks on the terminal by itself. What it says about keys that do not fit is kept for later.
            how = ["age", "-d"] if ask else ["age", "-d", "-i", os.path.abspath(given)]
            age = subprocess.run(how + [path], cwd=self.root, stdout=PIPE, stderr=None if ask else PIPE)
            keys = age.stdout if age.returncode == 0 else b""
            errors.append("\n  %s: %s" % (path, first_line(age.stderr)))
        if b"# coffre-vs " not in keys:
            raise Fatal("no key file of the vault was opened" + "".join(errors),
                        "IDENTITY must be what opens one of keys/owner-*.age; README.txt says more")
        if b"of vault " + self.id.hex().encode() not in keys:
            raise Fatal("these keys are of another vault", "compare `id` in VAULT with their first line")
        with open(os.open(self.identity, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(b"\n".join(re.findall(rb"^AGE-SECRET-KEY-1\w+", keys, re.M)) + b"\n")
            f.flush()
            # If the keys were rotated, later pairs are here, sealed to an identity that every key file holds.
            for path in self.files("keys/epoch-*.age") + self.files("parity/keys/epoch-*.age"):
                more = self.run("age", "-d", "-i", self.identity, path).stdout
                f.write(b"".join(b"%s\n" % key for key in re.findall(rb"^AGE-SECRET-KEY-1\w+", more, re.M)))
                f.flush()

    def manifest(self, sealer, seq):
        path = "snaps/%s/%s.age" % (sealer, seq)
        age = self.run("age", "-d", "-i", self.identity, path)
        need(age.returncode == 0, "%s: %s" % (path, first_line(age.stderr)))
        manifest = decode(self.run("zstd", "-dc", data=age.stdout).stdout)
        need([manifest[key] for key in (1, 2, 3)] == [self.id, sealer, int(seq)], path + " belongs elsewhere")
        return manifest

    def forgotten(self):
        """What the owner no longer wants, as sealer/number: its objects may be gone. Records count in the order of their numbers."""
        gone = set()
        for path in sorted(self.files("gc/*.txt.sig")):
            for line in self.bytes(path[:-4]).decode("utf-8", "replace").splitlines():
                words = line.split(" ")
                if words[0] == "forget":
                    gone.add(words[1])
                elif words[0] == "undelete":
                    gone.discard(words[1])
        return gone

    def choose(self, wanted):
        """The snapshot to restore: (sealer, seq, manifest). A snapshot exists once its receipt is signed."""
        found = collections.defaultdict(list)
        for path in self.files("snaps/*/*.b3.sig"):
            found[path.split("/")[1]].append(path.split("/")[2][:-7])
        if wanted:
            sealer, _, seq = wanted.rpartition("/")
            if seq.zfill(10) not in found[sealer]:
                newest = ["%s/%s" % (sealer, seqs[-1]) for sealer, seqs in sorted(found.items()) if seqs]
                raise Fatal("there is no snapshot " + wanted, "the newest are: " + ", ".join(newest))
            return sealer, seq.zfill(10), self.manifest(sealer, seq.zfill(10))
        readable, revoked, forgotten = [], self.revoked(), self.forgotten()
        for sealer, seqs in found.items():
            for seq in reversed(seqs):  # a sealer's numbers only grow; among sealers, time decides
                if "%s/%d" % (sealer, int(seq)) in forgotten:
                    say("passing over snapshot %s/%s, which was forgotten" % (sealer, seq))
                    continue
                if seq > revoked.get(sealer, seq):
                    self.warn("snapshot %s/%s was signed after its sealer was revoked, trying the one before" % (sealer, seq))
                    continue
                try:
                    readable.append((sealer, seq, self.manifest(sealer, seq)))
                    break
                except MALFORMED as e:
                    self.warn("snapshot %s/%s cannot be read, trying the one before: %s" % (sealer, seq, e))
        if not readable:
            raise Fatal("there is no snapshot that can be read", "is this a whole copy of the vault?")
        return max(readable, key=lambda snapshot: snapshot[2][5])

    def newest_list(self):
        """The list of signers that counts, or None."""
        lists = [p for p in self.files("signers/allowed_signers*") if re.search(r"signers(\.\d+)?$", p)]
        number = {p: int(p.partition(".")[2] or 1) for p in lists}
        # A list says its number: under a higher one it is an older list, put there to undo what was changed since.
        said = {p: re.match(rb"#list (\d+)\n", self.bytes(p)) for p in lists}
        genuine = [p for p in lists if not said[p] or int(said[p][1]) == number[p]]
        return max(genuine, key=number.get, default=None)

    def revoked(self):
        """The last snapshot that counts of each sealer that was revoked, "" if none does."""
        newest, last = self.newest_list(), {}
        for line in self.bytes(newest).decode(errors="replace").splitlines() if newest else ():
            if ",valid-before=" in line and not line.startswith("#"):
                last.setdefault(line.split(" ")[0], "")
            named = re.match(r"#last [0-9a-f]{64}  snaps/([^/]+)/(\d{10})\.b3$", line)
            if named and named[1] in last:
                last[named[1]] = max(last[named[1]], named[2])
        return last

    def check_receipt(self, sealer, seq):
        """Who vouches for this snapshot? A restore goes on either way, but says so."""
        manifest, receipt = "snaps/%s/%s.age" % (sealer, seq), "snaps/%s/%s.b3" % (sealer, seq)
        newest = self.newest_list()
        if not shutil.which("ssh-keygen") or not shutil.which("b3sum") or not newest:
            return say("note: the signature is not checked; that takes ssh-keygen and b3sum")
        text = self.bytes(receipt)
        # What a sealer signed before it was revoked is good: it is judged as of a time before that.
        when = ["-O", "verify-time=19700102"] if seq <= self.revoked().get(sealer, "") else []
        verify = self.run("ssh-keygen", "-Y", "verify", "-f", newest, "-I", sealer, "-n", "coffre-receipt-v1", *when,
                          "-s", receipt + ".sig", data=text)
        if verify.returncode:
            self.warn("the signature of %s is NOT good: %s" % (receipt, first_line(verify.stderr or verify.stdout)))
        elif self.run("b3sum", manifest).stdout not in text.splitlines(True):
            self.warn("%s is NOT the manifest that was signed" % manifest)
        else:
            say("the signature of %s is good" % receipt)
        for line in self.run("b3sum", "-c", "--quiet", receipt).stdout.decode().splitlines() if self.check else ():
            self.warn("%s: %s" % (receipt, line))

    def open_pack(self, name, kind=None):
        """Decrypts a pack. Returns a file of its plaintext, and its table of chunks: [(id, length)].

        The table is the one inside the pack, which age has authenticated; index segments are only hints.
        """
        path = "packs/%s/%s.age" % (name[:2], name)
        need(os.path.isfile(os.path.join(self.root, path)), path + " is missing")
        need(not self.check or self.run("b3sum", "--no-names", path).stdout.decode().strip() == name,
             path + " does not match its name")
        # A file in memory, where there is such a thing: plaintext shall reach no disk but that of DEST.
        plain = open(os.memfd_create("pack"), "w+b", 0) if hasattr(os, "memfd_create") else tempfile.TemporaryFile()
        age = self.run("age", "-d", "-i", self.identity, path, stdout=plain)
        need(age.returncode == 0, "%s: %s" % (path, first_line(age.stderr)))
        size = plain.seek(0, 2)
        part = lambda offset, length: os.pread(plain.fileno(), length, offset)
        head, tail = part(0, 32), part(max(size - 32, 0), 32)
        need(size > 84 and head[:12] == MAGIC + b"\x18\0\0\0CFP1" and tail[:12] == MAGIC + b"\x18\0\0\0CFTR",
             path + " is not a pack")
        need(head[16:] == self.id, path + " is of another vault")
        need(kind in (None, head[12]), path + " is of the wrong kind")
        start, length, plain_len = struct.unpack("<QIQ", tail[12:])
        need(plain_len == size and start + length <= size - 32 and length >= 20, path + " has a bad trailer")
        table = part(start, length)
        need(table[:12] == MAGIC + struct.pack("<I", length - 8) + b"CFIX", path + " has no table of chunks")
        frames, chunks = cut_table(table[12:])
        at, n = 32, 0
        for offset, stored, raw, count, base in frames:
            need(offset == at and base == 0 and raw == sum(length for _, length in chunks[n:n + count]),
                 path + " has a table that does not add up")
            at, n = at + stored, n + count
        need(at == start and n == len(chunks), path + " has a table that does not add up")
        plain.seek(0)
        return plain, chunks

    def chunks(self, name, kind):
        """Yields (id, bytes) of each chunk of a pack: the output of `zstd -dc`, cut by the table."""
        plain, table = self.open_pack(name, kind)
        with plain, Popen(["zstd", "-dc"], stdin=plain, stdout=PIPE, stderr=DEVNULL, bufsize=1 << 20) as zstd:
            for chunk, length in table:
                raw = zstd.stdout.read(length)
                need(len(raw) == length, "pack %s holds less than its table says" % name)
                yield chunk, raw
            need(not zstd.stdout.read(1) and zstd.wait() == 0, "pack %s holds more than its table says" % name)

    def segment(self, path):
        """Yields (pack, [ids of its chunks]) from an index segment, which may be too large for memory."""
        age = Popen(["age", "-d", "-i", self.identity, path], stdout=PIPE, stderr=DEVNULL, cwd=self.root)
        with age, Popen(["zstd", "-dc"], stdin=age.stdout, stdout=PIPE, stderr=DEVNULL, bufsize=1 << 20) as zstd:
            head = b"" if zstd.stdout.read(5) == b"CFIX1" else b"?"
            while not head:
                head = zstd.stdout.read(48)  # the pack's digest and size, its numbers of frames and chunks
                if len(head) == 48:
                    frames, chunks = struct.unpack("<II", head[40:])
                    body = head[40:] + zstd.stdout.read(20 * frames + 36 * chunks)
                    yield head[:32].hex(), [chunk for chunk, _ in cut_table(body)[1]]
                    head = b""
                elif not head:
                    break
            need(not head and zstd.wait() == 0 and age.wait() == 0, path + " is damaged")

    def load_index(self, scratch):
        """Notes which pack holds which chunk, in a scratch database, so that large vaults need no more memory."""
        os.environ["SQLITE_TMPDIR"] = scratch  # SQLite makes a nameless file there; it looks when it is loaded
        import sqlite3
        self.db = sqlite3.connect("")
        self.db.executescript(SCRATCH)
        for path in self.files("index/*/*.age"):
            try:
                for name, ids in self.segment(path):
                    self.add_places(name, ids)
            except Damage as e:
                say("note: %s; the packs have tables of their own, so this only takes longer" % e)
        self.db.execute("CREATE INDEX place_by_id ON place (id)")

    def add_places(self, name, ids):
        if name not in self.indexed:
            self.indexed.add(name)
            number = self.db.execute("INSERT INTO pack (name) VALUES (?)", (name,)).lastrowid
            self.db.executemany("INSERT INTO place VALUES (?, ?)", ((chunk, number) for chunk in ids))

    def scan(self):
        """Reads the tables of all packs that no index segment told of, once. Was there anything to do?"""
        names = {os.path.basename(path)[:-4] for path in self.files("packs/*/*.age")} - self.indexed
        for name in sorted(names) if not self.scanned else ():
            try:
                plain, table = self.open_pack(name)
                plain.close()
                self.add_places(name, [chunk for chunk, _ in table])
            except Damage as e:
                self.bad[name] = str(e)
        self.scanned, before = True, self.scanned
        return not before

    def node(self, chunk):
        """The bytes of a tree node, or of a part of a long list of chunks. Reads the pack if need be."""
        while True:
            row = self.db.execute("SELECT raw FROM node WHERE id = ?", (chunk,)).fetchone()
            if row:
                return row[0]
            packs = self.db.execute("SELECT name FROM place JOIN pack ON pack = number WHERE id = ?", (chunk,))
            name = next((name for name, in packs.fetchall() if name not in self.read), None)
            if name:
                self.read.add(name)
                try:
                    self.db.executemany("INSERT OR IGNORE INTO node VALUES (?, ?)", self.chunks(name, META))
                except Damage as e:
                    self.bad[name] = str(e)
            else:
                need(self.scan(), "node %s is in no readable pack" % chunk.hex()[:16])


def cut_table(body):
    """What follows the letters CFIX: [(offset, stored length, raw length, chunks, base)], [(id, length)]."""
    frames, chunks = struct.unpack_from("<II", body)
    middle = 8 + 20 * frames
    need(len(body) == middle + 36 * chunks, "a table of chunks has the wrong length")
    return list(struct.iter_unpack("<5I", body[8:middle])), list(struct.iter_unpack("<32sI", body[middle:]))


# ---- The copy: names and sizes first, then contents pack by pack, then metadata from the leaves up ----

class Copy:
    def __init__(self, vault, dest, keep_damaged):
        self.vault, self.db, self.keep_damaged = vault, vault.db, keep_damaged
        self.lost, self.missed, self.made = {}, collections.Counter(), 0
        self.root = os.open(dest, os.O_RDONLY | os.O_DIRECTORY)
        self.above, self.above_fd, self.open_files = b"", os.dup(self.root), collections.OrderedDict()

    def restore(self, root_node):
        for path, entry in self.walk(root_node, parents_first=True):
            try:
                self.make(path, entry)
                self.made += 1
            except (OSError, *MALFORMED) as e:
                if isinstance(e, PermissionError) and os.geteuid() != 0:
                    self.missed["making"] += 1  # a device
                else:
                    self.lose(path, e)
        self.db.execute("CREATE INDEX piece_by_id ON piece (id)")
        # Should the index not tell of all packs, or wrongly, the tables of the others are read as well.
        if not self.fill() and not (self.vault.scan() and self.fill()):
            self.drop_incomplete()
        for fd in self.open_files.values():
            os.close(fd)
        for path, entry in self.walk(root_node, parents_first=False):
            self.set_metadata(path, entry)

    def lose(self, path, why):
        if isinstance(why, OSError) and why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise why
        self.lost.setdefault(path, str(why) if isinstance(why, (OSError, Damage)) else "malformed entry: %r" % why)

    def walk(self, root_node, parents_first):
        """Yields (path, entry) of everything, each time with the working directory set to where it belongs.

        Only names in the working directory are used, so that no path is ever too long, and `..` leads back
        up, so that one open directory is enough at any depth.
        """
        os.fchdir(self.root)
        stack, last = [(b"", None, self.entries(root_node, b""))], [b""]
        while stack:
            path, directory, rest = stack[-1]
            entry = next(rest, None)
            if entry is None:
                stack.pop(), last.pop()
                if directory:
                    os.chdir(b"..")
                    if not parents_first:
                        yield path, directory
                continue
            name = entry[NAME]
            here = path + b"/" + name if path else name
            if name <= last[-1]:
                self.lose(here, Damage("an entry of this name is there twice, or out of order"))
                continue
            last[-1] = name
            if parents_first or not stat.S_ISDIR(entry[MODE]):
                yield here, entry
            if stat.S_ISDIR(entry[MODE]):
                try:
                    need(len(stack) <= 4096, "directories are nested too deep")
                    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                except (OSError, Damage) as e:
                    self.lose(here, e)
                    continue
                os.fchdir(fd)
                os.close(fd)
                stack.append((here, entry, self.entries(entry.get(NODE), here)))
                last.append(b"")

    def entries(self, node, path, level=0):
        """Yields the entries of one directory. A large one is cut into sub-nodes."""
        try:
            fields = decode(self.vault.node(node))
            need(level < 8 and (1 in fields) != (2 in fields), "its node holds neither entries nor sub-nodes")
            for entry in fields.get(1, ()):
                name = known(entry)[NAME]
                need(isinstance(name, bytes) and name not in (b"", b".", b"..") and not {0, 47} & set(name),
                     "it holds a forbidden name")
                need(all(isinstance(entry[key], int) for key in (MODE, UID, GID, MTIME)), "it holds a strange entry")
            parts = [part for _, part in fields.get(2, ())]
        except MALFORMED as e:
            return self.lose(path + b"/", e if isinstance(e, Damage) else Damage("its node is malformed"))
        yield from fields.get(1, ())
        for part in parts:
            yield from self.entries(part, path, level + 1)

    def make(self, path, entry):
        """Makes one entry in the working directory: of the right kind and size, but empty and private."""
        name, kind, first = entry[NAME], stat.S_IFMT(entry[MODE]), None
        inode = str(entry[LINK][0]) if LINK in entry and kind != stat.S_IFDIR else None
        if inode:
            first = self.db.execute("SELECT path FROM link WHERE inode = ? LIMIT 1", (inode,)).fetchone()
        if first:
            os.link(os.path.basename(first[0]), name, src_dir_fd=self.parent(first[0]), follow_symlinks=False)
        elif kind == stat.S_IFDIR:
            os.mkdir(name, 0o700)
        elif kind == stat.S_IFLNK:
            os.symlink(entry[TARGET], name)
        elif kind == stat.S_IFREG:
            self.make_file(path, entry, inode)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            os.mknod(name, kind | 0o600, os.makedev(entry[DEVICE] >> 32, entry[DEVICE] & 0xFFFFFFFF))
        else:
            raise Damage("it is of a kind that does not exist")
        if inode:
            self.db.execute("INSERT INTO link VALUES (?, ?)", (inode, path))

    def make_file(self, path, entry, inode):
        fd = os.open(entry[NAME], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        number = self.db.execute("INSERT INTO file (path, inode) VALUES (?, ?)", (path, inode)).lastrowid
        try:
            os.ftruncate(fd, entry[SIZE])  # what no piece covers stays a hole
            write_at(fd, entry.get(INLINE, b""), 0)
            self.db.executemany("INSERT INTO piece VALUES (?, ?, %d, ?)" % number, self.pieces(entry))
        except Exception:
            os.unlink(entry[NAME])
            self.db.execute("DELETE FROM piece WHERE file = ?", (number,))
            raise
        finally:
            os.close(fd)

    def pieces(self, entry):
        """Yields (id, length, offset) of each chunk of a file. All must add up to its size."""
        lists = [entry.get(CHUNKS, b"")]
        if CHUNK_LISTS in entry:
            lists = (self.vault.node(chunk) for _, chunk in entry[CHUNK_LISTS])
        holes = dict(entry.get(HOLES, ()))
        at = len(entry.get(INLINE, b""))
        for chunk_list in lists:
            for chunk, length in struct.iter_unpack("<32sI", chunk_list):
                at += holes.pop(at, 0)
                yield chunk, length, at
                at += length
        at += holes.pop(at, 0)
        need(at == entry[SIZE] and not holes, "its chunks and holes do not add up to its size")

    def fill(self):
        """Writes contents: decrypts each needed pack once, and puts its chunks wherever they belong."""
        packs = self.db.execute("SELECT DISTINCT name FROM piece JOIN place USING (id) JOIN pack ON pack = number")
        for name, in packs.fetchall():
            if name in self.vault.bad:
                continue
            try:
                for chunk in self.vault.chunks(name, DATA):
                    which, used = (chunk[0], len(chunk[1])), False
                    where = self.db.execute("SELECT file, offset FROM piece WHERE id = ? AND length = ?", which)
                    for file, offset in where:
                        write_at(self.file(file), chunk[1], offset)
                        used = True
                    if used:
                        self.db.execute("DELETE FROM piece WHERE id = ? AND length = ?", which)
            except Damage as e:
                self.vault.bad[name] = str(e)
        return not self.db.execute("SELECT 1 FROM piece LIMIT 1").fetchone()

    def drop_incomplete(self):
        """A file of the right name and size with wrong bytes in it is worse than none, unless asked for."""
        files = self.db.execute("SELECT DISTINCT path, inode FROM piece JOIN file ON file = number").fetchall()
        for path, inode in files:
            names = self.db.execute("SELECT path FROM link WHERE inode = ?", (inode,)).fetchall() or [(path,)]
            for path, in names:
                self.lose(path, Damage("a part of it is in no readable pack"))
                if not self.keep_damaged:
                    os.unlink(os.path.basename(path), dir_fd=self.parent(path))
                    self.made -= 1

    def parent(self, path):
        """The open directory that holds `path`, reached name by name."""
        above = os.path.dirname(path)
        if above != self.above:
            fd = os.dup(self.root)
            for name in above.split(b"/") if above else ():
                fd, old = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), fd
                os.close(old)
            os.close(self.above_fd)
            self.above, self.above_fd = above, fd
        return self.above_fd

    def file(self, number):
        """A file opened for writing. The 128 used last stay open."""
        fd = self.open_files.pop(number, None)
        if fd is None:
            path, = self.db.execute("SELECT path FROM file WHERE number = ?", (number,)).fetchone()
            fd = os.open(os.path.basename(path), os.O_WRONLY | os.O_NOFOLLOW, dir_fd=self.parent(path))
            if len(self.open_files) == 128:
                os.close(self.open_files.popitem(last=False)[1])
        self.open_files[number] = fd
        return fd

    def set_metadata(self, path, entry):
        name, mode, owner = entry[NAME], stat.S_IMODE(entry[MODE]), (entry[UID], entry[GID])
        try:
            made = os.lstat(name)
        except FileNotFoundError:
            return  # it could not be made, and is on the list already
        if stat.S_IFMT(made.st_mode) != stat.S_IFMT(entry[MODE]):
            return self.lose(path, Damage("something else took its place"))
        attributes = [(key, value) for key, value in entry.get(XATTRS, ())]
        # chown comes first: it clears the setuid bit and file capabilities. ACLs come after chmod, which
        # would change their masks. Times come last.
        if os.geteuid() == 0:
            self.attempt("setting the owner", path, os.chown, name, *owner, follow_symlinks=False)
        elif owner != (made.st_uid, made.st_gid):
            self.missed["setting the owner"] += 1
            mode &= 0o1777  # setuid for the wrong owner would be a trap
        for key, value in sorted(attributes):
            if not key.startswith(b"system.posix_acl_"):
                self.attempt("setting an attribute", path, os.setxattr, name, key, value, follow_symlinks=False)
        if not stat.S_ISLNK(made.st_mode):
            self.attempt("setting the mode", path, os.chmod, name, mode)
        for key, value in attributes:
            if key.startswith(b"system.posix_acl_"):
                self.attempt("setting an ACL", path, os.setxattr, name, key, value, follow_symlinks=False)
        times = (entry[MTIME], entry[MTIME])  # a snapshot holds no access times
        self.attempt("setting the time", path, os.utime, name, ns=times, follow_symlinks=False)

    def attempt(self, what, path, call, *args, **options):
        try:
            call(*args, **options)
        except (OSError, *MALFORMED) as e:
            if not self.missed[what]:
                say("note: %s failed for %s: %s" % (what, show(path), e))
            self.missed[what] += 1


def write_at(fd, data, offset):
    data = memoryview(data)
    while data:
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n


def main():
    def usage(text):
        raise Fatal(text, "python3 RESTORE.py [--check] [--keep-damaged] IDENTITY DEST [SNAPSHOT]")
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.error = usage
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--keep-damaged", action="store_true")
    parser.add_argument("IDENTITY")
    parser.add_argument("DEST")
    parser.add_argument("SNAPSHOT", nargs="?")
    options = parser.parse_args()
    for tool in ["age", "zstd"] + ["b3sum"] * options.check:
        if not shutil.which(tool):
            raise Fatal("the program `%s` is not installed" % tool, "on Debian: apt install age zstd b3sum")
    root, dest = os.path.dirname(os.path.realpath(__file__)), os.path.realpath(options.DEST)
    if not os.path.isfile(os.path.join(root, "VAULT")):
        raise Fatal("there is no VAULT in " + root, "this script must lie in the vault, or in a whole copy of it")
    if os.path.commonpath([root, dest]) == root:
        raise Fatal("%s lies in the vault" % dest, "choose a directory outside of it")
    if os.path.lexists(dest) and (not os.path.isdir(dest) or os.listdir(dest)):
        raise Fatal("%s is not an empty directory" % dest, "choose a new one; nothing is ever overwritten")
    os.umask(0o077)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an orderly end, so that the keys below are removed
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="coffre-restore-", dir=memory) as private:
        vault = Vault(root, private, options.check)
        vault.open_keys(options.IDENTITY)
        sealer, seq, manifest = vault.choose(options.SNAPSHOT)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest[5] // 10**9))
        say("snapshot %s/%s, sealed %s UTC" % (sealer, seq, when))
        vault.check_receipt(sealer, seq)
        os.makedirs(dest, exist_ok=True)
        try:
            os.removexattr(dest, "system.posix_acl_default")  # what is restored must not inherit it
        except OSError:
            pass
        vault.load_index(dest)
        copy = Copy(vault, dest, options.keep_damaged)
        copy.restore(manifest[7])
    for kind, path, text in manifest.get(14, ()):
        say("note: when this was sealed, %s: %s" % (show(path), text))
    for path, why in sorted(copy.lost.items()):
        say("lost: %s: %s" % (show(path), why))
    for why in sorted(set(vault.bad.values())) if copy.lost else ():
        say("perhaps because: " + why)
    for what, count in sorted(copy.missed.items()):
        say("note: %s failed for %d entries%s" % (what, count, "; run as root" * (os.geteuid() != 0)))
    say("%d entries restored into %s%s" % (copy.made, dest, "; see above for what is LOST" if copy.lost else ""))
    # What only root may set is no damage. What root cannot set is.
    return 4 if copy.lost or vault.trouble or (copy.missed and os.geteuid() == 0) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Fatal, OSError, *MALFORMED) as e:
        what, hint = e.args if isinstance(e, Fatal) else (str(e) or repr(e), "README.txt says how to go on by hand")
        say("error: %s\nRESTORE: hint: %s" % (what, hint))
        sys.exit(1)
    except KeyboardInterrupt:
        say("error: stopped; what is in DEST is not complete")
        sys.exit(130)

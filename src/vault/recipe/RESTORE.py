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
restored, 4 something is missing and listed, 1 nothing could be done.

How to do it by hand, if even this script does not run any more:

 1. age -d -i IDENTITY keys/owner-0001-age.age > id      The vault's own keys, an age identity file.
 2. age -d -i id snaps/SEALER/SEQ.age | zstd -dc         The manifest, one CBOR map (RFC 8949). Key 7 is
                                                         the id of the root directory's node.
 3. age -d -i id packs/ab/....age | zstd -dc             The chunks of a pack, one after the other. Their
    ids and lengths are in the table `CFIX` near the end of what age prints; the last 32 bytes say where.
 4. A node is a chunk: a CBOR list of names, each with its metadata. A directory holds the id of its own
    node (key 8), a file the ids and lengths of its chunks in order (key 7), with holes between (key 13).
"""
import argparse, collections, errno, glob, os, re, shutil, signal, stat, struct, subprocess, sys, tempfile, time

DATA, META = 1, 2  # kinds of packs
SKIPPABLE = struct.pack("<I", 0x184D2A5C)  # magic of the zstd frames that `zstd -d` steps over
PACK_LEN_BYTES_MAX = 256 << 20  # a decrypted pack is held in memory; Coffre makes them at most 32 MiB
OPEN_FILES_MAX = 128
DIR_DEPTH_MAX = 4096
# Keys of an entry in a node; the others (names of owners, ctime, source inode ...) cannot be restored.
NAME, MODE, UID, GID, MTIME, SIZE, LINK, CHUNKS, NODE, TARGET, DEVICE, XATTRS = range(12)
HOLES, INLINE, CHUNK_LISTS = 13, 14, 20
ACL = b"system.posix_acl_"


class Fatal(Exception):
    """Nothing more can be done; args: what happened, and perhaps a hint."""


class Damage(Exception):
    """One object or entry is not what it should be; the rest may be fine."""


def say(text):
    print("RESTORE: " + text, file=sys.stderr, flush=True)


def show(path):
    """A name for the screen: any bytes, but no control characters."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---- CBOR: definite lengths, shortest forms, maps with sorted keys; nothing else is ever stored ----

def decode(data):
    try:
        value, end = decode_item(data, 0, 0)
    except (IndexError, UnicodeDecodeError) as e:
        raise Damage("CBOR ends early or is garbled") from e
    if end != len(data) or not isinstance(value, dict) or value.get(0) != 1:
        raise Damage("not a CBOR map of version 1")
    return known(value)


def known(fields):
    """Refuses keys from 128 up: they change the meaning of the rest."""
    if max(fields) >= 128:
        raise Damage("written by a newer Coffre: field %d" % max(fields))
    return fields


def decode_item(data, at, depth):
    major, n = data[at] >> 5, data[at] & 31
    at += 1
    if n >= 24:
        width = 1 << (n - 24)
        n = int.from_bytes(data[at:at + width], "big")
        at += width
        if width > 8 or (n < 24 if width == 1 else n >> 4 * width == 0):
            raise Damage("CBOR with an indefinite or overlong number")
    if major < 2:
        return (n if major == 0 else -1 - n), at
    if major < 4:
        if at + n > len(data):
            raise IndexError
        raw = data[at:at + n]
        return (raw if major == 2 else raw.decode()), at + n
    if major > 5 or depth > 8:
        raise Damage("CBOR of a kind that is never used")
    if major == 4:
        items = []
        for _ in range(n):
            value, at = decode_item(data, at, depth + 1)
            items.append(value)
        return items, at
    fields, last = {}, b""
    for _ in range(n):
        start = at
        key, at = decode_item(data, at, depth + 1)
        if data[start:at] <= last or not isinstance(key, (int, str)):
            raise Damage("CBOR map with unsorted keys")
        last = data[start:at]
        fields[key], at = decode_item(data, at, depth + 1)
    return fields, at


# ---- The vault: what `age -d OBJECT | zstd -dc` says ----

class Vault:
    def __init__(self, root, private, check):
        self.root, self.identity, self.check = root, os.path.join(private, "id"), check
        self.trouble = False  # something is wrong that no lost file tells of
        self.bad, self.indexed = {}, set()  # packs by name: why unreadable; told of by an index segment
        lines = [line.split(" ") for line in self.text("VAULT").splitlines()]
        if lines[:1] != [["coffre-vault", "1"]] or any(line[0] == "need" for line in lines):
            raise Fatal("this vault has a format that this script does not know", "use a newer Coffre")
        self.id = bytes.fromhex(next(line[1] for line in lines if line[0] == "id"))

    def text(self, name):
        with open(os.path.join(self.root, name), encoding="utf-8", errors="replace") as f:
            return f.read()

    def files(self, pattern):
        """Names below the vault, sorted; glob leaves out the unfinished, which start with a dot."""
        return sorted(os.path.relpath(p, self.root) for p in glob.glob(os.path.join(glob.escape(self.root), pattern)))

    def warn(self, text):
        self.trouble = True
        say("warning: " + text)

    def run(self, argv, data=b""):
        return subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.root)

    def age(self, path):
        return ["age", "-d", "-i", self.identity, path]

    def open_keys(self, given):
        """Leaves the vault's own identities (data, meta, perhaps older pairs) in self.identity."""
        keys = None
        if given in ("-", "passphrase"):
            kind, how = "keys/owner-*-passphrase.age", ["age", "-d"]
        else:
            kind, how = "keys/owner-*.age", ["age", "-d", "-i", os.path.abspath(given)]
            with open(given, "rb") as f:
                keys = f.read(1 << 20)
            if b"# coffre-vs " not in keys:
                keys = None
        seen, errors = set(), []
        # Each key file has a second copy: being the way to everything else, it must not be lost.
        for path in [p for name in sorted(set(self.files(kind)) | {p[7:] for p in self.files("parity/" + kind)})
                     for p in (name, "parity/" + name)]:
            if keys or not os.path.isfile(os.path.join(self.root, path)):
                continue
            with open(os.path.join(self.root, path), "rb") as f:
                sealed = f.read()
            if sealed in seen:
                continue
            seen.add(sealed)
            say("opening " + path)
            # age asks on the terminal by itself; what it says about keys that do not fit can wait.
            age = subprocess.run(how + [path], cwd=self.root, stdout=subprocess.PIPE,
                                 stderr=None if len(how) == 2 else subprocess.PIPE)
            if age.returncode == 0 and b"# coffre-vs " in age.stdout:
                keys = age.stdout
            else:
                errors.append("%s: %s" % (path, first_line(age.stderr)))
        if not keys:
            raise Fatal("no key file of the vault was opened" + "".join("\n  " + e for e in errors),
                        "IDENTITY must open one of keys/owner-*.age; see README.txt")
        if b"vault " + self.id.hex().encode() not in keys:
            raise Fatal("these keys belong to another vault", "compare the first line of VAULT's id with theirs")
        with open(os.open(self.identity, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
            f.write(b"\n".join(re.findall(rb"^AGE-SECRET-KEY-1\w+", keys, re.M)) + b"\n")

    def read(self, path):
        """The plain content of one small object."""
        age = self.run(self.age(path))
        zstd = self.run(["zstd", "-dc"], age.stdout)
        if age.returncode or zstd.returncode:
            raise Damage("%s: %s" % (path, first_line(age.stderr if age.returncode else zstd.stderr)))
        return zstd.stdout

    def open_pack(self, name, kind=None):
        """Decrypts a pack; returns a file of its plaintext, and its table of chunks [(id, length)].

        The table comes from inside the pack, where age has proved it; index segments are only hints.
        """
        path = "packs/%s/%s.age" % (name[:2], name)
        if not os.path.isfile(os.path.join(self.root, path)):
            raise Damage(path + " is missing")
        if os.path.getsize(os.path.join(self.root, path)) > PACK_LEN_BYTES_MAX:
            raise Damage(path + " is larger than any pack")
        if self.check and self.run(["b3sum", "--no-names", path]).stdout.strip().decode() != name:
            raise Damage(path + " does not match its name")
        # In memory where Linux allows it, so that plaintext does not reach another disk than that of DEST.
        plain = open(os.memfd_create("pack"), "w+b", 0) if hasattr(os, "memfd_create") else tempfile.TemporaryFile(buffering=0)
        age = subprocess.run(self.age(path), stdin=subprocess.DEVNULL, stdout=plain, stderr=subprocess.PIPE, cwd=self.root)
        if age.returncode:
            raise Damage("%s: %s" % (path, first_line(age.stderr)))
        size = plain.seek(0, 2)
        part = lambda offset, length: os.pread(plain.fileno(), length, offset)
        head, tail = part(0, 32), part(max(size - 32, 0), 32)
        if size < 84 or head[:12] != SKIPPABLE + b"\x18\0\0\0CFP1" or head[16:] != self.id:
            raise Damage(path + " is not a pack of this vault")
        if kind not in (None, head[12]):
            raise Damage(path + " holds the other kind of chunks")
        start, length, plain_len = struct.unpack("<QIQ", tail[12:])
        table = part(start, length) if start + length <= size - 32 else b""
        if tail[:12] != SKIPPABLE + b"\x18\0\0\0CFTR" or plain_len != size or len(table) < 20 \
                or table[:12] != SKIPPABLE + struct.pack("<I", length - 8) + b"CFIX":
            raise Damage(path + " has no table of chunks")
        frames, chunks = cut_table(table[12:])
        at, n = 32, 0
        for offset, clen, rlen, count, base in frames:
            if offset != at or base or sum(size for _, size in chunks[n:n + count]) != rlen:
                raise Damage(path + " has a table that does not add up")
            at, n = at + clen, n + count
        if at != start or n != len(chunks):
            raise Damage(path + " has a table that does not add up")
        plain.seek(0)
        return plain, chunks

    def chunks(self, name, kind):
        """Yields (id, bytes) of each chunk of a pack, in order."""
        plain, table = self.open_pack(name, kind)
        zstd = subprocess.Popen(["zstd", "-dc"], stdin=plain, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1 << 20)
        with plain, zstd.stdout:
            for chunk, length in table:
                raw = zstd.stdout.read(length)
                if len(raw) != length:
                    raise Damage("pack %s holds less than its table says" % name)
                yield chunk, raw
            if zstd.stdout.read(1) or zstd.wait():
                raise Damage("pack %s holds more than its table says" % name)

    def read_segment(self, path):
        """Yields (pack name, [id of each chunk]) from an index segment, without holding it in memory."""
        age = subprocess.Popen(self.age(path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=self.root)
        zstd = subprocess.Popen(["zstd", "-dc"], stdin=age.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1 << 20)
        age.stdout.close()
        with zstd.stdout as out:
            good = out.read(5) == b"CFIX1"
            while good:
                head = out.read(48)  # digest, stored size, number of frames, number of chunks
                if len(head) < 48:
                    good = not head
                    break
                frames, chunks = struct.unpack("<II", head[40:])
                table = out.read(20 * frames + 36 * chunks)
                yield head[:32].hex(), [chunk for chunk, _ in cut_table(head[40:] + table)[1]]
        if zstd.wait() + age.wait() or not good:
            raise Damage(path + " is damaged")

    def open_places(self, scratch):
        """Notes which pack holds which chunk, in a scratch database that has room for large vaults."""
        os.environ["SQLITE_TMPDIR"] = scratch  # a nameless file; SQLite looks at this when it is loaded
        import sqlite3
        self.db = sqlite3.connect("")
        self.db.executescript("""
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;
            CREATE TABLE pack  (number INTEGER PRIMARY KEY, name TEXT);
            CREATE TABLE place (id BLOB, pack INTEGER);                  -- which pack holds a chunk
            CREATE TABLE node  (id BLOB PRIMARY KEY, raw BLOB);          -- chunks of meta packs read so far
            CREATE TABLE file  (number INTEGER PRIMARY KEY, path BLOB, links TEXT);
            CREATE TABLE piece (id BLOB, length INTEGER, file INTEGER, offset INTEGER);  -- still to be written
            CREATE TABLE link  (links TEXT, path BLOB);                  -- names of one inode
            CREATE INDEX link_by_group ON link (links);""")
        for path in self.files("index/*/*.age"):
            try:
                for name, ids in self.read_segment(path):
                    self.add_places(name, ids)
            except Damage as e:
                say("note: %s; reading the packs' own tables in its place" % e)
        self.db.execute("CREATE INDEX place_by_id ON place (id)")
        self.scanned = False

    def add_places(self, name, ids):
        if name not in self.indexed:
            self.indexed.add(name)
            number = self.db.execute("INSERT INTO pack (name) VALUES (?)", (name,)).lastrowid
            self.db.executemany("INSERT INTO place VALUES (?, ?)", ((chunk, number) for chunk in ids))

    def scan(self):
        """Reads the tables of all packs that no index segment told of; False if that was done before."""
        before, self.scanned = self.scanned, True
        for path in [] if before else self.files("packs/*/*.age"):
            name = os.path.basename(path)[:-4]
            if name not in self.indexed:
                try:
                    plain, table = self.open_pack(name)
                    plain.close()
                    self.add_places(name, [chunk for chunk, _ in table])
                except Damage as e:
                    self.bad[name] = str(e)
        return not before

    def packs_with(self, chunk):
        while True:
            for name, in self.db.execute("SELECT name FROM place JOIN pack ON pack = number WHERE id = ?", (chunk,)).fetchall():
                if name not in self.bad:
                    yield name
            if not self.scan():
                return

    def node(self, chunk):
        """The bytes of a node or of a part of a chunk list."""
        find = lambda: self.db.execute("SELECT raw FROM node WHERE id = ?", (chunk,)).fetchone()
        row = find()
        for name in () if row else self.packs_with(chunk):
            try:
                self.db.executemany("INSERT OR IGNORE INTO node VALUES (?, ?)", self.chunks(name, META))
            except Damage as e:
                self.bad[name] = str(e)
            row = find()
            if row:
                break
        if not row:
            raise Damage("its node %s is in no readable pack" % chunk.hex()[:16])
        return row[0]

    def choose(self, wanted):
        """The snapshot to restore, (sealer, seq, manifest). A snapshot counts once it is signed."""
        found = [p.split("/")[1:] for p in self.files("snaps/*/*.b3.sig")]
        found = sorted((sealer, name[:-7]) for sealer, name in found)
        if wanted:
            sealer, _, seq = wanted.strip("/").rpartition("/")
            if (sealer, seq.zfill(10)) not in found:
                raise Fatal("there is no snapshot %s" % wanted, "one of: " + ", ".join("/".join(s) for s in found[-20:]))
            return (sealer, seq.zfill(10), self.manifest(sealer, seq.zfill(10)))
        newest = []
        for sealer in {sealer for sealer, _ in found}:
            # Numbers only grow, so the highest is the sealer's newest; among sealers the time decides.
            for seq in sorted((q for s, q in found if s == sealer), reverse=True):
                try:
                    newest.append((sealer, seq, self.manifest(sealer, seq)))
                    break
                except Damage as e:
                    self.warn("%s; looking at the snapshot before" % e)
        if not newest:
            raise Fatal("no snapshot can be read", "is this the whole vault? is a signed snapshot in snaps/?")
        return max(newest, key=lambda s: s[2][5])

    def manifest(self, sealer, seq):
        path = "snaps/%s/%s.age" % (sealer, seq)
        manifest = decode(self.read(path))
        if (manifest[1], manifest[2], manifest[3]) != (self.id, sealer, int(seq)):
            raise Damage(path + " belongs to another vault, sealer or number")
        return manifest

    def check_receipt(self, sealer, seq):
        """Who says that this snapshot is genuine? With ssh-keygen and b3sum here, we can tell."""
        receipt = "snaps/%s/%s.b3" % (sealer, seq)
        lists = [p for p in self.files("signers/allowed_signers*") if re.search(r"signers(\.\d+)?$", p)]
        lists.sort(key=lambda p: int(p.rpartition(".")[2]) if "." in p else 0)
        if not shutil.which("ssh-keygen") or not shutil.which("b3sum") or not lists:
            return say("note: the signature is not checked; that takes ssh-keygen and b3sum")
        verify = self.run(["ssh-keygen", "-Y", "verify", "-f", lists[-1], "-I", sealer, "-n", "coffre-receipt-v1",
                           "-s", receipt + ".sig"], self.text(receipt).encode())
        digest = self.run(["b3sum", "snaps/%s/%s.age" % (sealer, seq)]).stdout.decode()
        if verify.returncode:
            self.warn("the signature of %s is NOT good: %s" % (receipt, first_line(verify.stderr or verify.stdout)))
        elif digest not in self.text(receipt).splitlines(True):
            self.warn("the manifest is NOT the one that %s names" % receipt)
        else:
            say("the signature of %s is good" % receipt)
        if self.check:
            for line in self.run(["b3sum", "-c", "--quiet", receipt]).stdout.decode().splitlines():
                self.warn("object named in %s: %s" % (receipt, line))


def first_line(text):
    return (text or b"").decode(errors="replace").strip().split("\n")[0] or "age or zstd failed"


def cut_table(body):
    """The table of a pack after the letters CFIX: [(offset, clen, rlen, chunks, base)], [(id, rlen)]."""
    frames, chunks = struct.unpack_from("<II", body)
    if len(body) != 8 + 20 * frames + 36 * chunks:
        raise Damage("a table of chunks has the wrong length")
    middle = 8 + 20 * frames
    return list(struct.iter_unpack("<5I", body[8:middle])), list(struct.iter_unpack("<32sI", body[middle:]))


# ---- The copy: first names and sizes, then contents pack by pack, then metadata from the leaves up ----

class Copy:
    def __init__(self, vault, dest, keep_damaged):
        self.vault, self.db, self.keep_damaged = vault, vault.db, keep_damaged
        self.dest = os.open(dest, os.O_RDONLY | os.O_DIRECTORY)
        self.lost, self.missed = {}, collections.Counter()
        self.parent_path, self.parent_fd, self.open_files = b"", os.dup(self.dest), collections.OrderedDict()
        self.entries_made = 0

    def lose(self, path, why):
        if isinstance(why, OSError) and why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE):
            raise Fatal("cannot write %s: %s" % (show(path), why.strerror), "DEST is incomplete; start again with an empty one")
        self.lost.setdefault(path, why.strerror if isinstance(why, OSError) else str(why))

    def entries(self, node, path, level=0):
        """Yields the entries of a directory; large ones are spread over sub-nodes."""
        try:
            fields = decode(self.vault.node(node))
            if level > 8 or (1 in fields) == (2 in fields):
                raise Damage("its node is neither entries nor sub-nodes")
            for entry in fields.get(1, ()):
                known(entry)
                name = entry[NAME]
                if not isinstance(name, bytes) or name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
                    raise Damage("it holds a forbidden name")
                entry[MODE], entry[UID], entry[GID], entry[MTIME]
        except (Damage, LookupError, TypeError, ValueError) as e:
            return self.lose(path + b"/", e)
        for _, part in fields.get(2, ()):
            yield from self.entries(part, path, level + 1)
        yield from fields.get(1, ())

    def walk(self, root, parents_first):
        """Yields (path, entry) of all entries, each with the working directory set to where it belongs.

        Only names relative to the working directory are used, so that no path is too long; `..` leads
        back up, so that one open directory is enough at any depth.
        """
        os.fchdir(self.dest)
        stack = [(b"", None, self.entries(root, b""))]
        last = [b""]
        while stack:
            path, directory, rest = stack[-1]
            entry = next(rest, None)
            if entry is None:
                stack.pop(), last.pop()
                if stack:
                    os.chdir(b"..")
                    if not parents_first:
                        yield path, directory
                continue
            here = path + b"/" + entry[NAME] if path else entry[NAME]
            if entry[NAME] <= last[-1]:
                self.lose(here, "it is twice or out of order in its directory")
                continue
            last[-1] = entry[NAME]
            if not stat.S_ISDIR(entry[MODE]):
                yield here, entry
                continue
            if parents_first:
                yield here, entry
            try:
                if len(stack) > DIR_DEPTH_MAX:
                    raise Damage("directories are nested too deep")
                fd = os.open(entry[NAME], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except (OSError, Damage) as e:
                self.lose(here + b"/", e)
                continue
            os.fchdir(fd)
            os.close(fd)
            stack.append((here, entry, self.entries(entry.get(NODE), here)))
            last.append(b"")

    def make(self, path, entry):
        """Makes one entry in the working directory: empty, private, and of the right size."""
        name, kind = entry[NAME], stat.S_IFMT(entry[MODE])
        links = str(entry[LINK][0]) if LINK in entry and kind != stat.S_IFDIR else None
        first = links and self.db.execute("SELECT path FROM link WHERE links = ? LIMIT 1", (links,)).fetchone()
        if first:
            os.link(os.path.basename(first[0]), name, src_dir_fd=self.parent(first[0]), follow_symlinks=False)
        elif kind == stat.S_IFDIR:
            os.mkdir(name, 0o700)
        elif kind == stat.S_IFREG:
            self.make_file(path, entry, links)
        elif kind == stat.S_IFLNK:
            os.symlink(entry[TARGET], name)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and os.geteuid() != 0:
            self.missed["devices not made, which takes root"] += 1
            return
        elif kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK):
            number = entry.get(DEVICE, 0)
            os.mknod(name, kind | 0o600, os.makedev(number >> 32, number & 0xFFFFFFFF))
        else:
            raise Damage("it is of a kind that does not exist")
        if links:
            self.db.execute("INSERT INTO link VALUES (?, ?)", (links, path))
        self.entries_made += 1

    def make_file(self, path, entry, links):
        fd = os.open(entry[NAME], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        number = self.db.execute("INSERT INTO file (path, links) VALUES (?, ?)", (path, links)).lastrowid
        try:
            os.ftruncate(fd, entry[SIZE])  # what no piece covers stays a hole
            if INLINE in entry:
                write_at(fd, entry[INLINE], 0)
            self.db.executemany("INSERT INTO piece VALUES (?, ?, %d, ?)" % number, self.pieces(entry))
        except BaseException:
            os.unlink(entry[NAME])
            self.db.execute("DELETE FROM piece WHERE file = ?", (number,))
            raise
        finally:
            os.close(fd)

    def pieces(self, entry):
        """Yields (id, length, offset) of each chunk of a file, and checks that all adds up to its size."""
        lists = (self.vault.node(chunk) for _, chunk in entry[CHUNK_LISTS]) if CHUNK_LISTS in entry else [entry.get(CHUNKS, b"")]
        holes = iter(entry.get(HOLES, ()))
        hole, at = next(holes, None), len(entry.get(INLINE, b""))
        for chunk_list in lists:
            for chunk, length in struct.iter_unpack("<32sI", chunk_list):
                if hole and hole[0] == at:
                    hole, at = next(holes, None), at + hole[1]
                yield chunk, length, at
                at += length
        if hole and hole[0] == at:
            hole, at = next(holes, None), at + hole[1]
        if hole or at != entry[SIZE]:
            raise Damage("its chunks and holes do not add up to its size")

    def fill(self):
        """Writes contents: decrypts each needed pack once, and puts its chunks wherever they belong."""
        packs = self.db.execute("SELECT DISTINCT name FROM piece JOIN place USING (id) JOIN pack ON pack = number").fetchall()
        for n, (name,) in enumerate(packs):
            if name in self.vault.bad:
                continue
            if sys.stderr.isatty():
                print("\rRESTORE: pack %d of %d" % (n + 1, len(packs)), end="\n" if n + 1 == len(packs) else "", file=sys.stderr, flush=True)
            try:
                for chunk, raw in self.vault.chunks(name, DATA):
                    which, used = (chunk, len(raw)), False
                    for number, offset in self.db.execute("SELECT file, offset FROM piece WHERE id = ? AND length = ?", which):
                        write_at(self.file(number), raw, offset)
                        used = True
                    if used:
                        self.db.execute("DELETE FROM piece WHERE id = ? AND length = ?", which)
            except Damage as e:
                self.vault.bad[name] = str(e)
            except OSError as e:
                raise Fatal("cannot write: %s" % e, "DEST is incomplete; start again with an empty one")
        return self.db.execute("SELECT 1 FROM piece LIMIT 1").fetchone() is None

    def drop_incomplete(self):
        for number, path, links in self.db.execute("SELECT DISTINCT number, path, links FROM piece JOIN file ON file = number").fetchall():
            names = self.db.execute("SELECT path FROM link WHERE links = ?", (links,)).fetchall() if links else [(path,)]
            for name, in names:
                self.lose(name, "a part of it is in no readable pack")
                if not self.keep_damaged:
                    os.unlink(os.path.basename(name), dir_fd=self.parent(name))

    def parent(self, path):
        """An open directory: the one that holds `path`, reached name by name."""
        above = os.path.dirname(path)
        if above != self.parent_path:
            fd = os.dup(self.dest)
            for name in above.split(b"/") if above else ():
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            os.close(self.parent_fd)
            self.parent_path, self.parent_fd = above, fd
        return self.parent_fd

    def file(self, number):
        fd = self.open_files.pop(number, None)
        if fd is None:
            path, = self.db.execute("SELECT path FROM file WHERE number = ?", (number,)).fetchone()
            fd = os.open(os.path.basename(path), os.O_WRONLY | os.O_NOFOLLOW, dir_fd=self.parent(path))
            if len(self.open_files) >= OPEN_FILES_MAX:
                os.close(self.open_files.popitem(last=False)[1])
        self.open_files[number] = fd
        return fd

    def set_metadata(self, path, entry):
        name, mode, owner = entry[NAME], stat.S_IMODE(entry[MODE]), (entry[UID], entry[GID])
        try:
            now = os.lstat(name)
        except FileNotFoundError:
            return  # could not be made, and is in a list already
        if stat.S_IFMT(now.st_mode) != stat.S_IFMT(entry[MODE]):
            return self.lose(path, "something else took its place")
        xattrs = entry.get(XATTRS, ())
        # Owners come first, since chown clears the setuid bit and file capabilities. ACLs come after the mode,
        # since chmod changes their mask. Times come last.
        if os.geteuid() == 0:
            self.attempt("owners", path, os.chown, name, *owner, follow_symlinks=False)
        elif owner != (now.st_uid, now.st_gid):
            self.missed["owners not set, which takes root"] += 1
            mode &= 0o1777  # setuid for another owner would be a gift to a stranger
        for key, value in xattrs:
            if not key.startswith(ACL):
                self.attempt("extended attributes", path, os.setxattr, name, key, value, follow_symlinks=False)
        if not stat.S_ISLNK(now.st_mode):
            self.attempt("modes", path, os.chmod, name, mode)
        for key, value in xattrs:
            if key.startswith(ACL):
                self.attempt("ACLs", path, os.setxattr, name, key, value, follow_symlinks=False)
        self.attempt("times", path, os.utime, name, ns=(entry[MTIME], entry[MTIME]), follow_symlinks=False)

    def attempt(self, what, path, call, *args, **options):
        try:
            call(*args, **options)
        except (OSError, ValueError, TypeError) as e:
            if not self.missed[what + " not set"]:
                say("note: %s of %s: %s" % (what, show(path), e))
            self.missed[what + " not set"] += 1
        except OverflowError:
            self.missed[what + " out of range here"] += 1

    def restore(self, root):
        for path, entry in self.walk(root, parents_first=True):
            try:
                self.make(path, entry)
            except (OSError, Damage, LookupError, TypeError, ValueError, OverflowError, struct.error) as e:
                self.lose(path, e)
        self.db.executescript("CREATE INDEX piece_by_id ON piece (id)")
        if not self.fill():
            # A pack may be unreadable, or the index may not tell of it: look into all the others too.
            self.vault.scan() and self.fill()
            self.drop_incomplete()
        for fd in self.open_files.values():
            os.close(fd)
        for path, entry in self.walk(root, parents_first=False):
            self.set_metadata(path, entry)
        os.chdir(b"/")


def write_at(fd, data, offset):
    data = memoryview(data)
    while data:
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep-damaged", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("identity", metavar="IDENTITY")
    parser.add_argument("dest", metavar="DEST")
    parser.add_argument("snapshot", metavar="SNAPSHOT", nargs="?")
    parser.error = lambda text: sys.exit("RESTORE: error: %s\nRESTORE: hint: python3 RESTORE.py IDENTITY DEST [SNAPSHOT]" % text)
    options = parser.parse_args()
    for tool in ["age", "zstd"] + ["b3sum"] * options.check:
        if not shutil.which(tool):
            raise Fatal("the program `%s` is not installed" % tool, "on Debian: apt install age zstd b3sum")
    root, dest = os.path.dirname(os.path.realpath(__file__)), os.path.realpath(options.dest)
    if not os.path.isfile(os.path.join(root, "VAULT")):
        raise Fatal("%s is not a vault: there is no VAULT" % root, "this script must lie in the vault, or in a whole copy of it")
    if os.path.commonpath([root, dest]) == root:
        raise Fatal("DEST lies in the vault", "choose a directory outside of it")
    if os.path.lexists(dest) and (not os.path.isdir(dest) or os.listdir(dest)):
        raise Fatal("%s is not an empty directory" % dest, "choose a new one; nothing is ever overwritten")
    os.umask(0o077)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the keys below are removed
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="coffre-restore-", dir=in_memory) as private:
        vault = Vault(root, private, options.check)
        vault.open_keys(options.identity)
        sealer, seq, manifest = vault.choose(options.snapshot)
        say("snapshot %s/%s of %s UTC" % (sealer, seq, time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest[5] // 10**9))))
        vault.check_receipt(sealer, seq)
        os.makedirs(dest, 0o700, exist_ok=True)
        try:
            os.removexattr(dest, "system.posix_acl_default")  # restored entries must not inherit it
        except OSError:
            pass
        vault.open_places(dest)
        copy = Copy(vault, dest, options.keep_damaged)
        copy.restore(manifest[7])
    for path, why in sorted(copy.lost.items()):
        say("lost: %s: %s" % (show(path), why))
    for why in sorted(set(vault.bad.values())) if copy.lost else ():
        say("because: " + why)
    for what, count in sorted(copy.missed.items()):
        say("note: %d %s" % (count, what))
    for kind, path, text in manifest.get(14, ()):
        say("note: when this snapshot was made, %s: %s" % (show(path), text))
    say("restored %d entries into %s%s" % (copy.entries_made, show(os.fsencode(dest)), ", BUT NOT ALL: see above" if copy.lost else ""))
    # What an ordinary user may not set is no damage; what root could not set is.
    return 4 if copy.lost or vault.trouble or (copy.missed and os.geteuid() == 0) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Fatal, Damage, OSError) as failure:
        say("error: " + str(failure.args[0] if isinstance(failure, Fatal) else failure))
        say("hint: " + (failure.args[1] if isinstance(failure, Fatal) and failure.args[1:] else "see README.txt next to this script"))
        sys.exit(1)
    except KeyboardInterrupt:
        say("error: stopped; DEST is incomplete")
        sys.exit(130)

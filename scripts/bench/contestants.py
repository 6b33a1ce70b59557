"""Coffre and restic as a benchmark sees them: a vault made anew, a seal, a mount.

Owns how each is called and its mount undone. What is done with them is in cold, warm and scale.
"""

import os
import signal
import subprocess
import time

from harness import fail, peak_memory, say, stored_bytes

MOUNT_WAIT_SECS_MAX = 300


def serving(binary, mountpoint):
    """Returns the ids of the processes of `binary` that were started for `mountpoint`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            same = os.path.samefile(f"/proc/{pid}/exe", binary)
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if same and os.fsencode(mountpoint) in words:
            found.append(int(pid))
    return found


def is_mounted(mountpoint):
    with open("/proc/self/mounts", "rb") as f:
        return any(os.fsencode(mountpoint) == line.split()[1] for line in f)


class Contestant:
    """What coffre and restic have in common: a vault made anew in each run, and a mount."""

    def __init__(self, bench, binary, purpose):
        self.bench = bench
        self.binary = binary
        self.top = bench.path(f"{self.name}-{purpose}")
        self.vault = os.path.join(self.top, "vault")
        self.mountpoint = os.path.join(self.top, "mnt")
        os.makedirs(self.mountpoint)
        self.peaks = []
        self.answers = []

    def stored(self):
        """Bytes in the vault, as its files are long."""
        return stored_bytes(self.vault)

    def copied_from(self):
        return os.path.join(self.mountpoint, *self.newest, self.bench.tree.lstrip("/"))

    def mount(self):
        self.bench.cold()
        self.bench.mounts.append(self.unmount)
        started = time.perf_counter()
        self.serve()
        newest = os.path.join(self.mountpoint, *self.newest)
        while not os.path.isdir(newest) or not os.listdir(newest):
            if time.perf_counter() - started > MOUNT_WAIT_SECS_MAX:
                self.bench.show_log()
                fail(f"{self.name}'s mount did not answer in {MOUNT_WAIT_SECS_MAX} s")
            time.sleep(0.002)
        self.answers.append(time.perf_counter() - started)

    def unmount(self):
        """Asks, then insists; safe to call again."""
        self.peaks += [peak_memory(pid) for pid in serving(self.binary, self.mountpoint)]
        if is_mounted(self.mountpoint):
            self.release()
        if is_mounted(self.mountpoint):
            say(f"bench: {self.name}'s mount did not go, and is detached")
            subprocess.run(["fusermount3", "-u", "-z", self.mountpoint], check=False)
        deadline = time.monotonic() + 20
        while serving(self.binary, self.mountpoint) and time.monotonic() < deadline:
            self.bench.running = [p for p in self.bench.running if p.poll() is None]
            time.sleep(0.02)
        if self.unmount in self.bench.mounts:
            self.bench.mounts.remove(self.unmount)


class Coffre(Contestant):
    name = "coffre"
    newest = ["latest"]

    def create(self):
        self.env = {"COFFRE_STATE_DIR": os.path.join(self.top, "state")}
        self.identity, recipient = age_key(self.top)
        self.call("init", "--recipient", recipient)

    def call(self, *words, allowed=(0,)):
        return self.bench.timed(self.command(*words), self.env, allowed)

    def command(self, *words):
        return [self.binary, "--vault", self.vault, "--identity", self.identity, *words]

    def seal(self, tree, *options):
        # 3: some files could not be read, as an ordinary user must expect.
        return self.call("seal", *options, tree, allowed=(0, 3))

    def restore(self, tree, destination):
        self.bench.cold()
        return self.call("restore", f"latest:{tree}", "--to", destination, allowed=(0, 3))

    def can(self, option):
        """Whether seal has this option."""
        shown = subprocess.run([self.binary, "seal", "--help"], capture_output=True, text=True, check=False)
        return option in shown.stdout

    def serve(self):
        self.call("mount", self.mountpoint, "--daemon")

    def release(self):
        subprocess.run([self.binary, "unmount", self.mountpoint], check=False, stdout=self.bench.log, stderr=self.bench.log)


class Restic(Contestant):
    name = "restic"
    newest = ["snapshots", "latest"]

    def create(self):
        password = os.path.join(self.top, "password")
        with open(password, "w") as f:
            f.write("correct horse battery staple\n")
        self.env = {
            "RESTIC_REPOSITORY": self.vault,
            "RESTIC_PASSWORD_FILE": password,
            "RESTIC_CACHE_DIR": os.path.join(self.top, "cache"),
        }
        self.call("init")

    def call(self, *words, allowed=(0,)):
        return self.bench.timed(self.command(*words), self.env, allowed)

    def command(self, *words):
        return [self.binary, *words]

    def seal(self, tree):
        return self.call("backup", "--quiet", tree, allowed=(0, 3))

    def restore(self, _, destination):
        self.bench.cold()
        return self.call("restore", "latest", "--target", destination)

    def serve(self):
        self.bench.servers.append(self.bench.start([self.binary, "mount", self.mountpoint], self.env))

    def release(self):
        for pid in serving(self.binary, self.mountpoint):
            os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 20
        while is_mounted(self.mountpoint) and time.monotonic() < deadline:
            time.sleep(0.02)


KINDS = (Coffre, Restic)


def contestants(bench, binaries, purpose):
    return [kind(bench, binaries[kind.name], purpose) for kind in KINDS if kind.name in binaries]


def age_key(top):
    path = os.path.join(top, "owner.key")
    subprocess.run(["age-keygen", "-o", path], check=True, stderr=subprocess.DEVNULL)
    return path, subprocess.run(["age-keygen", "-y", path], check=True, capture_output=True, text=True).stdout.strip()

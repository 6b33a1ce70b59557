"""The working directory of a benchmark, its processes and mounts, and how a command is timed.

Knows nothing of what is measured.
"""

import collections
import os
import resource
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# How often a process is asked for its peak memory while it runs.
POLL_SECS = 0.02
# CPUs that others may use during a step before it counts as disturbed; writing back takes some.
OTHERS_CPUS_MAX = 0.3

# Of one command: wall time, user + system time of it and its children, peak memory in bytes.
Spent = collections.namedtuple("Spent", "secs cpu peak")


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"bench: error: {text}")


class Bench:
    """The working directory, and all that must not outlive it: processes and mounts."""

    def __init__(self, work, tree):
        self.work = work
        self.tree = tree
        self.running = []
        self.servers = []
        self.mounts = []
        self.steps = self.disturbed = 0
        self.log = open(os.path.join(work, "log"), "wb")
        self.caches_drop = os.access("/proc/sys/vm/drop_caches", os.W_OK)

    def path(self, *parts):
        return os.path.join(self.work, *parts)

    def cold(self):
        os.sync()
        if self.caches_drop:
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("3\n")
            return
        for top in (self.tree, self.work):
            for folder, folders, names in os.walk(top):
                folders[:] = [n for n in folders if not os.path.ismount(os.path.join(folder, n))]
                for name in names:
                    evict(os.path.join(folder, name))

    def warm(self, tree):
        """Reads a tree, names and contents, and lets the disk finish: what is timed next finds it in memory."""
        # Through a pipe: tar reads nothing of what it is to write to /dev/null.
        subprocess.run(["bash", "-c", 'tar -C "$1" -cf - . | cat >/dev/null', "warm", tree], stderr=self.log, check=False)
        os.sync()

    def start(self, command, env=None, **more):
        """Starts a process that writes to the log: a daemon must not hold a pipe of ours open."""
        # Its own session, so that ^C reaches this script alone, and mounts are undone in order.
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, start_new_session=True, **more,
        )
        self.running.append(process)
        return process

    def timed(self, command, env=None, allowed=(0,), **more):
        """Returns what a command Spent that runs to its end."""
        busy = busy_secs()
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        started = time.perf_counter()
        process = self.start(command, env, **more)
        peak = [0]
        done = threading.Event()

        def poll():
            while not done.wait(POLL_SECS):
                peak[0] = max(peak[0], peak_memory(process.pid))

        watcher = threading.Thread(target=poll)
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            secs = time.perf_counter() - started
            done.set()
            watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        self.running.remove(process)
        if process.returncode not in allowed:
            self.show_log()
            fail(f"exit code {process.returncode} from: {' '.join(map(os.fsdecode, command))}")
        cpu = usage.ru_utime + usage.ru_stime
        self.watch_others(busy_secs() - busy - cpu, secs)
        # A process counts the memory of the one it was forked from as its own peak; only above
        # that is the kernel's exact figure known to be its own.
        exact = usage.ru_maxrss * 1024
        return Spent(secs, cpu, exact if exact > ours else peak[0])

    def watch_others(self, others_secs, secs):
        self.steps += 1
        if others_secs / secs > OTHERS_CPUS_MAX and others_secs > 0.1:
            self.disturbed += 1
            say(f"  disturbed: others used {others_secs:.1f} s of CPU in {secs:.1f} s, and the next figure is too high")

    def free_or_fail(self, nbytes, purpose):
        """Ends the benchmark unless the working directory's disk has room, and a little more."""
        disk = os.statvfs(self.work)
        free = disk.f_bavail * disk.f_frsize
        if free < nbytes * 1.05:
            fail(f"{purpose} takes {nbytes / 1e9:.1f} GB below {self.work}, and {free / 1e9:.1f} GB are free")

    def end(self, processes):
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def show_log(self):
        with open(self.log.name, "rb") as f:
            for line in f.read().splitlines()[-15:]:
                say("    " + line.decode(errors="replace"))

    def remove(self, path):
        # Copies keep the modes of the tree, and a directory without w cannot be emptied.
        if os.getuid() != 0:
            subprocess.run(["chmod", "-R", "u+rwX", path], stderr=subprocess.DEVNULL, check=False)
        # Should a mount still be there, what is below it is not ours to remove.
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=False)

    def discard(self, path):
        """Puts a copy aside until the end: ext4 creates files several times slower for minutes after many were deleted, as it
        does not use their inodes again so soon (fs/ext4/ialloc.c, recently_deleted), which would favour whoever comes first."""
        self.discarded = getattr(self, "discarded", 0) + 1
        os.rename(path, self.path(f"done-{self.discarded}"))

    def clean_up(self):
        # First what uses a mount, which would be busy otherwise; then the mounts; then what served them.
        self.end([p for p in self.running if p not in self.servers])
        for unmount in reversed(self.mounts):
            unmount()
        self.end(self.running)
        self.log.close()
        self.remove(self.work)


def evict(path):
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        pass
    os.close(fd)


def busy_secs():
    """CPU time of the whole machine since it started."""
    with open("/proc/stat") as f:
        user, nice, system, _idle, _wait, irq, softirq = map(int, f.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return next((int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


def stored_bytes(top):
    return sum(os.lstat(os.path.join(folder, n)).st_size for folder, _, names in os.walk(top) for n in names)

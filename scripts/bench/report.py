"""What bench/run measures, the figures it took, and how they are shown.

Takes no measurement itself.
"""

import os
import platform
import stat
import statistics
import subprocess
import sys

# name for --only -> rows: key, title, unit, and what the third column holds.
MEASURES = {
    "first": [("first", "first seal", "s", "tar | zstd -3 | age")],
    "again": [("again", "seal again, unchanged", "s", None)],
    "size": [("size", "size of the vault", "MB", "tar | zstd -3 | age")],
    "mount": [("mount", "until the mount answers", "s", None)],
    "find": [("find", "find -printf %s, whole tree", "s", "find on the disk")],
    "cp-r": [("cp-r", "cp -r of the whole tree", "s", "cp -r on the disk")],
    "cp-a": [("cp-a", "cp -a of the whole tree", "s", "cp -a on the disk")],
    # What restic's users do instead of cp; coffre's side is the cp -a above, once more.
    "restore": [("restore", "coffre cp -a, restic restore", "s", None)],
    "rss": [
        ("rss-seal", "peak memory of first seal", "MB", None),
        ("rss-mount", "peak memory of the mount", "MB", None),
    ],
}


class Results:
    def __init__(self, runs):
        self.runs = [{} for _ in range(runs)]

    def recorder(self, index):
        def record(row, who, value):
            self.runs[index][row, who] = value
            unit = next(r[2] for rows in MEASURES.values() for r in rows if r[0] == row)
            print(f"  run {index + 1}: {row:10} {who:7} {shown(value, unit)}", file=sys.stderr, flush=True)

        return record

    def values(self, row, who):
        return [run[row, who] for run in self.runs if (row, who) in run]

    def median(self, row, who):
        values = self.values(row, who)
        return statistics.median(values) if values else None

    def ratio(self, row, one, other):
        ratios = [
            run[row, one] / run[row, other] for run in self.runs if (row, one) in run and run.get((row, other))
        ]
        return statistics.median(ratios) if ratios else None

    def table(self, only, out):
        line = "{:28} {:>12} {:>12} {:>12} {:>14} {:>13}   {}".format
        print(line("", "coffre", "restic", "plain", "coffre/restic", "coffre/plain", "plain is"), file=out)
        for row, title, unit, plain in chosen(only):
            figures = [shown(self.median(row, who), unit) for who in ("coffre", "restic", "plain")]
            ratios = [self.ratio(row, "coffre", other) for other in ("restic", "plain")]
            ratios = ["-" if r is None else f"{r:.3f}" for r in ratios]
            print(line(title, *figures, *ratios, plain or "").rstrip(), file=out)

    def as_json(self, only):
        rows = []
        for row, title, unit, plain in chosen(only):
            entry = {"name": row, "title": title, "unit": "bytes" if unit == "MB" else unit, "plain_is": plain}
            for who in ("coffre", "restic", "plain"):
                if self.values(row, who):
                    entry[who] = {"median": self.median(row, who), "runs": self.values(row, who)}
            for other in ("restic", "plain"):
                entry[f"coffre_to_{other}"] = self.ratio(row, "coffre", other)
            rows.append(entry)
        return rows


def chosen(only):
    return [row for name, rows in MEASURES.items() if name in only for row in rows]


def shown(value, unit):
    if value is None:
        return "-"
    return f"{value / 1e6:.1f} MB" if unit == "MB" else f"{value:.3f} s"


def first_line(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\n")[0]
    except OSError:
        return ""


def machine(work):
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "filesystem": first_line("findmnt", "-n", "-o", "FSTYPE", "-T", work),
    }


def tree_facts(tree):
    entries = nbytes = 0
    seen = set()
    for folder, folders, names in os.walk(tree):
        for name in folders + names:
            entries += 1
            st = os.lstat(os.path.join(folder, name))
            if stat.S_ISREG(st.st_mode) and (st.st_nlink == 1 or st.st_ino not in seen):
                seen.add(st.st_ino)
                nbytes += st.st_size
    return {"entries": entries, "bytes": nbytes}

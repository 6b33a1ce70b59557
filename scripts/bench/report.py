"""What bench/run measures, the figures it took, and how they are shown.

Takes no measurement itself.
"""

import collections
import os
import platform
import stat
import statistics
import subprocess
import sys

# A key, a title, a unit, what the third column holds, and the bars: what coffre must keep to.
Row = collections.namedtuple("Row", "key title unit plain bars", defaults=(None, ()))
# `of` is "restic" or "plain" for a ratio, "most" or "least" for the figure itself.
Bar = collections.namedtuple("Bar", "of limit")

TAR_3, TAR_1 = "tar | zstd -3 | age", "tar | zstd -1 | age"
FIND = "find -printf '%s %T@'"
SEVEN = "7z a -mx=9"


def day_rows(day):
    return [
        Row(f"day-{day}", f"day {day}", "s"),
        Row(f"day-{day}-added", f"day {day}, added to the vault", "MB", None, [Bar("restic", 0.95)]),
    ]


# name for --only -> rows. The cold ones first, then the warm ones of seal.
MEASURES = {
    "first": [Row("first", "first seal", "s", TAR_3)],
    "again": [Row("again", "seal again, unchanged", "s")],
    "size": [Row("size", "size of the vault", "MB", TAR_3)],
    "mount": [Row("mount", "until the mount answers", "s")],
    "find": [Row("find", "find -printf %s, whole tree", "s", "find on the disk")],
    "cp-r": [Row("cp-r", "cp -r of the whole tree", "s", "cp -r on the disk")],
    "cp-a": [Row("cp-a", "cp -a of the whole tree", "s", "cp -a on the disk")],
    "restore": [
        Row("restore", "restore, cold", "s", "cp -a on the disk", [Bar("restic", 0.5)]),
        Row("restore-cpu", "  user + system", "s", "cp -a on the disk", [Bar("restic", 0.5)]),
        Row("restore-rss", "  peak memory", "MiB"),
    ],
    "rss": [Row("rss-seal", "peak memory of first seal", "MB"), Row("rss-mount", "peak memory of the mount", "MB")],
    "seal": [
        Row("warm-first", "warm first seal", "s", None, [Bar("restic", 1 / 3.5)]),
        Row("warm-cpu", "  user + system", "s"),
        Row("warm-size", "  size of the vault", "MB", None, [Bar("restic", 0.94)]),
        Row("warm-rss", "  peak memory", "MiB", None, [Bar("most", 160 << 20)]),
    ],
    "unchanged": [
        Row("unchanged", "warm seal, unchanged", "s", FIND, [Bar("plain", 1.0), Bar("restic", 1.0)]),
        Row("unchanged-cpu", "  user + system", "s", FIND),
        Row("unchanged-bytes", "  added to the vault", "KiB", None, [Bar("most", 64 << 10)]),
    ],
    "days": day_rows(2) + day_rows(3) + day_rows(4),
    "killed": [
        Row("killed-full", "a full first seal", "s"),
        Row("killed-next", "  the one after a kill at 90 %", "s"),
        Row("killed", "  its share of a full seal", "", None, [Bar("most", 0.25)]),
        Row("killed-held", "  in the vault when killed", ""),
    ],
    "many": [
        Row("many-first", "first seal of many files", "s"),
        Row("many-rss", "  peak memory", "MiB", None, [Bar("most", 400 << 20)]),
        Row("many-size", "  size of the vault", "MB"),
        Row("many-again", "  unchanged, entries/s", "/s", FIND, [Bar("least", 250_000)]),
        Row("many-again-rss", "  unchanged, peak memory", "MiB"),
        Row("many-again-bytes", "  unchanged, added", "KiB"),
    ],
    "large": [Row("large-rss", "peak memory, vault of many files", "MiB", None, [Bar("most", 160 << 20)])],
    "incompressible": [
        # At least 80 % of the speed.
        Row("blobs", "seal of incompressible data", "s", TAR_1, [Bar("plain", 1 / 0.8)]),
        Row("blobs-cpu", "  user + system", "s", TAR_1),
        Row("blobs-rss", "  peak memory", "MiB", "a quarter of it", [Bar("most", 160 << 20), Bar("plain", 1.15)]),
    ],
    "archive": [
        Row("archive", "seal --profile archive", "s", SEVEN, [Bar("plain", 0.5)]),
        Row("archive-cpu", "  user + system", "s", SEVEN),
        Row("archive-size", "  size", "MB", SEVEN, [Bar("plain", 1.15)]),
        Row("archive-rss", "  peak memory", "MiB", SEVEN),
    ],
}
ROWS = {row.key: row for rows in MEASURES.values() for row in rows}
WHO = ("coffre", "restic", "plain")


class Results:
    """What was measured: for each run, row and program the values in the order they were taken."""

    def __init__(self, runs):
        self.runs = [{} for _ in range(runs)]

    def recorder(self, index):
        def record(key, who, value):
            self.runs[index].setdefault((key, who), []).append(value)
            print(f"  run {index + 1}: {key:16} {who:7} {shown(value, ROWS[key].unit)}", file=sys.stderr, flush=True)

        return record

    def values(self, key, who):
        return [value for run in self.runs for value in run.get((key, who), ())]

    def median(self, key, who):
        values = self.values(key, who)
        return statistics.median(values) if values else None

    def ratio(self, key, other):
        """The median of the ratios of what was measured in turns, coffre's by the other's."""
        ratios = [
            ours / theirs
            for run in self.runs
            for ours, theirs in zip(run.get((key, "coffre"), ()), run.get((key, other), ()))
            if theirs
        ]
        return statistics.median(ratios) if ratios else None

    def kept(self, key, bar):
        """Whether coffre keeps to a bar; None where it was not measured."""
        value = self.median(key, "coffre") if bar.of in ("most", "least") else self.ratio(key, bar.of)
        if value is None:
            return None
        return value >= bar.limit if bar.of == "least" else value <= bar.limit

    def table(self, only, out):
        line = "{:34} {:>11} {:>11} {:>11} {:>13} {:>12}   {:24} {}".format
        print(line("", *WHO, "coffre/restic", "coffre/plain", "bar", "plain is"), file=out)
        for row in chosen(only):
            if not any(self.values(row.key, who) for who in WHO):
                continue
            figures = [shown(self.median(row.key, who), row.unit) for who in WHO]
            ratios = [self.ratio(row.key, other) for other in ("restic", "plain")]
            ratios = ["-" if r is None else f"{r:.3f}" for r in ratios]
            bars = [(bar, self.kept(row.key, bar)) for bar in row.bars]
            bars = ", ".join(f"{wanted(bar, row.unit)} {'met' if kept else 'MISSED'}" for bar, kept in bars if kept is not None)
            print(line(row.title, *figures, *ratios, bars, row.plain or "").rstrip(), file=out)

    def as_json(self, only):
        rows = []
        for row in chosen(only):
            unit = "bytes" if row.unit in BYTES else row.unit
            entry = {"name": row.key, "title": row.title.strip(), "unit": unit, "plain_is": row.plain}
            for who in WHO:
                if self.values(row.key, who):
                    entry[who] = {"median": self.median(row.key, who), "runs": self.values(row.key, who)}
            for other in ("restic", "plain"):
                entry[f"coffre_to_{other}"] = self.ratio(row.key, other)
            entry["bars"] = [{**bar._asdict(), "kept": self.kept(row.key, bar)} for bar in row.bars]
            rows.append(entry)
        return rows


BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "MB": 1_000_000}


def chosen(only):
    return [row for name, rows in MEASURES.items() if name in only for row in rows]


def shown(value, unit):
    if value is None:
        return "-"
    if unit in BYTES:
        return f"{value / BYTES[unit]:.1f} {unit}"
    return f"{value:,.0f}/s" if unit == "/s" else f"{value:.3f} {unit}".rstrip()


def wanted(bar, unit):
    if bar.of in ("restic", "plain"):
        return f"{bar.limit:.3g} of {bar.of}"
    limit = f"{bar.limit // BYTES[unit]} {unit}" if unit in BYTES else f"{bar.limit:,}{unit}"
    return f"{limit} or {'more' if bar.of == 'least' else 'less'}"


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

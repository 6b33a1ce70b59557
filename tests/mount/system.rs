//! The mount as part of a system: mount(8), fstab, systemd, options, file handles.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{fs::symlink, net::UnixDatagram},
    path::Path,
    time::Duration,
};

use crate::common::{
    bin::{Coffre, Home, Mounted, run_tool, shell, tool},
    tree,
};

/// How the kernel says that `point` is mounted.
fn options_of(point: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line =
        mounts.lines().find(|line| line.split(' ').nth(1) == point.to_str()).unwrap_or_else(|| panic!("{} is mounted", point.display()));
    line.split(' ').nth(3).unwrap().split(',').map(str::to_owned).collect()
}

fn has(options: &[String], wanted: &str) -> bool {
    options.iter().any(|option| option == wanted)
}

#[test]
fn options_of_mount_are_taken_and_unknown_ones_refused() {
    let home = tree::sealed_small();
    {
        let mounted = Mounted::start(&home, &["-o", "ro,noexec,relatime,max_read=65536,owner=7:8,x-systemd.automount"]);
        let options = options_of(&home.mnt());
        for wanted in ["ro", "noexec", "nosuid", "nodev", "max_read=65536"] {
            assert!(has(&options, wanted), "{wanted} in {options:?}");
        }
        let meta = fs::metadata(mounted.latest(&home.source()).join("hello")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta.uid(), meta.gid()), (7, 8));
    }
    {
        let _mounted = Mounted::start(&home, &["-o", "rw,suid,dev,exec"]);
        let options = options_of(&home.mnt());
        assert!(has(&options, "ro"), "whatever was asked for: {options:?}");
        assert!(!["noexec", "nosuid", "nodev"].iter().any(|no| has(&options, no)), "{options:?}");
    }
    home.owner(["mount", "-o", "ro,nonsense"]).args([home.mnt()]).refused(2).says("nonsense");
    home.owner(["mount", "-o", "identity=/key"]).args([home.mnt()]).refused(2).says("--identity");
}

#[test]
fn a_line_of_fstab_mounts_a_vault() {
    let home = tree::sealed_small();
    fs::create_dir_all(home.path("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_coffre"), home.path("bin/coffre")).unwrap();
    let mnt = home.mnt();
    let line = format!("{} {} fuse.coffre ro,noexec,noauto,identity={} 0 0\n", home.vault().display(), mnt.display(), home.key().display());
    tree::write(home.path("fstab"), line);
    // mount(8) hands no PATH on: coffre must be where a shell without one looks. In a mount namespace of its own it is.
    let there = home.inside(mnt.join("latest"), home.source());
    let script = format!(
        "mount --bind bin /usr/local/bin\nmount -T fstab {0}\ngrep {0} /proc/self/mounts\ndiff -r --no-dereference source {1}\numount {0}",
        mnt.display(),
        there.display()
    );
    let mut unshare = tool("unshare");
    unshare.args(["--mount", "bash", "-euc", &script]).env("COFFRE_STATE_DIR", home.path("state")).current_dir(home.path(""));
    let done = unshare.output().unwrap();
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
    assert!(done.status.success() && said.contains("fuse.coffre ro,nosuid,nodev,noexec"), "{said}");
}

#[test]
fn the_helper_by_its_own_name_does_what_mount_says() {
    let home = tree::sealed_small();
    fs::create_dir_all(home.path("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_coffre"), home.path("bin/mount.coffre")).unwrap();
    let helper = |options: &str| {
        let mut command = tool(home.path("bin/mount.coffre").to_str().unwrap());
        command.args([home.vault(), home.mnt()]).args(["-o", options]).env("COFFRE_STATE_DIR", home.path("state"));
        Coffre(command)
    };
    let log = home.path("helper.log");
    let _guard = Mounted::guard(&home.mnt(), &log);
    assert!(helper(&format!("rw,identity={}", home.key().display())).spawn(&log).wait().unwrap().success());
    tree::assert_same(&home.source(), &home.inside(home.mnt().join("latest"), home.source()));
    run_tool("umount", "mount", &[home.mnt()]);
    helper("rw,nonsense").refused(2).says("nonsense");
}

#[test]
fn systemd_is_told_when_the_mount_answers() {
    let home = tree::sealed_small();
    let socket = UnixDatagram::bind(home.path("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mounted = Mounted::of(&home, home.owner(["mount"]).env("NOTIFY_SOCKET", home.path("notify")), &home.mnt());
    let mut told = [0; 64];
    let n = socket.recv(&mut told).unwrap();
    assert_eq!(&told[..n], b"READY=1\n");
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
}

#[test]
fn acls_are_listed_as_in_the_source() {
    let home = tree::sealed_everything();
    let mounted = Mounted::start(&home, &[]);
    let listed = |top: &Path| shell(top, "find . ! -type l -print0 | sort -z | xargs -0 getfacl -n");
    let there = listed(&mounted.latest(&home.source()).join("attributes"));
    assert!(there.contains("user:"), "{there}");
    assert_eq!(there, listed(&home.source().join("attributes")));
}

#[test]
fn programs_run_from_a_mount_and_files_can_be_mapped() {
    let home = Home::new();
    fs::create_dir_all(home.source()).unwrap();
    fs::copy("/bin/cat", home.source().join("cat")).unwrap();
    tree::write(home.source().join("data"), tree::noise(3, 3_000_000));
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    let top = mounted.latest(&home.source());
    let done = tool(top.join("cat").to_str().unwrap()).arg(top.join("data")).output().unwrap();
    assert!(done.status.success() && done.stdout == tree::noise(3, 3_000_000));
    let script = "import mmap, sys\nf = open(sys.argv[1], 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
                  sys.exit(0 if m[2500000:] + m[:2500000] == (lambda d: d[2500000:] + d[:2500000])(open(sys.argv[2], 'rb').read()) else 'another content')";
    let args =
        [OsStr::new("-c"), OsStr::new(script), top.join("data").as_os_str(), home.source().join("data").as_os_str()].map(OsStr::to_owned);
    run_tool("python3", "python3", &args);
}

/// Prints the handle of a file, or the content of the file that has a handle; argv: point, then a path or a handle.
const HANDLES: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [('len', ctypes.c_uint), ('type', ctypes.c_int), ('bytes', ctypes.c_ubyte * 128)]
def check(n):
    if n < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return n
point, what = sys.argv[1:]
if what.startswith('/'):
    handle, mount = Handle(len=128), ctypes.c_int()
    check(libc.name_to_handle_at(-100, what.encode(), ctypes.byref(handle), ctypes.byref(mount), 0))
    print(handle.type, bytes(handle.bytes[:handle.len]).hex())
else:
    kind, data = what.split()
    data = bytes.fromhex(data)
    handle = Handle(len=len(data), type=int(kind), bytes=(ctypes.c_ubyte * 128)(*data))
    at = os.open(point, os.O_RDONLY)
    fd = check(libc.open_by_handle_at(at, ctypes.byref(handle), os.O_RDONLY))
    sys.stdout.write(os.read(fd, 100).decode() if not os.path.isdir('/proc/self/fd/%d' % fd) else ' '.join(sorted(os.listdir(fd))))
";

#[test]
fn file_handles_hold_over_a_new_mount() {
    let home = tree::sealed_small();
    let ask = |what: &str| {
        let args = [OsStr::new("-c"), OsStr::new(HANDLES), home.mnt().as_os_str(), OsStr::new(what)].map(OsStr::to_owned);
        run_tool("python3", "python3", &args)
    };
    let snapshot = || fs::read_dir(home.mnt().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let (file, dir) = {
        let _mounted = Mounted::start(&home, &[]);
        let top = home.inside(snapshot(), home.source());
        (ask(top.join("hello").to_str().unwrap()), ask(top.to_str().unwrap()))
    };
    let _mounted = Mounted::start(&home, &[]);
    assert_eq!(ask(file.trim()), "hello, world\n");
    let mut names: Vec<String> = fs::read_dir(home.source()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(ask(dir.trim()), names.join(" "));
}

#[test]
fn statfs_tells_how_much_there_is() {
    let home = tree::sealed_small();
    let _mounted = Mounted::start(&home, &[]);
    let row = home.snapshots().pop().unwrap();
    let bytes = row["stats"]["logical_bytes"].as_u64().unwrap();
    let said =
        run_tool("stat", "coreutils", &[OsStr::new("-f"), OsStr::new("-c"), OsStr::new("%b %f %a %S %l %c"), home.mnt().as_os_str()]);
    let words: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(words[..5], [bytes.div_ceil(4096), 0, 0, 4096, 255], "{said}");
    assert!(words[5] > 10, "{said}");
}

"""Locks of the Linux kernel that a process puts on itself, for good, before it meets what it does not trust.

| layer        | takes away                                                                | needs             |
|--------------|---------------------------------------------------------------------------|-------------------|
| `namespaces` | the network, the sight of other processes, all files but the ones named   | Linux 5.12        |
| `landlock`   | opening any file but the ones named; TCP, if new enough also signals      | Linux 5.13        |
| `seccomp`    | new processes, programs and sockets, signals to others, mounts, tracing   | x86-64 or arm64   |

The first also needs user namespaces, which some distributions keep from programs. None of them needs root, each holds
alone, and all that comes from the process inherits them. `drop_privileges` goes with every one of them: it takes what
is left of root and bars setuid programs.

Every function raises `OSError` where the kernel refuses.

Source: the manual pages unshare(2), pivot_root(2), landlock(7) and seccomp(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence

_LIBC = ctypes.CDLL(None, use_errno=True)

NULL = "/dev/null"
BOX_MEGABYTES = 16
"""Size of the file system in memory that the namespaces give to foreign code."""


def _call(name: str, *args: object) -> int:
    """A function of the C library; −1 becomes an OSError."""
    result = getattr(_LIBC, name)(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def die_with_parent() -> None:
    """The kernel kills this process when the thread that started it ends."""
    _call("prctl", 1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def drop_privileges() -> None:
    """Gives up every capability, and the means to gain one by running a program."""
    _call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    _call("capset", header, bytes(24))


# --- namespaces ------------------------------------------------------------------------------------------------------

_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # mount uts ipc user pid net
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 1 << 12, 1 << 14, 1 << 18


def namespaces(box: str, readable: Sequence[str]) -> None:
    """A world of its own: no network but a dead loopback, no process but its own, `box` as an empty root in memory.

    The readable paths keep their place and cannot be written. Returns in a child, process 1 of its world: when it
    ends, the kernel kills whatever it started. The caller itself waits for it and ends the same way.
    """
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _NEW)
    for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", box, "tmpfs", _NOSUID | _NODEV | _NOEXEC, f"size={BOX_MEGABYTES}m,mode=755")
    for path in readable:
        _show(path, box + path)
    os.chdir(box)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", 2)  # MNT_DETACH: the old root, which lies over the new one
    os.chdir("/")
    child = os.fork()
    if child:
        os.closerange(0, 256)  # the pipes end when the child does
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
    die_with_parent()


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _call("mount", *encoded[:3], flags, encoded[3])


def _show(path: str, target: str) -> None:
    """Shows a path of the old world in the new one: a folder read-only, a device as it is."""
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
        _mount(path, target, None, _BIND | _REC)
        flags = struct.pack("=QQQQ", _RDONLY | _NOSUID | _NODEV, 0, 0, 0)
        _call("syscall", 442, -100, os.fsencode(target), 0x8000, flags, len(flags))  # mount_setattr, with all below it
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        _mount(path, target, None, _BIND)


# --- Landlock --------------------------------------------------------------------------------------------------------

_READ, _WRITE = 1 << 2 | 1 << 3, 1 << 1 | 1 << 2  # files and folders to read; one file to write and read
_FILES = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Version of Landlock -> how many rights on files it knows; later ones know as many as 5."""


def landlock(box: str | None, readable: Sequence[str]) -> None:
    """No file can be opened, made or removed outside `box` (None: anywhere), but folders in `readable` can be read."""
    version = _call("syscall", 444, None, 0, 1)
    everything = (1 << _FILES[min(version, 5)]) - 1
    rights = struct.pack("=QQQ", everything, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = _call("syscall", 444, rights, len(rights), 0)
    for path in readable if box is None else (box, *readable):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = everything & ~1 if path == box else _READ if os.path.isdir(path) else _WRITE
        _call("syscall", 445, rules, 1, struct.pack("=Qi", allowed, fd), 0)
        os.close(fd)
    _call("prctl", 38, 1, 0, 0, 0)
    _call("syscall", 446, rules, 0)
    os.close(rules)


# --- seccomp ---------------------------------------------------------------------------------------------------------

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_SYSCALLS = {
    # name: numbers on x86-64 and arm64; None where it does not exist
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "seccomp": (317, 277),
    "setpgid": (109, 154), "setsid": (112, 157), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
}  # fmt: skip
"""What foreign code has no use for; each answers "not permitted"."""
_CLONE, _CLONE3, _TGKILL, _PRLIMIT = (56, 220), (435, 435), (234, 131), (302, 261)
_THREAD = 0x00010000


def seccomp() -> None:
    """A filter on every call into the kernel; threads go on to work, and signals to oneself.

    `clone3`, whose flags a filter cannot read, answers "not known", and the C library falls back to `clone`.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise OSError(f"no filter is known for {machine}")
    arch, column = _MACHINES[machine]
    refuse, unknown, allow = _ret(0x00050001), _ret(0x00050026), _ret(0x7FFF0000)  # EPERM, ENOSYS
    argument, number = _load(16), _load(0)  # the low half of the first argument; the number of the call
    program = [_load(4), _jump(0x15, arch, 1, 0), _ret(0x80000000), number]  # another architecture: killed
    program += [_jump(0x35, 0x40000000, 0, 1), refuse]  # x32, a second set of numbers on x86-64
    for numbers in _SYSCALLS.values():
        if (n := numbers[column]) is not None:
            program += [_jump(0x15, n, 0, 1), refuse]
    program += [_jump(0x15, _CLONE3[column], 0, 1), unknown]
    program += [_jump(0x15, _CLONE[column], 0, 4), argument, _jump(0x45, _THREAD, 1, 0), refuse, number]
    program += [_jump(0x15, _TGKILL[column], 0, 4), argument, _jump(0x15, os.getpid(), 1, 0), refuse, number]
    program += [_jump(0x15, _PRLIMIT[column], 0, 4), argument, _jump(0x15, 0, 1, 0), refuse, number]
    code = ctypes.create_string_buffer(b"".join([*program, allow]))
    header = struct.pack("@HP", len(program) + 1, ctypes.addressof(code))
    _call("prctl", 38, 1, 0, 0, 0)
    _call("prctl", 22, 2, header, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", 0x20, 0, 0, offset)


def _jump(code: int, value: int, if_so: int, if_not: int) -> bytes:
    return struct.pack("=HBBI", code, if_so, if_not, value)


def _ret(value: int) -> bytes:
    return struct.pack("=HBBI", 0x06, 0, 0, value)

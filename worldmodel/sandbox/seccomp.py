"""The system-call filter of a machine, as a classic BPF program built here.

Owns: which system calls a box may not make, for x86_64 and aarch64.
Refuses: installing it (bubblewrap does, from a file descriptor).

Unknown architectures and foreign ABIs (i386, x32) kill the process; denied calls fail with EPERM, ``clone3``
with ENOSYS (its flags lie behind a pointer; libc falls back to ``clone``, whose flags are checked).
Memory that no rlimit counts (memfd, System V and POSIX queues) is refused too.
Layout of ``struct seccomp_data``: nr u32, arch u32, instruction pointer u64, args u64[6] (linux/seccomp.h).
"""

from __future__ import annotations

import errno
import platform
import struct

from worldmodel.sandbox.limits import SandboxError

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: no vsock, netlink, packet or crypto sockets
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

# name: (x86_64, aarch64); None where the architecture has no such call. Numbers from 424 on are shared.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "memfd_secret": (447, 447), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    "memfd_create": (319, 279), "shmget": (29, 194), "msgget": (68, 186), "mq_open": (240, 180),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225),
    "reboot": (169, 142), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "syslog": (103, 116), "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "personality": (135, 92), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None),
    "_sysctl": (156, None), "create_module": (174, None),
}  # fmt: skip

# machine: (audit architecture, column in DENIED, clone, clone3, socket, socketpair, ioctl)
_MACHINES = {
    "x86_64": (0xC000003E, 0, 56, 435, 41, 53, 16),
    "aarch64": (0xC00000B7, 1, 220, 435, 198, 199, 29),
}


def _op(code: int, jump_true: int, jump_false: int, k: int) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, k)


def _deny(number: int, error: int) -> list[bytes]:
    return [_op(_JEQ, 0, 1, number), _op(_RET, 0, 0, _ERRNO | error)]


def _argument_rule(number: int, argument: int, body: list[bytes]) -> list[bytes]:
    """If the call is ``number``: load the low word of ``argument`` and run ``body``, then allow."""
    inner = [_op(_LD, 0, 0, 16 + 8 * argument), *body, _op(_RET, 0, 0, _ALLOW)]
    return [_op(_JEQ, 0, len(inner), number), *inner]


def program(machine: str | None = None) -> bytes:
    """The filter for ``machine`` (default: this one) as ``struct sock_filter[]``. Raises SandboxError."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise SandboxError(f"sandbox: no system-call filter for {machine}; use x86_64 or aarch64")
    arch, column, clone, clone3, socket, socketpair, ioctl = _MACHINES[machine]
    refuse = _op(_RET, 0, 0, _ERRNO | errno.EPERM)
    code = [_op(_LD, 0, 0, 4), _op(_JEQ, 1, 0, arch), _op(_RET, 0, 0, _KILL), _op(_LD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 ABI shares the architecture but sets bit 30
        code += [_op(_JGE, 0, 1, 0x40000000), _op(_RET, 0, 0, _KILL)]
    for numbers in DENIED.values():
        number = numbers[column]
        if number is not None:
            code += _deny(number, errno.EPERM)
    code += _deny(clone3, errno.ENOSYS)
    code += _argument_rule(clone, 0, [_op(_JSET, 0, 1, _NEW_NAMESPACES), refuse])
    for call in (socket, socketpair):
        allowed = [_op(_JEQ, len(_FAMILIES) - i, 0, family) for i, family in enumerate(_FAMILIES)]
        code += _argument_rule(call, 0, [*allowed, _op(_RET, 0, 0, _ERRNO | errno.EAFNOSUPPORT)])
    inject = [step for number in _TERMINAL_INJECTION for step in (_op(_JEQ, 0, 1, number), refuse)]
    code += _argument_rule(ioctl, 1, inject)
    return b"".join([*code, _op(_RET, 0, 0, _ALLOW)])

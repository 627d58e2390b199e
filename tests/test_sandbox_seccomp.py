"""The system-call filter, run by a small interpreter of classic BPF instead of a kernel."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from worldmodel.sandbox import SandboxError
from worldmodel.sandbox.seccomp import DENIED, program

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)"),
    "aarch64": ("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
}


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter returns for one call."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program(machine)))
    at, accumulator = 0, 0
    while True:
        operation, jump_true, jump_false, k = code[at]
        at += 1
        if operation == 0x06:
            return int(k)
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
            continue
        holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[operation]
        at += jump_true if holds else jump_false


@pytest.mark.parametrize("machine", ARCH)
def test_denied_calls_fail_and_ordinary_ones_pass(machine: str) -> None:
    column = list(ARCH).index(machine)
    numbers = {name: pair[column] for name, pair in DENIED.items() if pair[column] is not None}
    assert {"keyctl", "ptrace", "bpf", "io_uring_setup", "userfaultfd", "perf_event_open"} <= set(numbers)
    for name, number in numbers.items():
        assert number is not None and verdict(machine, number) == ERRNO | errno.EPERM, name
    special = {"x86_64": {56, 435, 41, 53, 16}, "aarch64": {220, 435, 198, 199, 29}}[machine]
    for number in set(range(450)) - set(numbers.values()) - special:
        assert verdict(machine, number) == ALLOW


@pytest.mark.parametrize(("machine", "clone", "socket", "ioctl"), [("x86_64", 56, 41, 16), ("aarch64", 220, 198, 29)])
def test_arguments_are_checked(machine: str, clone: int, socket: int, ioctl: int) -> None:
    fork, thread = 0x01200011, 0x003D0F00
    assert verdict(machine, clone, fork) == verdict(machine, clone, thread) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, clone, 17 | flag) == ERRNO | errno.EPERM
    assert verdict(machine, 435) == ERRNO | errno.ENOSYS
    for call in (socket, socket + (12 if machine == "x86_64" else 1)):
        for family in range(64):
            allowed = family in (1, 2, 10)
            assert verdict(machine, call, family) == (ALLOW if allowed else ERRNO | errno.EAFNOSUPPORT)
    assert verdict(machine, ioctl, 0, 0x5412) == verdict(machine, ioctl, 0, 0x541C) == ERRNO | errno.EPERM
    assert verdict(machine, ioctl, 0, 0x5413) == ALLOW


def test_foreign_abis_are_killed() -> None:
    assert verdict("x86_64", 1, arch=0x40000003) == KILL  # i386 on an x86_64 kernel
    assert verdict("x86_64", 0x40000000 | 1) == KILL  # x32
    assert verdict("aarch64", 1, arch=0x40000028) == KILL  # 32-bit ARM


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(SandboxError, match="no system-call filter for riscv64"):
        program("riscv64")


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_agree_with_the_kernel_headers(machine: str) -> None:
    path, pattern = HEADERS[machine]
    if not Path(path).exists():
        pytest.skip("kernel headers are not installed")
    numbers = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    column = list(HEADERS).index(machine)
    known = {name: pair[column] for name, pair in DENIED.items() if pair[column] is not None and name in numbers}
    assert len(known) > 50
    assert known == {name: numbers[name] for name in known}

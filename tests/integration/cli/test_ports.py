"""Ports are free, and different for processes that look for some at the same time."""

import subprocess
import sys

import pytest

from services.cli.local.ports import GRPC_OFFSET, free_ports, is_free

pytestmark = pytest.mark.integration


def test_ports_leave_room_for_grpc() -> None:
    ports = free_ports(5, with_grpc=True)
    assert len(set(ports)) == 5
    assert all(is_free(port) and is_free(port + GRPC_OFFSET) for port in ports)
    assert all(port + GRPC_OFFSET < 32_768 for port in ports)


def test_no_port_is_given_out_twice_in_a_row() -> None:
    # In a process of its own: the block of this one has ports in use by the servers of other tests.
    code = "from services.cli.local.ports import free_ports; print(*(p for _ in range(9) for p in free_ports(10)))"
    ports = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(ports) == len(set(ports)) == 90


def test_processes_that_look_at_the_same_time_find_different_ports() -> None:
    code = "from services.cli.local.ports import free_ports; print(*free_ports(90), flush=True); input()"
    looking = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    found = []
    for process in looking:
        assert process.stdout
        found += process.stdout.readline().split()
    for process in looking:
        process.communicate("\n", timeout=20)
    assert len(found) == 4 * 90
    assert len(set(found)) == len(found)

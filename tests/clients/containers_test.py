"""testcontainers against the engine that DOCKER_HOST names: a database for the length of a test."""

import os

from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs
from testcontainers.core.network import Network

with Network() as network:
    with DockerContainer("redis:latest").with_exposed_ports(6379).with_network(network).with_network_aliases("db") as db:
        wait_for_logs(db, "Ready to accept connections", timeout=60)
        assert db.exec(["redis-cli", "set", "key", "value"]).exit_code == 0
        port = int(db.get_exposed_port(6379))
        import socket

        with socket.create_connection((db.get_container_host_ip(), port), timeout=60) as connection:
            connection.sendall(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n")
            assert connection.recv(100) == b"$5\r\nvalue\r\n"
        reader = DockerContainer("redis:latest").with_network(network).with_command(["redis-cli", "-h", "db", "get", "key"])
        with reader:
            wait_for_logs(reader, "value", timeout=60)
print("passed")

"""What the lab takes of the machine: a port, and threads."""

from __future__ import annotations

import os
import socket


def free_port(wanted: int, host: str = "127.0.0.1", tries: int = 20) -> int:
    """`wanted` if nothing listens there, else the next one that is free."""
    for port in range(wanted, wanted + tries):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise OSError(f"Ports {wanted} to {wanted + tries - 1} are all in use; give --port another number.")


def limit_threads() -> None:
    """Two threads at most for the CPU's arithmetic, unless the environment says otherwise: small models gain from no
    more, and lose when something else is running."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and not torch.cuda.is_available():
        torch.set_num_threads(min(2, os.cpu_count() or 1))

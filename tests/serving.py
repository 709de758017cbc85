"""A server within a test (``pythonpath`` makes this importable)."""

import threading
from contextlib import contextmanager


@contextmanager
def serving(server):
    """Let a server answer in its own thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()

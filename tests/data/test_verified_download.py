"""Downloads of published files, from a server on this machine."""

import hashlib
import multiprocessing
import re
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from serving import serving

from fewshot_pl.data import download
from fewshot_pl.data.download import Remote, verified_download
from fewshot_pl.errors import InputError

CONTENT = np.random.default_rng(0).bytes(100_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path, in the manner that the path names, and keeps (path, Range) of each request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []

    def remote(self, *paths, md5=MD5):
        return Remote("set.tgz", md5, tuple(f"http://127.0.0.1:{self.server_port}/{path}" for path in paths))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        manner, asked = self.path[1:], self.headers["Range"]
        self.server.requests.append((manner, asked))
        content = b"another file" * 1000 if manner == "wrong" else CONTENT
        if manner == "missing":
            self.send_error(404)
            return
        if manner == "slow":
            time.sleep(0.3)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and not manner.startswith("whole") else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        rest = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[:40_000] if manner in ("flaky", "whole-flaky") else rest)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server():
    with serving(Server()) as server:
        yield server


def test_a_file_is_downloaded_verified_and_not_asked_for_again(server, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):
        assert verified_download(server.remote("good"), folder, "").read_bytes() == CONTENT
    assert server.requests == [("good", None)]
    assert {path.name for path in folder.iterdir()} == {"set.tgz", ".set.tgz.lock"}


def test_two_runs_at_once_download_a_file_once(server, tmp_path):
    remote = server.remote("slow")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        paths = list(pool.map(verified_download, [remote] * 2, [tmp_path] * 2, [""] * 2, timeout=60))
    assert [path.read_bytes() == CONTENT for path in paths] == [True, True]
    assert server.requests == [("slow", None)]


def test_a_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    path = verified_download(server.remote("flaky"), tmp_path, "")
    assert path.read_bytes() == CONTENT
    assert server.requests == [("flaky", None), ("flaky", "bytes=40000-"), ("flaky", "bytes=80000-")]


def test_a_later_run_goes_on_where_one_was_stopped(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(CONTENT[:70_000])
    assert verified_download(server.remote("good"), tmp_path, "").read_bytes() == CONTENT
    assert server.requests == [("good", "bytes=70000-")]


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(b"x" * 70_000)
    assert verified_download(server.remote("whole"), tmp_path, "").read_bytes() == CONTENT


@pytest.mark.parametrize("length", [100_000, 200_000])
def test_a_part_of_another_file_is_not_gone_on_from(length, server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(b"x" * length)
    assert verified_download(server.remote("good"), tmp_path, "").read_bytes() == CONTENT
    assert server.requests[-1] == ("good", None)


def test_a_whole_part_is_all_that_is_needed(server, tmp_path):
    (tmp_path / "set.tgz.part").write_bytes(CONTENT)
    assert verified_download(server.remote("good"), tmp_path, "").read_bytes() == CONTENT
    assert len(server.requests) == 1


@pytest.mark.parametrize("first", ["missing", "wrong"])
def test_the_next_mirror_is_asked_where_one_fails(first, server, tmp_path):
    assert verified_download(server.remote(first, "good"), tmp_path, "").read_bytes() == CONTENT
    assert server.requests == [(first, None), ("good", None)]


@pytest.mark.parametrize("manner", ["missing", "wrong", "whole-flaky"])
def test_a_dead_link_says_what_to_do_by_hand(manner, server, tmp_path):
    with pytest.raises(InputError) as error:
        verified_download(server.remote(manner), tmp_path, "get it from there and put it here")
    said = str(error.value)
    assert said.startswith("the download failed (http://127.0.0.1:") and "\n" not in said
    assert said.endswith("): run it again to go on where it stopped, or get it from there and put it here")
    assert said.count("http://") == 1  # not once for each attempt
    assert not (tmp_path / "set.tgz").exists()


def test_without_network_it_says_so(tmp_path):
    remote = Remote("set.tgz", MD5, ("http://127.0.0.1:9/set.tgz",))
    with pytest.raises(InputError, match=r"the download failed .*refused.*: run it again .* get it by hand"):
        verified_download(remote, tmp_path, "get it by hand")


def test_a_file_that_is_not_the_published_one_is_kept_and_named(server, tmp_path):
    (tmp_path / "set.tgz").write_bytes(b"the user's own")
    with pytest.raises(InputError, match=rf"set\.tgz is not the published file \(MD5 {MD5}\): remove it .*by hand"):
        verified_download(server.remote("good"), tmp_path, "get it by hand")
    assert (tmp_path / "set.tgz").read_bytes() == b"the user's own" and server.requests == []


def test_a_silent_server_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_SILENCE_SECONDS", 0.2)
    silence = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: silence.wait(5))
    with pytest.raises(InputError, match="timed out"):
        verified_download(server.remote("good"), tmp_path, "")
    silence.set()

import socket
from email.message import Message
from urllib.error import HTTPError, URLError

import pytest

from fewshot_pl.data.download import downloaded
from fewshot_pl.errors import InputError


@pytest.mark.parametrize(
    "error", [URLError("no network"), RuntimeError("File not found or corrupted."), OSError(28, "full")]
)
def test_a_failed_download_says_what_to_do_by_hand(error, tmp_path):
    def failing():
        raise error

    with pytest.raises(InputError, match=r"download failed \(.+\): get it from there"):
        downloaded(failing, tmp_path / "set", "get it from there")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory", "set/a"), "No such file or directory: set/a"),
        (URLError(socket.gaierror(-2, "Name or service not known")), "Name or service not known"),
        (HTTPError("http://a", 404, "Not Found", Message(), None), "HTTP Error 404: Not Found"),
    ],
)
def test_what_failed_is_told_without_the_numbers_of_the_system(error, reason, tmp_path):
    def failing():
        raise error

    with pytest.raises(InputError, match=rf"^the download failed \({reason}\): "):
        downloaded(failing, tmp_path / "set", "get it from there")


def test_a_silent_server_is_given_up_and_the_timeout_restored(tmp_path):
    before = socket.getdefaulttimeout()
    assert downloaded(socket.getdefaulttimeout, tmp_path / "set", "") == 30.0
    assert socket.getdefaulttimeout() == before

import socket
from urllib.error import URLError

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


def test_a_silent_server_is_given_up_and_the_timeout_restored(tmp_path):
    before = socket.getdefaulttimeout()
    assert downloaded(socket.getdefaulttimeout, tmp_path / "set", "") == 30.0
    assert socket.getdefaulttimeout() == before

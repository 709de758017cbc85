"""Fixtures for the tests of stopping and resuming."""

import pytest
from random_images import write_image_folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images to train, validate and test on."""
    root = tmp_path_factory.mktemp("images")
    write_image_folder(root, num_classes=3, num_images=3, size=16)
    return root

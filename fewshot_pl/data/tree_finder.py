"""Where images lie below a folder: in an archive, or in a folder of the same name."""

from pathlib import Path

from fewshot_pl.data.image_tree import FolderTree, ImageTree, ZipTree
from fewshot_pl.data.tar_tree import TAR_ENDINGS, TarTree


def find_tree(root: Path, name: str) -> ImageTree | None:
    """``root/name`` as a zip or tar archive, or else as a folder; None if there is neither."""
    if (archive := root / f"{name}.zip").is_file():
        return ZipTree(archive)
    for ending in TAR_ENDINGS:
        if (archive := root / f"{name}{ending}").is_file():
            return TarTree(archive)
    return FolderTree(folder) if (folder := root / name).is_dir() else None

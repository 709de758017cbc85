"""PlacedDataModule: the base of benchmarks whose files a user places below ``root`` or has downloaded there."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeVar

from fewshot_pl.benchmarks.published_splits import published_split
from fewshot_pl.data.archives import find_tree
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.download import Remote, verified_download
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_tree import FolderTree, ImageFile, ImageTree
from fewshot_pl.errors import InputError

_Parsed = TypeVar("_Parsed")


class PlacedDataModule(ImageDataModule):
    """Images in a folder or archive below ``root``, or in ``root`` itself, with the published split.

    An archive or annotation file with a name in ``remotes`` must have its published checksum.

    Attributes:
        split_name: name of the split, in splits/<split_name>.json.
        places: names that the folder or archive may have, without an archive's ending.
        marks: glob patterns; if one matches below ``root``, then ``root`` itself is the folder.
        companions: folders, archives or files beside it with annotations.
        remotes: what is downloaded if there is no such folder or archive.
        by_hand: "get A from B and put it into {root}".
    """

    split_name: ClassVar[str]
    places: ClassVar[tuple[str, ...]]
    marks: ClassVar[tuple[str, ...]]
    companions: ClassVar[tuple[str, ...]] = ()
    remotes: ClassVar[tuple[Remote, ...]] = ()
    by_hand: ClassVar[str]

    def published_classes(self, split: Split) -> list[str]:
        """The classes of a split, sorted."""
        return sorted(published_split(self.split_name)[split])

    def prepare_data(self) -> None:
        try:
            super().prepare_data()
        finally:
            for tree in vars(self).pop("_trees", ()):
                tree.close()

    def source_fingerprint(self) -> dict[str, Any]:
        tree = self.placed()
        # A download is verified before it is read, so its checksums identify the content, even after it is removed.
        source = [remote.md5 for remote in self.remotes] if self._is_published(tree) else self._fingerprints(tree)
        return {"format": 1, "split": self.split_name, "source": source}

    @property
    def tree(self) -> ImageTree:
        """The folder or archive; downloaded if there is none.

        Raises:
            InputError: it is missing and cannot be downloaded, or is broken.
        """
        return self._trees[0]

    def placed(self) -> ImageTree | None:
        """The folder or archive, not yet opened; None if it has to be downloaded.

        Raises:
            InputError: it is missing and cannot be downloaded.
        """
        trees = (find_tree(self.root, name) for name in self.places)
        if (tree := next(filter(None, trees), None)) is not None:
            return tree
        if (tree := self.root_itself()) is not None:
            return tree
        if self.remotes:
            return None
        raise InputError(f"{type(self).__name__} is not in {self.root} and is not downloaded: {self._cure()}")

    def root_itself(self) -> ImageTree | None:
        """``root`` if it is the folder itself, else None."""
        return FolderTree(self.root) if any(any(self.root.glob(mark)) for mark in self.marks) else None

    def annotation(self, name: str, parse: Callable[[bytes], _Parsed]) -> _Parsed:
        """The result of ``parse`` for an annotation file, in the folder or archive or beside it.

        Raises:
            InputError: it is missing, is not the published file, or cannot be parsed.
        """
        for tree in self._trees:
            for path in tree.files:
                if PurePosixPath(path).name == name:
                    content, place = tree.read(path), f"{tree.path}/{path}"
                    self._check_published(name, content, place)
                    return _parsed(content, place, parse)
        raise InputError(f"there is no {name} in {self.tree.path} or beside it: {self._cure()}")

    def _check_published(self, name: str, content: bytes, path: str) -> None:
        """Raise InputError if a file is not the published one: a C parser, as of MATLAB files, may crash on damage."""
        published = {remote.name: remote.md5 for remote in self.remotes}
        if name in published and hashlib.md5(content, usedforsecurity=False).hexdigest() != published[name]:
            raise InputError(f"{path} is not the published file (MD5 {published[name]}): {self._cure()}")

    @cached_property
    def _trees(self) -> list[ImageTree]:
        """The folder or archive, then its companions."""
        if self._is_published(self.placed()):
            for remote in self.remotes:
                verified_download(remote, self.root, self._cure())
        tree = self.placed()
        assert tree is not None, "one of the places has the name of a download"
        return [tree, *_companions(self.root, self.companions)]

    def _is_published(self, tree: ImageTree | None) -> bool:
        return tree is None or tree.path in [self.root / remote.name for remote in self.remotes]

    def _fingerprints(self, tree: ImageTree | None) -> list[dict[str, Any]]:
        assert tree is not None, "what is not there is downloaded"
        return [part.fingerprint() for part in (tree, *_companions(self.root, self.companions))]

    def _cure(self) -> str:
        return self.by_hand.format(root=self.root) + "; or point --data.root at the folder that holds yours"


def files_by_class(tree: ImageTree, class_of: Callable[[str], str | None]) -> dict[str, list[ImageFile]]:
    """The images of each class, sorted by file name; ``class_of`` maps a path to a class, or to None."""
    files = defaultdict(list)
    for path in sorted(tree.names, key=lambda path: path.split("/")[::-1]):
        if (name := class_of(path)) is not None:
            files[name].append(ImageFile(tree, path))
    return files


def folder_name(path: str) -> str:
    """The name of the folder that a file lies in."""
    return PurePosixPath(path).parent.name


def folder_and_file(path: str) -> str:
    """The name of a file's folder and the file's own name, as ``folder/file``."""
    return "/".join(path.split("/")[-2:])


def _parsed(content: bytes, path: str, parse: Callable[[bytes], _Parsed]) -> _Parsed:
    try:
        return parse(content)
    except Exception as error:  # parsers can raise anything on a damaged file
        raise InputError(f"{path} cannot be read ({error!r}): extract or copy it again") from error


def _companions(root: Path, names: Iterable[str]) -> Iterator[ImageTree]:
    for name in names:
        if (root / name).is_file():
            yield FolderTree(root, only=[name])
        elif (tree := find_tree(root, name)) is not None:
            yield tree

"""miniImageNet: 100 classes of ImageNet with 600 images each, at 84x84 pixels (Vinyals et al. 2016)."""

from fewshot_pl.benchmarks.imagenet_subset import ImageNetSubset
from fewshot_pl.benchmarks.photographs import Square
from fewshot_pl.benchmarks.pickled_images import PICKLES, MaybePickled
from fewshot_pl.data.image_tree import FolderTree, ImageTree
from fewshot_pl.data.square_image import whole_image


class MiniImageNet(ImageNetSubset):
    """miniImageNet: 64 classes to train on, 16 to validate on, 20 to test on (Ravi and Larochelle 2017).

    Reads ``mini_imagenet``, as an archive or extracted, from ``root``, or ``root`` itself: a folder per class,
    ``<wnid>/*.jpg``, possibly inside ``train``, ``val`` and ``test``; or Ravi and Larochelle's
    ``images/<wnid><number>.jpg``. Where there are none, the pickles ``mini-imagenet-cache-{train,val,test}.pkl`` of Ren
    et al. 2018, or ``miniImageNet_category_split_*.pickle`` of Gidaris and Komodakis 2018, without running code from
    them. A class goes to its published split, wherever its images lie.

    Images are resized to squares without cropping, so their aspect ratios change, as in the papers' code. The code of
    MAML, Reptile and the LSTM meta-learner does not normalise them (``normalise``). Nothing is downloaded: ImageNet's
    licence forbids passing its images on.
    """

    # Of the training images at 84x84, as commonly used since the code of Lee et al. 2019.
    mean = (0.4721, 0.4533, 0.4100)
    std = (0.2772, 0.2678, 0.2845)
    split_name = "mini_imagenet"
    # The last two are what the scripts of OpenAI's supervised-reptile, and of Ravi and Larochelle, make.
    places = ("mini_imagenet", "mini-imagenet", "miniImagenet", "miniImageNet", "miniimagenet", "images")
    layout = f"{ImageNetSubset.layout}, or all classes in mini-imagenet-cache-{{{{train,val,test}}}}.pkl"
    images_per_class = 600
    by_hand = (
        "as ImageNet's licence forbids passing its images on, get those of ILSVRC 2012 from https://image-net.org, "
        "take the 600 of each class that https://github.com/openai/supervised-reptile lists in metadata/miniimagenet, "
        "and put them into {root}/mini_imagenet/<wnid>/*.jpg, as n01532829/*.jpg; or put the pickled "
        "copies mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl there"
    )

    def placed(self) -> ImageTree | None:
        tree = super().placed()
        assert tree is not None, "nothing is downloaded"
        return MaybePickled(tree, self.class_of())

    def root_itself(self) -> ImageTree | None:
        pickles = [name for name in PICKLES if (self.root / name).is_file()]
        # Only the pickles: other benchmarks may lie beside them.
        return super().root_itself() or (FolderTree(self.root, only=pickles) if pickles else None)

    def square(self) -> Square:
        # From all pixels of a file, like the papers' code: no shortcut for large images.
        return lambda file: whole_image(file.decoded(), self.image_size)

"""tieredImageNet: 608 classes of ImageNet, split by the 34 categories above them (Ren et al. 2018)."""

from fewshot_pl.benchmarks.imagenet_subset import ImageNetSubset


class TieredImageNet(ImageNetSubset):
    """tieredImageNet: 351 classes to train on, 97 to validate on, 160 to test on (Ren et al. 2018, section 5.1).

    Reads ``tiered_imagenet``, as an archive or extracted, from ``root``, or ``root`` itself: a folder per class,
    ``<wnid>/*.jpg``, possibly inside ``train``, ``val`` and ``test``; the training images of ILSVRC 2012 can be used as
    they are, as classes outside tieredImageNet are ignored. A class goes to its published split.

    Images are resized to squares without cropping, so their aspect ratios change, as in the authors' 84x84 images.
    The authors' own files (``train_images_png.pkl`` and the like) are not read, as unpickling a file runs the code in
    it. Nothing is downloaded: ImageNet's licence forbids passing its images on.
    """

    split_name = "tiered_imagenet"
    places = ("tiered_imagenet", "tiered-imagenet", "tieredImagenet", "tieredImageNet", "tiered-ImageNet")
    layout = f"{ImageNetSubset.layout}, and not as pickles"
    num_images = 779_165
    by_hand = (
        "as ImageNet's licence forbids passing its images on, get those of ILSVRC 2012 from https://image-net.org and "
        "put the classes' folders of its training images into {root}/tiered_imagenet, as n01440764/*.JPEG (pickled "
        "copies, as train_images_png.pkl, are not read, as that would run code from them)"
    )

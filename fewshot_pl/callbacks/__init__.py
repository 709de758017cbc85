"""Read-only observers of a training, which never change what is learned, and FiniteLoss, which guards it."""

from fewshot_pl.callbacks.adaptation_curve import AdaptationCurve
from fewshot_pl.callbacks.calibration import CalibrationPicture
from fewshot_pl.callbacks.confusion import ConfusionPicture
from fewshot_pl.callbacks.embedding import EmbeddingProjector
from fewshot_pl.callbacks.episode_picture import EpisodePicture, episode_figure
from fewshot_pl.callbacks.finite_loss import FiniteLoss, Nonfinite
from fewshot_pl.callbacks.generated_images import GeneratedImages, image_sheet
from fewshot_pl.callbacks.inner_lr import InnerLearningRates
from fewshot_pl.callbacks.pictures import DEFAULT_PICTURES, PictureName, pictures
from fewshot_pl.callbacks.progress import EpisodeBar, EpisodeLines, EpisodeRate, progress_bar
from fewshot_pl.callbacks.regression_picture import RegressionPicture, regression_figure
from fewshot_pl.callbacks.validation_picture import ValidationPicture

__all__ = [
    "DEFAULT_PICTURES",
    "AdaptationCurve",
    "CalibrationPicture",
    "ConfusionPicture",
    "EmbeddingProjector",
    "EpisodeBar",
    "EpisodeLines",
    "EpisodePicture",
    "EpisodeRate",
    "FiniteLoss",
    "GeneratedImages",
    "InnerLearningRates",
    "Nonfinite",
    "PictureName",
    "RegressionPicture",
    "ValidationPicture",
    "episode_figure",
    "image_sheet",
    "pictures",
    "progress_bar",
    "regression_figure",
]

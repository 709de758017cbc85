"""Read-only observers of a training; they never change what is learned."""

from fewshot_pl.callbacks.episode_picture import EpisodePicture, episode_figure
from fewshot_pl.callbacks.generated_images import GeneratedImages, image_sheet
from fewshot_pl.callbacks.progress import EpisodeBar, EpisodeLines, EpisodeRate, progress_bar
from fewshot_pl.callbacks.regression_picture import RegressionPicture, regression_figure
from fewshot_pl.callbacks.validation_picture import ValidationPicture

__all__ = [
    "EpisodeBar",
    "EpisodeLines",
    "EpisodePicture",
    "EpisodeRate",
    "GeneratedImages",
    "RegressionPicture",
    "ValidationPicture",
    "episode_figure",
    "image_sheet",
    "pictures",
    "progress_bar",
    "regression_figure",
]


def pictures() -> list[ValidationPicture]:
    """The pictures of every training, each of which shows what fits it."""
    return [EpisodePicture(), RegressionPicture(), GeneratedImages()]

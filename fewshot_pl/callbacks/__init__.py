"""Read-only observers of a training; they never change what is learned."""

from fewshot_pl.callbacks.episode_picture import EpisodePicture, episode_figure
from fewshot_pl.callbacks.generated_images import GeneratedImages
from fewshot_pl.callbacks.progress import EpisodeBar, EpisodeLines, EpisodeRate, progress_bar

__all__ = [
    "EpisodeBar",
    "EpisodeLines",
    "EpisodePicture",
    "EpisodeRate",
    "GeneratedImages",
    "episode_figure",
    "progress_bar",
]

"""How fast fewshot_pl is beside its peers and beside the limit; ``python -m throughput --help``."""

import fewshot_pl  # noqa: F401 - first: it makes torchvision importable

"""How fast fewshot_pl is, against its peers and against its limits; see ``python -m throughput --help``."""

import fewshot_pl  # noqa: F401 - first: it makes torchvision importable

"""scikit-learn's own estimator checks, except those that pass rows of numbers in place of images."""

import pytest
from sklearn.utils import estimator_checks

from fewshot_pl import FewShotPredictor

CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]


@pytest.mark.parametrize("check", CHECKS)
def test_passes(check):
    getattr(estimator_checks, check)("FewShotPredictor", FewShotPredictor("best.ckpt"))

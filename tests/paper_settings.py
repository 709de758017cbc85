"""The settings of papers and of their code, which configurations and defaults must have.

They are typed in from the papers, not taken from ``configs/paper``. Where a paper has no CIFAR-FS or Omniglot, the
settings are those it has for miniImageNet or for the method it builds on. (``pythonpath`` makes this importable.)
"""

import math

import yaml

# The outer rate is halved every ``halved`` steps; a test has ``tests`` episodes; 5/10: 5 in training and 10 at test.
_COLUMNS = ("steps", "tasks", "rate", "halved", "tests", "ways", "shots", "queries", "inner_lr", "inner_steps")
_IN_TRAINING_AND_AT_TEST = {"ways", "shots", "queries", "inner_steps"}


def _rows(prefix, table, **shared):
    """The settings by the name of a configuration: columns, then ``name=value``; ``shared`` hold in all rows."""
    rows = {}
    for name, *words in (line.split() for line in table.strip().splitlines()):
        columns = dict(zip(_COLUMNS, (word for word in words if "=" not in word), strict=False))
        own = dict(word.split("=") for word in words if "=" in word)
        settings = {column: _value(column, word) for column, word in columns.items()}
        rows[prefix + name] = {**settings, **shared, **{key: yaml.safe_load(value) for key, value in own.items()}}
    return rows


def _value(column, word):
    values = [yaml.safe_load(part) for part in word.split("/")]
    return (values[0], values[-1]) if column in _IN_TRAINING_AND_AT_TEST else values[0]


# Finn et al. 2017, A.1 and A.2; from the code: as many queries as shots, 600 tests, and of sinusoids tasks and steps.
# CIFAR-FS has 15 queries at test too.
_MAML = """
omniglot_5way_1shot        60000 32 0.001 0  600  5 1  1    0.4  1/3
omniglot_5way_5shot        60000 32 0.001 0  600  5 5  5    0.4  1/3
omniglot_20way_1shot       60000 16 0.001 0  600 20 1  1    0.1  5
omniglot_20way_5shot       60000 16 0.001 0  600 20 5  5    0.1  5
mini_imagenet_1shot        60000  4 0.001 0  600  5 1 15/1  0.01 5/10
mini_imagenet_5shot        60000  2 0.001 0  600  5 5 15/5  0.01 5/10
"""
_MAML_ONLY = """
mlp_omniglot_5way_1shot    60000 32 0.001 0  600  5 1  1    0.4  1/3
mlp_omniglot_5way_5shot    60000 32 0.001 0  600  5 5  5    0.4  1/3
cifar_fs_1shot             60000  4 0.001 0  600  5 1 15    0.01 5/10
cifar_fs_5shot             60000  2 0.001 0  600  5 5 15    0.01 5/10
sinusoid_10shot            70000 25 0.001 0 1000  1 10 10   0.01 1/10  norm=none
"""
# MAML's, as Raghu et al. 2020 and Li et al. 2017 build on it; the latter take one step, on the mean loss.
_ANIL = """
omniglot_20way_1shot       60000 16 0.001 0  600 20 1  1    0.1  5
omniglot_20way_5shot       60000 16 0.001 0  600 20 5  5    0.1  5
mini_imagenet_1shot        60000  4 0.001 0  600  5 1 15/1  0.01 5/10
mini_imagenet_5shot        60000  2 0.001 0  600  5 5 15/5  0.01 5/10
"""
_META_SGD = """
omniglot_5way_1shot        60000 32 0.001 0  600  5 1  1    null 1
omniglot_5way_5shot        60000 32 0.001 0  600  5 5  5    null 1
mini_imagenet_1shot        60000  4 0.001 0  600  5 1 15/1  null 1
mini_imagenet_5shot        60000  2 0.001 0  600  5 5 15/5  null 1
"""
# The code of Oh et al. 2021: main.py's defaults and run_4conv.sh. Five trainings were tested on 1,000 tasks each.
_BOIL = """
mini_imagenet_1shot        30000  4 0.001 0 1000  5 1 15    0.5  1
mini_imagenet_5shot        30000  4 0.001 0 1000  5 5 15    0.5  1
"""
# MAML's; at test as many steps as in training. Zhang et al. 2018 for Adam, as told by others.
_METAGAN = """
omniglot_5way_1shot        60000 32 0.001 0  600  5 1  1    0.4  1     first_order=false
omniglot_5way_5shot        60000 32 0.001 0  600  5 5  5    0.4  1     first_order=false
omniglot_20way_1shot       60000 16 0.001 0  600 20 1  1    0.1  5     first_order=false
omniglot_20way_5shot       60000 16 0.001 0  600 20 5  5    0.1  5     first_order=false
mini_imagenet_1shot        60000  4 0.001 0  600  5 1 15/1  0.01 5     first_order=true
mini_imagenet_5shot        60000  2 0.001 0  600  5 5 15/5  0.01 5     first_order=true
cifar_fs_1shot             60000  4 0.001 0  600  5 1 15    0.01 5     first_order=true
cifar_fs_5shot             60000  2 0.001 0  600  5 5 15    0.01 5     first_order=true
"""
# MAML's; of sinusoids, the command lines of Finn, Xu, Levine 2018 but for the rate (there 0.01), as the header says.
_PLATIPUS = """
omniglot_5way_1shot        60000 32 0.001 0  600  5 1  1    0.4  1/3
omniglot_5way_5shot        60000 32 0.001 0  600  5 5  5    0.4  1/3
mini_imagenet_1shot        60000  4 0.001 0  600  5 1 15/1  0.01 5/10
cifar_fs_1shot             60000  4 0.001 0  600  5 1 15    0.01 5/10
cifar_fs_5shot             60000  2 0.001 0  600  5 5 15    0.01 5/10
sinusoid_line              70000 25 0.001 0 1000  1 5 50   0.001 5     lines=true noise=0.3 norm=none
"""
# Nichol et al. 2018, appendix A, and the code. A training task's support and queries are one set: 10 or 15 images per
# class, of sinusoids 50 points. Sinusoids: J. Schulman's demonstration; of the paper, the 32 steps and the 10 points.
_REPTILE = """
omniglot_5way_1shot      100000  5 1.0   0 10000  5 5/1   5/1  0.001   5/50
omniglot_5way_5shot      100000  5 1.0   0 10000  5 5     5/1  0.001   5/50
omniglot_20way_1shot     200000  5 1.0   0 10000 20 5/1   5/1  0.0005 10/50 inner_batch_size=20 inner_batch_size_test=10
omniglot_20way_5shot     200000  5 1.0   0 10000 20 5     5/1  0.0005 10/50 inner_batch_size=20 inner_batch_size_test=10
mini_imagenet_1shot      100000  5 1.0   0 10000  5 5/1  10/1  0.001   8/50
mini_imagenet_5shot      100000  5 1.0   0 10000  5 5    10/1  0.001   8/50 inner_batch_size_test=15
cifar_fs_1shot           100000  5 1.0   0 10000  5 5/1  10/1  0.001   8/50
cifar_fs_5shot           100000  5 1.0   0 10000  5 5    10/1  0.001   8/50 inner_batch_size_test=15
"""
_REPTILE_SINUSOID = """
sinusoid_10shot           30000  1 0.1   0  1000  1 25/10 25/50 0.02   5/32 inner_batch_size_test=10
"""
# Ravi and Larochelle 2017, section 5; from the code: numbers of episodes, and batch norm's momentum and epsilon.
_LSTM_1SHOT = """
omniglot_5way_1shot        75000 1 0.001 0 600 5 1 15
mini_imagenet_1shot        75000 1 0.001 0 600 5 1 15
cifar_fs_1shot             75000 1 0.001 0 600 5 1 15
"""
_LSTM_5SHOT = """
omniglot_5way_5shot        50000 1 0.001 0 600 5 5 15
mini_imagenet_5shot        50000 1 0.001 0 600 5 5 15
cifar_fs_5shot             50000 1 0.001 0 600 5 5 15
"""
# Ravi and Larochelle's code; Vinyals et al. 2016 state no optimiser and queries, so those of Omniglot are our choice.
_MATCHING_NET = """
omniglot_5way_1shot        40000 4 0.001  5000 1000  5 1 15
omniglot_5way_5shot        40000 4 0.001  5000 1000  5 5 15
omniglot_20way_1shot       40000 1 0.001  5000 1000 20 1 15
omniglot_20way_5shot       40000 1 0.001  5000 1000 20 5 15
mini_imagenet_1shot        75000 1 0.0001    0  600  5 1 15
mini_imagenet_5shot        75000 1 0.0001    0  600  5 5 15
cifar_fs_1shot             75000 1 0.0001    0  600  5 1 15
cifar_fs_5shot             75000 1 0.0001    0  600  5 5 15
"""
_MATCHING_NET_FCE = """
mini_imagenet_1shot        75000 1 0.0001    0  600  5 1 15
mini_imagenet_5shot        75000 1 0.0001    0  600  5 5 15
"""
# Snell et al. 2017, section 3, and the code; 1,000 epochs of 100 steps at most, as patience ends the training.
_PROTONET = """
omniglot_1shot            100000 1 0.001 2000 1000 60/5 1  5/15
omniglot_5shot            100000 1 0.001 2000 1000 60/5 5  5/15
mini_imagenet_1shot       100000 1 0.001 2000  600 30/5 1 15
mini_imagenet_5shot       100000 1 0.001 2000  600 20/5 5 15
cifar_fs_1shot            100000 1 0.001 2000 1000 30/5 1 15
cifar_fs_5shot            100000 1 0.001 2000 1000 20/5 5 15
"""
# Sung et al. 2018 and its code, whose 600 tests of miniImageNet have 15 queries per class, 3 or 5 to a pass.
_RELATION_NET = """
omniglot_5way_1shot      1000000 1 0.001 100000 1000  5 1 19/1
omniglot_5way_5shot      1000000 1 0.001 100000 1000  5 5 15/5
omniglot_20way_1shot     1000000 1 0.001 100000 1000 20 1 10/1
omniglot_20way_5shot     1000000 1 0.001 100000 1000 20 5  5
mini_imagenet_1shot       500000 1 0.001 100000 3000  5 1 15/3
mini_imagenet_5shot       500000 1 0.001 100000 1800  5 5 10/5
"""
_RELATION_NET_CIFAR_FS = """
cifar_fs_1shot            500000 1 0.001 100000 3000  5 1 15/3
cifar_fs_5shot            500000 1 0.001 100000 1800  5 5 10/5
"""
# How many images and tasks have no labels is our choice; a character has 20 drawings.
_METAGAN_UNLABELLED = """
omniglot_5way_1shot_sample_level   1000000 1 0.001 100000 1000 5 1  9/1 num_unlabelled=5
omniglot_5way_1shot_task_level     1000000 2 0.001 100000 1000 5 1 19/1 unlabelled_tasks=0.5
mini_imagenet_1shot_sample_level    500000 1 0.001 100000 3000 5 1 15/3 num_unlabelled=5
mini_imagenet_5shot_sample_level    500000 1 0.001 100000 1800 5 5 10/5 num_unlabelled=5
"""
_MAMLS_LOSS = {"inner_loss_reduction": "sum_over_shots", "norm": "transductive"}
_MEAN_LOSS = {"inner_loss_reduction": "mean", "norm": "transductive", "first_order": False}
_GAME = {"real_weight": 1, "fake_weight": 1, "generator_learning_rate": 0.001, "beta1": 0.5, "beta2": 0.9}
_RELATIONS = {"max_gradient_norm": 0.5, "norm": "transductive"}
_GAMMAS = {"gamma": "per_parameter", "initial_gamma": 0.01, "initial_deviation": 0.02}
_SAMPLES = {"kl_weight": 0.1, "num_samples": 10, "num_training_samples": 1, **_GAMMAS}
_ADAM = {"inner_batch_size": 10, "inner_batch_size_test": 5, "inner_optimizer": "adam", "inner_loss_reduction": "sum"}
_ADAM |= {"norm": "transductive", "lr_halve_every": 0}
_SGD = {"inner_batch_size": 10, "inner_optimizer": "sgd", "inner_loss_reduction": "mean", "norm": "none"}
_META_LSTM = {"hidden_size": 20, "max_gradient_norm": 0.25, "gate_recursion": "values", "norm": "episode"}
_META_LSTM |= {"norm_eps": 0.001}
_COSINES = {"learnable_scale": False, "norm": "running"}
_CONTEXT = {"num_context_steps": 3, "first_read_out": "mean", "gradient_clip_val": 0.25}

CONFIGURATIONS = {
    **_rows("maml_", _MAML, first_order=False, **_MAMLS_LOSS),
    **_rows("maml_", _MAML_ONLY, first_order=False, **_MAMLS_LOSS),
    **_rows("fomaml_", _MAML, first_order=True, **_MAMLS_LOSS),
    **_rows("anil_", _ANIL, first_order=False, **_MAMLS_LOSS),
    **_rows("boil_", _BOIL, backbone="conv4", **_MEAN_LOSS),
    **_rows("meta_sgd_", _META_SGD, **_MEAN_LOSS),
    **_rows("metagan_", _METAGAN, classifier="maml", **_GAME, **_MAMLS_LOSS),
    **_rows("metagan_relation_net_", _RELATION_NET, classifier="relation_net", **_GAME, **_RELATIONS),
    **_rows("metagan_relation_net_", _METAGAN_UNLABELLED, classifier="relation_net", **_GAME, **_RELATIONS),
    **_rows("platipus_", _PLATIPUS, first_order=False, **_SAMPLES, **_MAMLS_LOSS),
    **_rows("reptile_", _REPTILE, **_ADAM),
    **_rows("reptile_", _REPTILE_SINUSOID, largest_phase=2 * math.pi, **_SGD),
    **_rows("lstm_meta_learner_", _LSTM_1SHOT, inner_steps=(12, 12), norm_momentum=0.9, **_META_LSTM),
    **_rows("lstm_meta_learner_", _LSTM_5SHOT, inner_steps=(5, 5), norm_momentum=0.95, **_META_LSTM),
    **_rows("matching_net_", _MATCHING_NET, full_context=False, **_COSINES),
    **_rows("matching_net_fce_", _MATCHING_NET_FCE, full_context=True, **_CONTEXT, **_COSINES),
    **_rows("protonet_", _PROTONET, norm="running"),
    **_rows("relation_net_", _RELATION_NET, **_RELATIONS),
    **_rows("relation_net_", _RELATION_NET_CIFAR_FS, **_RELATIONS),
}
# Of the same sources; those of Omniglot, 5-way 1-shot, where a paper has several.
DEFAULTS = {
    "MAML": {"inner_lr": 0.4, "num_inner_steps": 1, "learning_rate": 0.001, "first_order": False, **_MAMLS_LOSS},
    "ANIL": {"inner_lr": 0.4, "num_inner_steps": 1, "learning_rate": 0.001, "first_order": False, **_MAMLS_LOSS},
    "BOIL": {"inner_lr": 0.5, "num_inner_steps": 1, "learning_rate": 0.001, **_MEAN_LOSS},
    "MetaSGD": {"inner_lr": None, "num_inner_steps": 1, "learning_rate": 0.001, **_MEAN_LOSS},
    "MetaGAN": {"inner_lr": 0.4, "num_inner_steps": 1, "learning_rate": 0.001, **_GAME, **_MAMLS_LOSS},
    "PLATIPUS": {"inner_lr": 0.4, "num_inner_steps": 1, "learning_rate": 0.001, **_SAMPLES, **_MAMLS_LOSS},
    "Reptile": {"inner_lr": 0.001, "num_inner_steps": 5, "num_inner_steps_test": 50, "learning_rate": 1.0, **_ADAM},
    "LSTMMetaLearner": {"num_inner_steps": 12, "norm_momentum": 0.9, "learning_rate": 0.001, **_META_LSTM},
    "MatchingNet": {"full_context": False, "num_context_steps": 3, "first_read_out": "zero", **_COSINES},
    "ProtoNet": {"distance": "squared_euclidean", "learning_rate": 0.001, "lr_halve_every": 2000, "norm": "running"},
    "RelationNet": {"learning_rate": 0.001, "lr_halve_every": 100_000, **_RELATIONS},
}

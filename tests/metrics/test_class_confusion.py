"""ClassConfusion against scikit-learn, and by hand."""

import pytest
import torch
from sklearn.metrics import confusion_matrix

from fewshot_pl.metrics import ClassConfusion

NUM_CLASSES, NUM_WAYS, NUM_TASKS, NUM_QUERIES = 7, 3, 10, 6


@pytest.fixture
def batch():
    """Logits, labels and classes of random tasks."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(NUM_TASKS, NUM_QUERIES, NUM_WAYS, generator=generator)
    labels = torch.randint(NUM_WAYS, (NUM_TASKS, NUM_QUERIES), generator=generator)
    classes = torch.stack([torch.randperm(NUM_CLASSES, generator=generator)[:NUM_WAYS] for _ in range(NUM_TASKS)])
    return logits, labels, classes


def counted(*batches):
    confusion = ClassConfusion(NUM_CLASSES)
    for batch in batches:
        confusion.update(*batch)
    return confusion.compute()


def test_answers_are_the_confusion_matrix_of_scikit_learn(batch):
    logits, labels, classes = batch
    true = [int(classes[task, label]) for task in range(NUM_TASKS) for label in labels[task]]
    taken_for = [int(classes[task, query.argmax()]) for task in range(NUM_TASKS) for query in logits[task]]
    expected = confusion_matrix(true, taken_for, labels=range(NUM_CLASSES))
    assert counted(batch)[0].tolist() == expected.tolist()


def test_classes_are_offered_to_the_queries_of_their_tasks():
    labels, classes = torch.tensor([[0, 0, 1], [1, 1, 1]]), torch.tensor([[4, 2], [2, 5]])
    answered, offered = counted((torch.tensor([1.0, 0.0]).expand(2, 3, 2), labels, classes))
    expected = {(4, 4): (2, 2), (4, 2): (0, 2), (2, 4): (1, 1), (2, 2): (0, 1), (5, 2): (3, 3), (5, 5): (0, 3)}
    for row in range(NUM_CLASSES):
        for column in range(NUM_CLASSES):
            pair = int(answered[row, column]), int(offered[row, column])
            assert pair == expected.get((row, column), (0, 0)), (row, column)


def test_batches_add_up_and_unknown_queries_are_left_out(batch):
    logits, labels, classes = batch
    halves = ([tensor[:4] for tensor in batch], [tensor[4:] for tensor in batch])
    for together, apart in zip(counted(batch), counted(*halves), strict=True):
        assert torch.equal(together, apart)
    some = labels.clone()
    some[:, 2:] = -100
    for masked, known in zip(
        counted((logits, some, classes)), counted((logits[:, :2], labels[:, :2], classes)), strict=True
    ):
        assert torch.equal(masked, known)


def test_nothing_is_read_back_from_the_device(batch):
    confusion = ClassConfusion(NUM_CLASSES).to("meta")  # its tensors hold no values to read
    confusion.update(*(tensor.to("meta") for tensor in batch))
    assert confusion.answered.is_meta and confusion.offered.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        confusion.answered.sum().item()

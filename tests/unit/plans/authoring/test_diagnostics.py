"""What authors get wrong: each mistake names its line, the reason and the way out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pygrid
from pygrid.errors import AuthoringError

X = pygrid.Tensor["batch", 12]
Y = pygrid.Label(5)
DATA = {"x": X, "y": Y}


def refused(loss: Callable[..., Any], model: nn.Module | None = None, **options: Any) -> AuthoringError:
    """The error that building gives; checks that its line is the one marked ``# here``."""
    with pytest.raises(AuthoringError) as caught:
        pygrid.plan(data=DATA)(loss).build(model or nn.Linear(12, 5), **options)
    error = caught.value
    lines, first = inspect.getsourcelines(loss)
    marked = [first + i for i, line in enumerate(lines) if "# here" in line]
    if marked:
        assert error.fields["line"] == marked[0]
        assert error.fields["file"] == __file__
        assert f"line {marked[0]}: " in error.detail
        assert lines[marked[0] - first].strip() in error.detail
    return error


def test_a_branch_on_data() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # here
            x = x * 2
        return F.cross_entropy(model(x), y)

    error = refused(loss)
    assert error.code == "plan_data_dependent"
    assert "a plan cannot branch on data; use torch.where" in error.detail


def test_a_number_out_of_a_tensor() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        scale = x.abs().max().item()  # here
        return F.cross_entropy(model(x / scale), y)

    error = refused(loss)
    assert error.code == "plan_item"
    assert "keep it a tensor" in error.detail


@pytest.mark.parametrize(
    "take", [lambda t: float(t), lambda t: int(t), lambda t: t.tolist(), lambda t: t.detach().numpy()]
)
def test_other_ways_to_take_a_number(take: Callable[[torch.Tensor], Any]) -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        take(x.abs().max())
        return F.cross_entropy(model(x), y)

    assert refused(loss).code == "plan_item"


def test_a_boolean_mask() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        right = model(x)[y > 2]  # here
        return right.mean()

    error = refused(loss)
    assert error.code == "plan_data_dependent_size"
    assert "the size of the result depends on data; multiply by a mask" in error.detail


@pytest.mark.parametrize(
    "pick", [torch.nonzero, torch.unique, lambda t: torch.masked_select(t, t > 0), lambda t: torch.where(t)]
)
def test_other_sizes_that_depend_on_data(pick: Callable[[torch.Tensor], Any]) -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pick(x)
        return F.cross_entropy(model(x), y)

    assert refused(loss).code == "plan_data_dependent_size"


def test_a_python_loop_over_the_batch() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        rows = [model(x[i]) for i in range(x.shape[0])]  # here
        return F.cross_entropy(torch.stack(rows), y)

    error = refused(loss)
    assert error.code == "plan_batch_baked"
    assert "fixes the batch size to 7" in error.detail


def test_a_loop_over_the_rows_of_a_tensor() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        total = sum(model(row).sum() for row in x)  # here
        return total / 5

    assert refused(loss).code == "plan_batch_baked"


def test_a_branch_on_the_batch_size() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 3:  # here
            return F.cross_entropy(model(x), y)
        return F.cross_entropy(model(x), y) * 2

    error = refused(loss)
    assert error.code == "plan_batch_baked"
    assert "this depends on the batch size" in error.detail


def test_batch_norm_in_a_private_job() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    error = refused(loss, nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5)), private=True)
    assert error.code == "plan_not_private"
    assert "use GroupNorm or LayerNorm for private jobs" in error.detail


def test_a_contrastive_loss_in_a_private_job() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (model(x) @ model(x).t()).mean()

    assert "influence each other" in refused(loss, private=True).detail


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("linalg_inv", lambda t: torch.linalg.inv(t.view(-1, 3, 4)[:, :, :3])),
        ("fft", lambda t: torch.fft.rfft(t).abs()),
        ("cummax", lambda t: t.cummax(1)[0]),
    ],
)
def test_an_operator_that_is_not_in_the_set(name: str, use: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return use(x + 0.1 * torch.eye(12).sum(0)).mean() + F.cross_entropy(model(x), y)

    error = refused(loss)
    assert error.code == "plan_operator_unsupported"
    assert name in error.detail
    assert "is not in the plan set" in error.detail
    assert "docs/reference/plan-format.md" in error.detail


def test_an_unsupported_operator_names_its_line() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = model(x)
        h = h.cummax(1)[0]  # here
        return F.cross_entropy(h, y)

    refused(loss)


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


def test_a_packed_sequence() -> None:
    layer = nn.LSTM(4, 6, batch_first=True)

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((x.shape[0],), 3)
        packed = nn.utils.rnn.pack_padded_sequence(x.view(-1, 3, 4), lengths, batch_first=True)  # here
        return model(packed)[0].data.mean()

    error = refused(loss, layer)
    assert error.code == "plan_recurrent"
    assert "use pygrid.run_with_lengths(layer, x, lengths)" in error.detail


def test_a_packed_sequence_whose_lengths_can_be_0() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(  # here
            x.view(-1, 3, 4), y * 0, batch_first=True, enforce_sorted=False
        )
        return model(packed)[0].data.mean()

    error = refused(loss, nn.LSTM(4, 6, batch_first=True))
    assert error.code == "plan_recurrent"
    assert "use pygrid.run_with_lengths(layer, x, lengths)" in error.detail


def test_a_product_over_the_batch() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y) + x.prod(0).mean()  # here

    error = refused(loss)
    assert error.code == "plan_operator_unsupported"
    assert "take it along another axis" in error.detail


@pytest.mark.parametrize(
    ("use", "way_out"),
    [
        (lambda x: F.embedding_bag(x[:, 0].long() * 0, torch.ones(3, 2), torch.arange(2)), "filled with padding_idx"),
        (lambda x: F.embedding_bag(x.long() * 0, torch.ones(3, 2), max_norm=1.0), "leave them out"),
        (
            lambda x: F.ctc_loss(x.t()[..., None].expand(-1, -1, 3), *[x[:, 0].long() * 0 + 1] * 3),
            "of shape [batch, length]",
        ),
        (lambda x: x.scatter_reduce(1, x.long() * 0, x, "prod"), "add logarithms with scatter_add"),
        (
            lambda x: x.scatter(1, x.long() * 0, 2.0, reduce="add"),
            "operator scatter is not in the plan set",
        ),
        (
            lambda x: F.grid_sample(x[:, None, None], x[:, None, None, :2], "bicubic", align_corners=False),
            "grid_sample with bicubic, zeros is not in the plan set; use bilinear",
        ),
        (lambda x: torch.polygamma(2, x + 1), "operator polygamma is not in the plan set"),
    ],
)
def test_a_variant_that_is_not_in_the_set(use: Callable[[torch.Tensor], torch.Tensor], way_out: str) -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y) + use(x).mean()

    error = refused(loss)
    assert error.code == "plan_operator_unsupported"
    assert way_out in error.detail


def test_a_number_of_largest_elements_that_follows_the_batch() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        losses = F.cross_entropy(model(x), y, reduction="none")
        return losses.topk(x.shape[0] // 2).values.mean()  # here

    assert "topk takes a number that depends on the batch size here; take a fixed number" in refused(loss).detail


def test_fractional_pooling() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        pooled = F.fractional_max_pool2d(x.reshape(-1, 1, 3, 4), 2, (1, 2))  # here
        return F.cross_entropy(model(x), y) + pooled.mean()

    error = refused(loss)
    assert error.code == "plan_random"
    assert "use max_pool or adaptive_max_pool" in error.detail


def test_a_gradient_that_torch_cannot_trace(capfd: pytest.CaptureFixture[str]) -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        images = (x * model.weight[0]).reshape(-1, 1, 3, 4)  # type: ignore[index]
        large = F.interpolate(images, (2, 3), mode="bicubic", antialias=True)  # here
        return F.cross_entropy(model(x), y) + large.mean()

    error = refused(loss)
    assert error.code == "plan_loss"
    assert "the gradient of UpsampleBicubic2DAa cannot be computed" in error.detail
    assert "Use another operator here" in error.detail
    assert not capfd.readouterr().err


def test_warnings_of_torch_come_once() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.nll_loss(F.log_softmax(model(x)), y)  # without the axis

    with pytest.warns(UserWarning, match="Implicit dimension choice for log_softmax") as seen:
        pygrid.plan(data=DATA)(loss).build(nn.Linear(12, 5))
    assert len(seen) == 1


def test_a_sequence_too_long_to_unroll() -> None:
    with pytest.raises(AuthoringError, match="at most 128 are allowed"):
        pygrid.plan(data={"x": pygrid.Tensor["batch", 200, 4]})(lambda model, x: model(x)[0].mean()).build(
            nn.GRU(4, 2, batch_first=True)
        )


def test_a_sequence_along_the_batch() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return model(x.view(-1, 3, 4))[0].mean()  # here

    assert "use batch_first=True" in refused(loss, nn.GRU(4, 2)).detail


def test_code_that_fails_by_itself_reads_as_such() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x[:, :3]), y)  # here

    error = refused(loss)
    assert error.code == "plan_source_fails"
    assert "fails on a batch of 5 even without tracing: RuntimeError" in error.detail


def test_a_dtype_outside_the_set() -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x).double(), y).float()

    error = refused(loss)
    assert error.code == "plan_dtype"
    assert "float64 is not in the plan set" in error.detail


def test_a_large_constant_belongs_in_the_model() -> None:
    table = torch.rand(600, 600)

    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y) + table.sum(1).mean() * 0 + (x.sum() * table).mean()

    error = refused(loss)
    assert error.code == "plan_constant_too_large"
    assert "register it as a buffer of the model" in error.detail


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda loss: loss.repeat(3), "must be a single number"),
        (lambda loss: 3.0, "must return the loss"),
        (lambda loss: (loss, {"a": 1.0}), "metric 'a' is a float; keep it a tensor"),
        (lambda loss: (loss, {"a": loss.repeat(2)}), "must be a single number"),
        (lambda loss: loss.detach(), "does not depend on any parameter"),
        (lambda loss: (loss * 2).long(), "must be a floating-point number"),
    ],
)
def test_what_a_loss_may_return(result: Callable[[torch.Tensor], Any], words: str) -> None:
    def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Any:
        return result(F.cross_entropy(model(x), y))

    error = refused(loss)
    assert error.code == "plan_loss"
    assert words in error.detail
    assert error.fields["line"] == inspect.getsourcelines(loss)[1]


def test_arguments_must_be_ports() -> None:
    def too_many(model: nn.Module, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return model(x).mean()

    def too_few(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).mean()

    assert "argument 'z' is neither in data= nor in hyper=" in refused(too_many).detail
    assert "data 'y' is declared, but" in refused(too_few).detail


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pygrid.Tensor[3, 4], 'must be "batch"'),
        (lambda: pygrid.Tensor["batch", 0], "at least 1"),
        (lambda: pygrid.Integers["batch", 4](0), "at least 1"),
        (lambda: pygrid.Label(-1), "at least 1"),
        (lambda: pygrid.Float(2.0, min=0.0, max=1.0), "min <= default <= max"),
        (lambda: pygrid.Float(float("nan")), "finite"),
        (lambda: pygrid.plan(data={"x": 3})(plain), "pygrid.plans.authoring.ports lists"),
        (lambda: pygrid.plan(plain), 'write @pygrid.plan(data={"x": '),
        (lambda: pygrid.train_step(), 'write @pygrid.train_step(data={"x": '),
        (lambda: pygrid.averaging_plan(plain), "write @pygrid.averaging_plan()"),
        (lambda: pygrid.plan(data=DATA, optimizer=None), "write LOSS.build(model, optimizer=...)"),
        (lambda: pygrid.plan(data=DATA, hypr={}), "did you mean 'hyper'?"),
        (lambda: pygrid.optim.SGD(0.1), "the learning rate is not one of them"),
        (lambda: pygrid.optim.Adam(lr=0.1), 'hyper={"lr": pygrid.Float(0.1)}'),
        (lambda: pygrid.optim.Adam(momentm=0.9), "Adam has no field 'momentm'"),
        (lambda: pygrid.optim.SGD(momentum=1.0), "momentum must be in"),
        (lambda: pygrid.optim.SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: pygrid.optim.Adam(beta1=1.0), "beta1 and beta2"),
        (lambda: pygrid.optim.SGD(prox_mu=-1.0), "prox_mu must be at least 0"),
        (lambda: pygrid.optim.SGD(max_grad_norm=0.0), "max_grad_norm must be above 0"),
        (lambda: pygrid.plan(data=DATA)(plain).build(nn.ReLU()), "nothing to train"),
        (lambda: pygrid.plan(data=DATA)(plain).build(lambda x: x), "needs a torch.nn.Module"),
        (lambda: pygrid.plan(data=DATA, metrics={"hits": "sum"})(plain).build(nn.Linear(12, 5)), "does not return"),
    ],
)
def test_declarations(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(AuthoringError) as caught:
        make()
    assert words in caught.value.detail

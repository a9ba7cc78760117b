"""Several ranks compute what one device would, in steps on 1, 2 and 4 ranks; also tests their collectives."""

from __future__ import annotations

import functools
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.ranks import on_ranks
from tests.trainer.gan.test_step import (
    BATCH,
    COARSE,
    classes_of,
    conditional,
    create,
    drawn,
    in_parts,
    labelled,
    manifest,
    noise,
    penalised,
    reals,
    small,
)
from trainer.config import Config
from trainer.gan.optimizer import Tensors
from trainer.gan.state import State, create_state
from trainer.gan.step import Step
from trainer.ranks.launch import read_launch
from trainer.ranks.process_group import StopVote, check_equal, create_accelerator, fingerprints, wrap
from trainer.recipe import Penalty, Schedule

STEPS = 20
RUNS = {
    "float64": small(dtype="float64"),
    "coarse and conditional": replace(conditional(COARSE), dtype="float64"),
    "R1 alone": replace(COARSE, dtype="float64", penalty=Penalty(r1=1.0), schedule=Schedule()),
    "residual": replace(COARSE, dtype="float64", model=replace(COARSE.model, kind="residual")),
    "residual and conditional": replace(
        conditional(COARSE), dtype="float64", model=replace(COARSE.model, kind="residual", conditional=True)
    ),
    "batch norm in parts": replace(conditional(small(dtype="float64", d_steps=2)), accumulate=4),
    **{
        f"{parts} parts": penalised(dtype="float64", d_steps=2, augment=COARSE.augment, accumulate=parts)
        for parts in (2, 4)
    },
}
"""Runs in float64 by their names: the first of ``STEPS`` steps, the others of half. One rank takes whole batches, but
with BatchNorm, which normalises each part alone, the same parts."""
HALVES = (
    small(),
    conditional(penalised(every=1)),
    penalised(every=1, model=COARSE.model, augment=COARSE.augment),
)
EXCHANGES = ((1, 1), (3, 2))  # updates of the discriminator in a step, and parts of a batch
COMPARED = ("loss/d", "penalty/r1", "penalty/r2")


def rows(batch: torch.Tensor) -> torch.Tensor:
    """This rank's rows of a batch, or of a part of one."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return batch[rank * len(batch) // ranks : (rank + 1) * len(batch) // ranks]


def shares(config: Config, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """This rank's rows of each part of the batches."""
    return [rows(part) for part in in_parts(config, batches)]


def join(config: Config) -> tuple[Any, State, Step]:
    """This rank's part of a run."""
    accelerator = create_accelerator(config, read_launch(), "no")
    state = create_state(config, manifest().size, manifest().channels, accelerator.device, classes=classes_of(config))
    return accelerator, state, Step(state, *wrap(accelerator, state, sync_bn=True), config)


def mean(value: torch.Tensor) -> float:
    if dist.is_initialized():
        dist.all_reduce(value := value.clone())
        value /= dist.get_world_size()
    return float(value)


def train(state: State, step: Step, steps: int, dtype: torch.dtype) -> tuple[list[list[float]], dict[str, Tensors]]:
    """Losses, scores and gradient norms of each step, and every tensor at the end."""
    figures = []
    for number in range(steps):
        numbers = range(number * (k := step.config.d_steps), (number + 1) * k)
        batches = [[batch(n, dtype) for n in numbers] for batch in (reals, noise)]
        batches += [[values for n in numbers for values in draw(step.config, n)] for draw in (drawn, labelled)]
        metrics = step(*[shares(step.config, column) for column in batches], report=True)
        figures.append([mean(metrics[name]) for name in sorted(metrics)])
        state.step += 1
        state.position += BATCH * k
        state.update_average(BATCH, 1000)
    return figures, state.tensors()


def distributed() -> dict[str, Any]:
    """Everything that the tests below check, in one start of the ranks."""
    accelerator, state, step = join(small(dtype="float64"))
    result: dict[str, Any] = {"float64": train(state, step, STEPS, torch.float64)}
    check_equal(accelerator, state.tensors(), STEPS, state.position)
    result["names"] = sorted(state.generator.state_dict()) + sorted(state.discriminator.state_dict())
    result["vote"] = stop_vote(accelerator.num_processes)
    result["late"] = late_vote(accelerator.num_processes)
    if accelerator.process_index == 1:
        next(state.generator.parameters()).data.view(torch.int64)[0] ^= 1  # one bit
    try:
        check_equal(accelerator, state.tensors(), STEPS, state.position)
    except RuntimeError as error:
        result["drift"] = str(error)
    for name, config in list(RUNS.items())[1:]:
        accelerator, state, step = join(config)
        result[name] = train(state, step, STEPS // 2, torch.float64)
        check_equal(accelerator, state.tensors(), state.step, state.position)
    _, state, step = join(small())
    step([rows(reals(0))], [rows(noise(0))], report=False)
    result["gradients"] = gradients(state)
    result["count"] = {d_steps: count(d_steps, accumulate) for d_steps, accumulate in EXCHANGES}
    result["plain"] = plain()
    result["loose"] = loose()
    result["half"] = [half(config) for config in HALVES]
    result["casts"] = casts()
    return result


def loose() -> list[float]:
    """Each rank with BatchNorm of its own rows: parameters stay equal, statistics do not. The buffers' spread."""
    config = small()
    accelerator = create_accelerator(config, read_launch(), "no")
    state = create_state(config, manifest().size, manifest().channels, accelerator.device)
    step = Step(state, *wrap(accelerator, state, sync_bn=False), config)
    for number in range(2):
        step([rows(reals(number))], [rows(noise(number))], report=False)
    shared = {"d": dict(state.discriminator.named_parameters()), "g": dict(state.generator.named_parameters())}
    check_equal(accelerator, shared, 2, 0)
    mine = torch.cat([value.flatten() for name, value in state.discriminator.named_buffers() if "running" in name])
    return [float(spread) for spread in (accelerator.gather(mine[None]).std(0))]


def half(config: Config) -> list[float]:
    """Losses of two steps under bf16 autocast."""
    AcceleratorState._reset_state()
    accelerator = create_accelerator(config, read_launch(), "bf16")
    state = create_state(config, manifest().size, manifest().channels, accelerator.device, classes=classes_of(config))
    step = Step(state, *wrap(accelerator, state, sync_bn=True), config)
    figures = []
    for number in range(2):
        more = [[rows(values) for values in draw(config, number)] for draw in (drawn, labelled)]
        figures.append(step([rows(reals(number))], [rows(noise(number))], *more, report=False))
    return [mean(value) for row in figures for name, value in row.items() if name in COMPARED]


class Casts(TorchDispatchMode):
    """Counts casts to bf16 by the address of what is cast."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.counts[args[0].data_ptr()] += 1
        return function(*args, **(kwargs or {}))


def casts() -> list[list[int]]:
    """How often a step under bf16 autocast casts each matrix or kernel of G and of D."""
    AcceleratorState._reset_state()
    accelerator = create_accelerator(config := small(), read_launch(), "bf16")
    state = create_state(config, manifest().size, manifest().channels, accelerator.device)
    step = Step(state, *wrap(accelerator, state, sync_bn=True), config)
    with Casts() as found:
        step([rows(reals(0))], [rows(noise(0))], report=False)
    networks = (state.generator, state.discriminator)
    return [[found.counts[p.data_ptr()] for p in network.parameters() if p.dim() > 1] for network in networks]


def gradients(state: State) -> list[torch.Tensor]:
    """As they stand after the step: of both networks."""
    networks = (state.generator, state.discriminator)
    return [p.grad.clone() for network in networks for p in network.parameters() if p.grad is not None]


def stop_vote(ranks: int) -> list[bool]:
    """The last rank votes to stop in its fourth step."""
    vote = StopVote(ranks)
    results = [vote.vote(number == 3 and dist.get_rank() == ranks - 1) for number in range(6)]
    vote.close()
    return results


def late_vote(ranks: int) -> tuple[list[bool], bool]:
    """The last rank has no data for its fourth step and votes to stop before it, and again after a return to another
    step, for which all had data. Whether the others waited for it.
    """
    vote, last, calls = StopVote(ranks), dist.get_rank() == ranks - 1, []
    results = []
    for number in range(4):
        if last and number == 3:
            time.sleep(1.5)
        results.append(vote.vote(last and number == 3, not (last and number == 2), lambda: calls.append(0)))
    vote.vote(False)
    vote.restart()
    results.append(vote.vote(last))
    vote.close()
    return results, last or bool(calls)


@pytest.fixture(scope="module", params=[2, 4], ids="{} ranks".format)
def results(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return on_ranks(request.param, distributed)


@functools.cache
def one_rank(name: str) -> tuple[list[list[float]], dict[str, Tensors]]:
    config = RUNS[name] if name == "batch norm in parts" else replace(RUNS[name], accumulate=1)
    return train(*create(config), STEPS if name == "float64" else STEPS // 2, torch.float64)


@pytest.mark.parametrize("name", RUNS)
def test_float64_agrees_with_one_rank(results: list[dict[str, Any]], name: str) -> None:
    figures, tensors = one_rank(name)
    for result in results:
        for mine, one in zip(result[name][0], figures, strict=True):
            assert mine == pytest.approx(one, rel=0, abs=1e-10)
        for group, values in tensors.items():
            for key, value in values.items():
                torch.testing.assert_close(result[name][1][group][key], value, rtol=0, atol=1e-9)


def test_autocast_casts_weights_once_for_both_forward_passes(results: list[dict[str, Any]]) -> None:
    """Those of D again in G's step, after their update."""
    for result in results:
        generator, discriminator = result["casts"]
        assert set(generator) == {1} and set(discriminator) == {2}


def test_float32_gradients_of_the_first_step_agree_with_one_rank(results: list[dict[str, Any]]) -> None:
    state, step = create(small())
    step([reals(0)], [noise(0)], report=False)
    for result in results:
        for mine, one in zip(result["gradients"], gradients(state), strict=True):
            torch.testing.assert_close(mine, one, rtol=0, atol=1e-5)


def test_without_synchronised_statistics_the_weights_agree_all_the_same(results: list[dict[str, Any]]) -> None:
    assert all(max(result["loose"]) > 0 for result in results)


@pytest.mark.parametrize("number", range(len(HALVES)))
def test_bf16_is_float32_to_its_own_precision(results: list[dict[str, Any]], number: int) -> None:
    """Eight bits of mantissa; the second loss has been through both networks' update."""
    _, step = create(config := HALVES[number])
    more = [(drawn(config, n), labelled(config, n)) for n in range(2)]
    metrics = [step([reals(n)], [noise(n)], *more[n], report=False) for n in range(2)]
    expected = [value.item() for part in metrics for name, value in part.items() if name in COMPARED]
    for result in results:
        assert result["half"][number] == pytest.approx(expected, rel=0.02)
        assert result["half"][number] != expected


def test_the_names_are_those_of_one_rank(results: list[dict[str, Any]]) -> None:
    state, _ = create(small())
    names = sorted(state.generator.state_dict()) + sorted(state.discriminator.state_dict())
    assert all(result["names"] == names for result in results)


def test_all_ranks_stop_at_the_same_step(results: list[dict[str, Any]]) -> None:
    assert all(result["vote"] == [False, False, False, False, True, False] for result in results)


def test_no_rank_begins_a_step_whose_data_another_lacks(results: list[dict[str, Any]]) -> None:
    assert all(result["late"] == ([False, False, False, True, True], True) for result in results)


def test_a_bit_that_drifts_is_noticed_and_named(results: list[dict[str, Any]]) -> None:
    assert all("drifted apart by step 20, in generator." in result["drift"] for result in results)


def count(d_steps: int, accumulate: int) -> tuple[list[str], list[int]]:
    """The exchanges of gradients in three iterations, in their order, and their sizes."""
    step = join(config := replace(small(d_steps=d_steps), accumulate=accumulate))[2]
    calls: list[str] = []
    sizes: list[int] = []

    def hook(name, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations and takes no strings
        calls.append(name)
        sizes.append(bucket.buffer().numel())
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0] / dist.get_world_size())

    for name, network in (("g", step.generator), ("d", step.discriminator)):
        assert isinstance(network, DistributedDataParallel)
        network.register_comm_hook(name, hook)
    for number in range(3):
        numbers = range(number * d_steps, (number + 1) * d_steps)
        step(*[shares(config, [batch(n) for n in numbers]) for batch in (reals, noise)], report=False)
    return calls, sizes


@pytest.mark.parametrize("d_steps", [d_steps for d_steps, _ in EXCHANGES])
def test_gradients_are_exchanged_once_a_step_of_their_network(results: list[dict[str, Any]], d_steps: int) -> None:
    """None of the discriminator's in the generator's step."""
    state, _ = create(small())
    networks = (("g", state.generator), ("d", state.discriminator))
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks}
    for calls, sizes in (result["count"][d_steps] for result in results):
        assert calls == 3 * (d_steps * ["d"] + ["g"])
        assert sizes == [parameters[name] for name in calls]


def plain() -> dict[str, torch.Tensor]:
    _, state, step = join(small())
    return {f"{group}.{name}": value for group, values in train(state, step, 5, torch.float32)[1].items()
            for name, value in values.items()}  # fmt: skip


@pytest.mark.parametrize("results", [2], indirect=True, ids="{} ranks".format)
def test_two_runs_are_bit_equal(results: list[dict[str, Any]]) -> None:
    (again, *_) = on_ranks(len(results), plain, fresh=True)
    for result in results:
        assert all(torch.equal(value, again[name]) for name, value in result["plain"].items())


def test_a_fingerprint_knows_bits() -> None:
    ones = {"a": {"x": torch.ones(3), "n": torch.ones((), dtype=torch.int64)}, "b": {"y": torch.zeros(2)}}
    twin = {name: {key: tensor.clone() for key, tensor in group.items()} for name, group in ones.items()}
    assert torch.equal(fingerprints(ones), fingerprints(twin))
    twin["b"]["y"][1] = -0.0
    assert (fingerprints(ones) != fingerprints(twin)).tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_fingerprint_knows_signs_and_places_in_every_tensor(dtype: torch.dtype) -> None:
    def of(*second: float) -> torch.Tensor:
        return fingerprints({"a": {"first": torch.ones(3, dtype=dtype), "second": torch.tensor(second, dtype=dtype)}})

    assert torch.equal(of(1.0, 2.0), of(1.0, 2.0))
    for other in ((-1.0, 2.0), (1.0, -2.0), (2.0, 1.0)):
        assert not torch.equal(of(1.0, 2.0), of(*other))


def test_one_rank_stops_at_its_own_vote() -> None:
    vote = StopVote(1)
    assert [vote.vote(False), vote.vote(True), vote.vote(False)] == [False, True, False]
    vote.close()

"""Which weights each synaptic filter removes, against the plain loops of reference.py."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import on_every_device
from torch import Tensor

from fss_core.filters import (
    HISTOGRAM_BINS,
    UNFILTERED,
    LayerFilters,
    Removal,
    high_pass,
    layer_thresholds,
    low_pass,
    pulse,
    pulse_edges,
)
from fss_core.specs import SYNAPTIC_FILTERS, FilterRow

ROWS = [FilterRow(filter=name) for name in SYNAPTIC_FILTERS]
CONTROLS = [FilterRow(filter="random", draw=draw) for draw in range(3)]

ties = st.sampled_from([-1.0, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 1.0, 2**-149, -(2**-149)])
anything = st.floats(-4, 4, width=32)
num_thresholds = st.integers(2, 9)


@st.composite
def weights(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Weights with ties, negative zeros, constant layers, and values planted on thresholds and pulse edges; and A."""
    number = draw(num_thresholds)
    values = draw(st.lists(st.one_of(ties, anything), min_size=1, max_size=20))
    if draw(st.booleans()):
        places = [*layer_thresholds(torch.tensor(values), number)]
        places += [edge for edge in pulse_edges(np.array(places)) if math.isfinite(edge)]
        values += draw(st.lists(st.sampled_from(places), max_size=8))
    weight = torch.tensor(values, dtype=torch.float32)
    if draw(st.booleans()):
        weight = weight.repeat(2).reshape(-1, 2, 1, 1)
    return weight, number


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """As ``weights``, with a mask of live ones."""
    weight, number = draw(weights())
    live = draw(st.lists(st.booleans(), min_size=weight.numel(), max_size=weight.numel()))
    return weight, torch.tensor(live).view_as(weight), number


def make(
    weight: Tensor,
    number: int,
    live: Tensor | None = None,
    *,
    name: str = "layer",
    seed: int = 0,
    device: str = "cpu",
) -> LayerFilters:
    mask = torch.ones_like(weight, dtype=torch.bool) if live is None else live
    return LayerFilters(weight, mask, num_thresholds=number, name=name, seed=seed, device=device)


def mask_of(filters: LayerFilters, removal: Removal) -> Tensor:
    """Which weights are kept, read off a layer whose weights are all different from zero."""
    ones = copy.copy(filters)
    ones.weight = torch.ones_like(filters.weight)
    return ones.apply(removal) != 0


def bits(tensor: Tensor) -> bytes:
    """The exact bits: negative zero is not zero."""
    return tensor.numpy().tobytes()


# Thresholds and edges -------------------------------------------------------------------------------------


@given(weights())
def test_thresholds_and_edges_equal_the_reference(case: tuple[Tensor, int]) -> None:
    weight, number = case
    assert layer_thresholds(weight, number).tolist() == reference.thresholds(weight, number)
    assert pulse_edges(layer_thresholds(weight, number)).tolist() == reference.pulse_edges(weight, number)


@given(weights())
def test_thresholds_end_exactly_at_the_smallest_and_the_largest_weight(case: tuple[Tensor, int]) -> None:
    weight, number = case
    thresholds = layer_thresholds(weight, number)
    assert thresholds.dtype == np.float64
    assert (thresholds[0], thresholds[-1]) == (float(weight.min()), float(weight.max()))
    assert (np.diff(thresholds) >= 0).all()


def test_thresholds_are_of_signed_weights_and_twenty_five() -> None:
    thresholds = layer_thresholds(torch.tensor([-3.0, 9.0]))
    assert thresholds.tolist() == [-3.0 + 0.5 * k for k in range(25)]


@pytest.mark.parametrize("number", [1, 0, -3])
def test_fewer_than_two_thresholds_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^num_thresholds must be at least 2, got {number}$"):
        layer_thresholds(torch.tensor([0.0, 1.0]), number)
    with pytest.raises(ValueError, match="num_thresholds"):
        make(torch.tensor([0.0, 1.0]), number)


# The pure filters -----------------------------------------------------------------------------------------


@given(weights(), st.data())
def test_high_pass_low_pass_and_the_tie_make_the_weights(case: tuple[Tensor, int], data: st.DataObject) -> None:
    weight, number = case
    threshold = data.draw(st.one_of(st.sampled_from(layer_thresholds(weight, number).tolist()), st.floats(-5, 5)))
    tie = torch.where(weight.double() == threshold, weight, torch.zeros_like(weight))
    assert torch.equal(high_pass(weight, threshold) + low_pass(weight, threshold) + tie, weight)
    assert not ((high_pass(weight, threshold) != 0) & (low_pass(weight, threshold) != 0)).any()


@given(weights())
def test_pulses_remove_each_weight_exactly_once(case: tuple[Tensor, int]) -> None:
    weight, number = case
    filters = make(weight, number)
    kept = torch.stack([mask_of(filters, filters.removal(ROWS[2], k)) for k in range(number)])
    assert torch.equal((~kept).sum(0), torch.ones_like(weight, dtype=torch.int64))


def test_a_constant_layer_belongs_to_the_last_pulse() -> None:
    filters = make(torch.full((5,), 0.25), 4)
    removed = [5 - filters.num_kept(filters.removal(ROWS[2], k))[0] for k in range(4)]
    assert removed == [0, 0, 0, 5]


def test_strictness_by_hand() -> None:
    weight = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert high_pass(weight, 0.5).tolist() == [0, 0, 0, 0, 1]
    assert low_pass(weight, -0.5).tolist() == [-1, 0, 0, 0, 0]
    assert pulse(weight, -0.5, 0.5).tolist() == [-1, 0, 0, 0.5, 1]
    assert pulse(weight, 0.25, 0.25).tolist() == weight.tolist()


def test_weights_are_compared_in_float64() -> None:
    weight = torch.tensor([0.1])  # 0.1 as float32 lies above 0.1 as float64
    assert high_pass(weight, 0.1).item() != 0
    assert low_pass(weight, 0.1).item() == 0
    assert low_pass(weight, float(weight.double()) + 1e-12).item() != 0


def test_the_weights_handed_in_stay() -> None:
    weight = torch.tensor([[-1.0, 0.5], [0.25, 1.0]])
    before = bits(weight)
    for result in (high_pass(weight, -2.0), low_pass(weight, 2.0), pulse(weight, 5.0, 6.0)):
        assert result.data_ptr() != weight.data_ptr()
        result.fill_(9)
    filters = make(weight, 5)
    for row in [*ROWS, *CONTROLS]:
        filters.apply(filters.removal(row, 2)).fill_(9)
    assert bits(weight) == before


@pytest.mark.parametrize(
    "call",
    [
        lambda weight: high_pass(weight, math.nan),
        lambda weight: low_pass(weight, math.nan),
        lambda weight: pulse(weight, math.nan, 1.0),
        lambda weight: pulse(weight, 0.0, math.nan),
    ],
)
def test_a_threshold_that_is_nan_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"^threshold must be a number, got NaN$"):
        call(torch.zeros(3))  # type: ignore[operator]


# All filters of a layer -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(weights())
@on_every_device
def test_filtering_equals_the_reference_and_the_pure_functions(device: str, case: tuple[Tensor, int]) -> None:
    weight, number = case
    filters = make(weight, number, device=device)
    thresholds = layer_thresholds(weight, number)
    edges = pulse_edges(thresholds)
    assert filters.thresholds.tolist() == thresholds.tolist()
    for row, k in itertools.product(ROWS, range(number)):
        removal = filters.removal(row, k)
        expected = {
            "high_pass": lambda k=k: high_pass(weight, thresholds[k]),
            "low_pass": lambda k=k: low_pass(weight, thresholds[k]),
            "pulse": lambda k=k: pulse(weight, edges[k], edges[k + 1]),
        }[row.filter]()
        keeps = reference.keep_mask(weight, row.filter, k, number)
        assert bits(filters.apply(removal).cpu()) == bits(expected) == bits(weight.masked_fill(~keeps, 0))
        assert filters.num_kept(removal)[0] == int(keeps.sum())


@settings(max_examples=60)
@given(layers())
def test_counts_of_live_weights(case: tuple[Tensor, Tensor, int]) -> None:
    weight, live, number = case
    filters = make(weight, number, live)
    assert filters.num_live == int((live & (weight != 0)).sum())
    for row, k in itertools.product([*ROWS, *CONTROLS], range(number)):
        removal = filters.removal(row, k)
        keeps = mask_of(filters, removal)
        assert filters.num_kept(removal) == (int(keeps.sum()), int((keeps & live & (weight != 0)).sum()))


@settings(max_examples=60)
@given(layers())
@on_every_device
def test_a_signature_names_what_is_left_alive(device: str, case: tuple[Tensor, Tensor, int]) -> None:
    """One signature, one network; and, but for orders that agree by chance, one network, one signature."""
    weight, live, number = case
    filters = make(weight, number, live, device=device)
    left: dict[tuple[int, int, int], bytes] = {}
    for row, k in itertools.product([*ROWS, *CONTROLS], range(number)):
        removal = filters.removal(row, k)
        alive = bits(filters.apply(removal).cpu().masked_fill(~live, 0) + 0.0)
        signature = filters.signature(removal)
        assert left.setdefault(signature, alive) == alive
        assert (signature == UNFILTERED) == (alive == bits(weight.masked_fill(~live, 0) + 0.0))
    by_value = [alive for (order, _, _), alive in left.items() if order == 0]
    assert len(set(by_value)) == len(by_value)


def test_dead_and_zero_weights_make_no_difference_to_a_signature() -> None:
    weight = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    live = torch.tensor([False, True, True, True, False])
    filters = make(weight, 5, live)
    high = [filters.signature(filters.removal(ROWS[0], k)) for k in range(5)]
    low = [filters.signature(filters.removal(ROWS[1], k)) for k in range(5)]
    pulses = [filters.signature(filters.removal(ROWS[2], k)) for k in range(5)]
    assert high[0] == UNFILTERED  # only a dead weight is gone
    assert high[1] == high[2] == pulses[1]  # -1 is gone; then zero too, which changes nothing
    assert high[3] == high[4] == low[0] == low[1]  # all that live are gone
    assert low[4] == pulses[0] == pulses[2] == pulses[4] == UNFILTERED
    assert len({high[1], high[3], low[2], UNFILTERED}) == 4


def test_a_layer_without_live_weights_is_always_unfiltered() -> None:
    filters = make(torch.tensor([-1.0, 0.0, 1.0]), 3, torch.zeros(3, dtype=torch.bool))
    assert {filters.signature(filters.removal(row, k)) for row in [*ROWS, *CONTROLS] for k in range(3)} == {UNFILTERED}


# The random control ---------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(weights())
def test_the_control_removes_as_many_as_high_pass(case: tuple[Tensor, int]) -> None:
    weight, number = case
    filters = make(weight, number)
    for row, k in itertools.product(CONTROLS, range(number)):
        num_removed = weight.numel() - filters.num_kept(filters.removal(row, k))[0]
        assert num_removed == reference.num_removed_by_high_pass(weight, k, number)
        assert int((~mask_of(filters, filters.removal(row, k))).sum()) == num_removed


@given(st.integers(0, 2**40), st.text(max_size=8))
@settings(max_examples=20)
def test_the_control_grows_from_threshold_to_threshold(seed: int, name: str) -> None:
    filters = make(torch.linspace(-1, 1, 30), 6, name=name, seed=seed)
    masks = [mask_of(filters, filters.removal(CONTROLS[1], k)) for k in range(6)]
    assert all((after <= before).all() for before, after in itertools.pairwise(masks))


def test_the_control_is_seeded_and_differs_between_draws_seeds_and_layers() -> None:
    weight = torch.linspace(-1, 1, 200)

    def masks(name: str = "a", seed: int = 0) -> list[bytes]:
        filters = make(weight, 5, name=name, seed=seed)
        return [bits(mask_of(filters, filters.removal(row, 2))) for row in CONTROLS]

    assert masks() == masks()
    chosen = [*masks(), *masks(name="b"), *masks(seed=1)]
    assert len(set(chosen)) == len(chosen)


def test_the_control_does_not_depend_on_what_was_asked_before_nor_on_the_global_seed() -> None:
    weight = torch.linspace(-1, 1, 200)
    first, second = make(weight, 5), make(weight, 5)
    expected = [bits(first.apply(first.removal(row, 3))) for row in CONTROLS]
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    got = [bits(second.apply(second.removal(row, 3))) for row in reversed(CONTROLS)]
    assert got[::-1] == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_the_control_spares_no_weight() -> None:
    """Over many draws every weight is removed about as often as any other."""
    filters = make(torch.linspace(-1, 1, 20), 3)
    draws = [FilterRow(filter="random", draw=draw) for draw in range(400)]
    removed = torch.stack([~mask_of(filters, filters.removal(row, 1)) for row in draws]).double().mean(0)
    assert float(removed.mean()) == 0.5
    assert float((removed - 0.5).abs().max()) < 0.12  # 4.8 standard deviations


# The histogram --------------------------------------------------------------------------------------------


@given(weights())
def test_the_histogram_counts_every_weight_once(case: tuple[Tensor, int]) -> None:
    weight, number = case
    filters = make(weight, number)
    assert filters.histogram.shape == (HISTOGRAM_BINS,)
    assert filters.histogram_edges.shape == (HISTOGRAM_BINS + 1,)
    assert filters.histogram.sum() == weight.numel()
    assert filters.histogram_edges[0] <= float(weight.min()) <= float(weight.max()) <= filters.histogram_edges[-1]
    counts, edges = np.histogram(weight.double().numpy(), bins=HISTOGRAM_BINS)
    assert filters.histogram.tolist() == counts.tolist()
    assert filters.histogram_edges.tolist() == edges.tolist()


def test_the_histogram_by_hand() -> None:
    filters = make(torch.tensor([0.0, 0.0, 0.5, 1.0]), 2)
    assert {int(bin_): int(filters.histogram[bin_]) for bin_ in filters.histogram.nonzero()[0]} == {
        0: 2,
        100: 1,
        199: 1,
    }


@given(weights())
def test_layers_are_measured_from_the_raw_weights_whatever_their_layout(case: tuple[Tensor, int]) -> None:
    weight, number = case
    assume(weight.ndim == 4)
    turned = weight.contiguous(memory_format=torch.channels_last)
    for row in [*ROWS, *CONTROLS]:
        one, other = make(weight, number), make(turned, number)
        removal = one.removal(row, number // 2)
        assert torch.equal(one.apply(removal), other.apply(other.removal(row, number // 2)))

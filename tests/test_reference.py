"""Cases worked by hand that pin the slow reference itself."""

import math

import pytest
import reference
import torch
from scipy import stats
from torch import nn


def linear(weight, bias=None):
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def images(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), 1, 1, len(rows[0]))


def kept(weight, filter_name, num_thresholds):
    """The weights kept at each threshold, in order."""
    return [weight[reference.keep_mask(weight, filter_name, k, num_thresholds)].tolist() for k in range(num_thresholds)]


# Synaptic filters

ON_THE_EDGES = torch.tensor([-1.0, -0.5, 0.0, 0.0, 0.5, 1.0])


def test_thresholds_span_the_signed_weights():
    assert reference.thresholds(torch.tensor([[-3.0, 1.0], [0.0, -1.0]]), 5) == [-3.0, -2.0, -1.0, 0.0, 1.0]


def test_high_pass_removes_ties():
    assert kept(ON_THE_EDGES, "high_pass", 3) == [[-0.5, 0.0, 0.0, 0.5, 1.0], [0.5, 1.0], []]


def test_low_pass_removes_ties():
    assert kept(ON_THE_EDGES, "low_pass", 3) == [[], [-1.0, -0.5], [-1.0, -0.5, 0.0, 0.0, 0.5]]


def test_a_weight_on_an_edge_belongs_to_the_upper_pulse():
    assert reference.pulse_edges(ON_THE_EDGES, 3) == [-math.inf, -0.5, 0.5, math.inf]
    assert kept(ON_THE_EDGES, "pulse", 3) == [
        [-0.5, 0.0, 0.0, 0.5, 1.0],
        [-1.0, 0.5, 1.0],
        [-1.0, -0.5, 0.0, 0.0],
    ]


def test_constant_layer_goes_wholly_to_the_last_pulse():
    constant = torch.full((2, 2), 0.3)
    kept_fractions = [reference.kept_fraction(constant, "pulse", k, 4) for k in range(4)]
    assert kept_fractions == [1.0, 1.0, 1.0, 0.0]
    assert [reference.kept_fraction(constant, "high_pass", k, 4) for k in range(4)] == [0.0] * 4
    assert [reference.kept_fraction(constant, "low_pass", k, 4) for k in range(4)] == [0.0] * 4


def test_weights_are_compared_in_float64():
    weight = torch.tensor([0.0, 0.1, 1.0])  # float32 0.1 is above the float64 threshold 0.1
    assert reference.thresholds(weight, 11)[1] == 0.1
    assert reference.keep_mask(weight, "high_pass", 1, 11).tolist() == [False, True, True]
    assert reference.keep_mask(weight, "low_pass", 1, 11).tolist() == [True, False, False]
    in_double = torch.tensor([0.0, 1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert reference.keep_mask(in_double, "low_pass", 1, 2).tolist() == [True, True, False]


def test_kept_fractions_and_the_number_the_random_control_removes():
    assert reference.kept_fraction(ON_THE_EDGES, "high_pass", 1, 3) == 2 / 6
    assert reference.kept_fraction(ON_THE_EDGES, "pulse", 1, 3) == 3 / 6
    assert [reference.num_removed_by_high_pass(ON_THE_EDGES, k, 3) for k in range(3)] == [1, 4, 6]


def test_the_mask_has_the_shape_of_the_weight():
    weight = torch.arange(24.0).reshape(2, 3, 2, 2)
    mask = reference.keep_mask(weight, "high_pass", 1, 3)
    assert mask.shape == weight.shape
    assert torch.equal(mask, weight > 11.5)


def test_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="random"):
        reference.keep_mask(ON_THE_EDGES, "random", 0, 3)


# Responses


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_responses_of_a_hand_worked_classifier(one_at_a_time):
    model = nn.Sequential(nn.Flatten(), linear([[1.0, 0.0], [0.0, 2.0]]))  # thresholds 0, 1, 2
    pixels = images([1.0, 0.0], [0.0, 1.0], [1.0, 0.9])
    adversarial = images([0.5, 0.3], [1.0, 0.0], [0.0, 1.0])
    responses = reference.accuracy_responses(
        model, pixels, torch.tensor([0, 1, 1]), adversarial, ["1"], reference.FILTERS, 3, one_at_a_time=one_at_a_time
    )
    unchanged = ([0, 1, 1], [1, 0, 1])
    only_the_two = ([0, 1, 1], [1, 0, 1])  # x = (1, 0) has equal logits: class 0
    nothing = only_the_one = ([0, 0, 0], [0, 0, 0])
    assert responses == {
        ("1", "high_pass", 0): unchanged,
        ("1", "high_pass", 1): only_the_two,
        ("1", "high_pass", 2): nothing,
        ("1", "low_pass", 0): nothing,
        ("1", "low_pass", 1): nothing,
        ("1", "low_pass", 2): only_the_one,
        ("1", "pulse", 0): unchanged,
        ("1", "pulse", 1): only_the_two,
        ("1", "pulse", 2): only_the_one,
    }


def test_biases_are_never_filtered():
    model = nn.Sequential(nn.Flatten(), linear([[1.0], [0.0]], bias=[0.0, 0.5]))
    pixels = images([1.0], [0.1])
    responses = reference.accuracy_responses(model, pixels, torch.tensor([0, 1]), pixels, ["1"], ["high_pass"], 2)
    assert responses == {("1", "high_pass", 0): ([0, 1], [0, 1]), ("1", "high_pass", 1): ([1, 1], [1, 1])}


def test_global_scope_gives_each_layer_its_own_thresholds():
    # x = 1: hidden (3, 1), logits (60, 100). Low-pass at the middle, own thresholds 2 and 20: hidden (0, 1), logits
    # (0, 10); thresholds pooled over both layers (15.5) would leave hidden (3, 1), logits (30, 10).
    model = nn.Sequential(nn.Flatten(), linear([[3.0], [1.0]]), linear([[10.0, 30.0], [30.0, 10.0]]))
    pixels = images([1.0])
    arguments = (model, pixels, torch.tensor([1]), pixels, ["1", "2"], ["low_pass"], 3)
    local = reference.accuracy_responses(*arguments)
    assert local["1", "low_pass", 1] == ([0], [0])
    assert local["2", "low_pass", 1] == ([0], [0])
    everywhere = reference.global_accuracy_responses(*arguments)
    assert list(everywhere) == [("low_pass", 0), ("low_pass", 1), ("low_pass", 2)]
    assert everywhere["low_pass", 1] == ([1], [1])


def test_the_network_handed_in_is_measured_in_eval_mode_and_left_alone():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(1.0), linear([[0.0, 1.0], [1.0, 0.0]])).train()
    before = model[2].weight.detach().clone()
    pixels = images([1.0, 0.0])  # in training mode Dropout removes everything: class 0
    assert reference.predictions(model, pixels) == [1]
    responses = reference.accuracy_responses(model, pixels, torch.tensor([1]), pixels, ["2"], ["high_pass"], 2)
    assert responses["2", "high_pass", 0] == ([1], [1])
    assert torch.equal(model[2].weight, before)
    assert model.training


def test_an_adaptive_attack_sees_the_filtered_network():
    model = nn.Sequential(nn.Flatten(), linear([[1.0, 0.0], [0.0, 2.0]]))
    pixels = images([0.2, 0.8])
    attacked = []

    def attack(network, pixels, labels):
        assert not network.training
        assert labels.tolist() == [1]
        attacked.append(network[1].weight.tolist())
        return 1 - pixels

    responses = reference.accuracy_responses(model, pixels, torch.tensor([1]), attack, ["1"], ["pulse"], 3)
    assert attacked == [[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]]]
    assert responses["1", "pulse", 0] == ([1], [0])
    assert responses["1", "pulse", 1] == ([1], [1])
    assert responses["1", "pulse", 2] == ([0], [0])


# Attacks: for two classes the gradient is p(other) (W_other - W_label), here of signs (-, +, 0) for label 0.
# (Equal weights other than 0 would leave a gradient of rounding error, whose sign is anyone's guess.)

LINEAR = nn.Sequential(nn.Flatten(), linear([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_fgsm_of_a_linear_model():
    pixels = images([0.5, 0.95, 0.3], [0.5, 0.95, 0.3])
    adversarial = reference.fgsm(LINEAR, pixels, torch.tensor([0, 1]), 0.1)
    torch.testing.assert_close(adversarial, images([0.4, 1.0, 0.3], [0.6, 0.85, 0.3]))


def test_pgd_of_a_linear_model_stays_in_the_ball_and_in_the_pixel_range():
    pixels = images([0.5, 0.95, 0.3], [0.5, 0.95, 0.3], [0.5, 0.02, 0.3])
    labels = torch.tensor([0, 1, 1])
    noise = images([0.1, 0.0, 0.05], [0.0, 0.1, -0.05], [0.1, 0.0, 0.0])
    adversarial = reference.pgd(LINEAR, pixels, labels, epsilon=0.1, steps=3, step_size=0.04, start_noise=noise)
    # 0.6 - 3 × 0.04; 0.95 + 0.12 cut at 1; the noise of the third pixel is never moved. Second image: 0.5 + 0.12 cut
    # at the ball; start 1.05 cut at 1, then 1 - 0.12. Third: 0.64 cut at the ball; 0.02 - 0.04 cut at 0.
    torch.testing.assert_close(adversarial, images([0.48, 1.0, 0.35], [0.6, 0.88, 0.25], [0.6, 0.0, 0.3]))


def test_pgd_without_noise_starts_at_the_image_and_one_full_step_is_fgsm():
    pixels = images([0.5, 0.95, 0.3])
    labels = torch.tensor([0])
    adversarial = reference.pgd(LINEAR, pixels, labels, epsilon=0.1, steps=1, step_size=0.1)
    torch.testing.assert_close(adversarial, reference.fgsm(LINEAR, pixels, labels, 0.1))


class Valley(nn.Module):
    """Logits (-(x - 1/2)², 0): for label 1 the loss grows towards x = 1/2."""

    def forward(self, pixels):
        x = pixels.flatten(1)
        return torch.cat([-((x - 0.5) ** 2), torch.zeros_like(x)], dim=1)


def test_pgd_follows_the_gradient_where_it_stands():
    adversarial = reference.pgd(Valley(), images([0.48]), torch.tensor([1]), epsilon=0.1, steps=3, step_size=0.03)
    torch.testing.assert_close(adversarial, images([0.51]))  # 0.51, 0.48, 0.51; the first gradient thrice gives 0.57


def test_zero_gradient_images():
    model = nn.Sequential(nn.Flatten(), linear([[1.0, 0.0], [0.0, 0.0]], bias=[-0.5, 0.0]), nn.ReLU())
    pixels = images([0.4, 0.9], [0.6, 0.1])  # the first image's only live logit is cut by the ReLU
    assert reference.zero_gradient_images(model, pixels, torch.tensor([0, 0])) == [True, False]


def test_attacks_run_in_eval_mode_and_leave_the_network_alone():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(1.0), LINEAR[1]).train()
    pixels, labels = images([0.5, 0.95, 0.3]), torch.tensor([0])
    torch.testing.assert_close(reference.fgsm(model, pixels, labels, 0.1), images([0.4, 1.0, 0.3]))
    assert model.training
    assert model[2].weight.grad is None


def test_epsilon_grid():
    grid = reference.epsilon_grid()
    assert grid[:5] == pytest.approx([0.25 / 255, 2**0.5 / 4 / 255, 0.5 / 255, 2**0.5 / 2 / 255, 1 / 255])
    assert len(grid) == 20  # 2^(19/2) = 724 is within 4 × 255 = 1020, 2^10 is not
    assert grid[-1] == pytest.approx(512 * 2**0.5 / 1020)


def test_calibrated_epsilon_is_the_smallest_at_most_midway():
    curve = {0.01: 0.75, 0.02: 0.5, 0.04: 0.625, 0.08: 0.25}
    assert reference.calibrated_epsilon(curve, clean_accuracy=0.75, chance=0.25) == 0.02
    assert reference.calibrated_epsilon(curve, clean_accuracy=0.74, chance=0.25) == 0.08
    assert reference.calibrated_epsilon(curve, clean_accuracy=0.2, chance=0.1) is None


# Scores


def right(num_right, num_images=10):
    return [1] * num_right + [0] * (num_images - num_right)


@pytest.mark.parametrize(
    ("normalise", "curve", "expected"),
    [
        ("chance", "unfiltered", -5 / 7),  # r = 4/7, 0
        ("chance", "retained", -3 / 14),  # ((4/7 - 3/4) + (0 - 1/4)) / 2
        ("p0", "unfiltered", -0.625),  # r = 5/8, 1/8
        ("p0", "retained", -0.125),
        ("none", "unfiltered", -0.5),  # p - p0 = -0.3, -0.7
        ("none", "retained", -0.1),  # p - b p0 = -0.1, -0.1
    ],
)
def test_two_threshold_score(normalise, curve, expected):
    found = reference.score([right(5), right(1)], right(8), 10, [0.75, 0.25], normalise, curve)
    assert found == pytest.approx(expected)


def test_trapezoid_gives_the_ends_half_weight():
    # r - 1 = -1, 0, 0, 0, -1/2 in steps of 1/4
    found = reference.score([right(5), right(10), right(10), right(10), right(10)], right(10), 2, [1.0] * 5)
    assert found == pytest.approx(-1 / 8)
    found = reference.score([right(10), right(5), right(10), right(10), right(10)], right(10), 2, [1.0] * 5)
    assert found == pytest.approx(-1 / 4)


@pytest.mark.parametrize(("position", "twelfths"), [(0, 1), (1, 4), (2, 2), (3, 4), (4, 1)])
def test_simpson_weights(position, twelfths):
    values = [0.0] * 5
    values[position] = 1.0
    assert reference.simpson(values) == pytest.approx(twelfths / 12)


def test_simpson_reaches_the_score_and_refuses_even_numbers():
    curve = [right(10), right(5), right(10)]
    assert reference.score(curve, right(10), 2, [1.0] * 3, integration="simpson") == pytest.approx(-2 / 3)
    assert reference.score(curve, right(10), 2, [1.0] * 3, integration="trapezoid") == pytest.approx(-1 / 2)
    with pytest.raises(ValueError, match="odd"):
        reference.simpson([0.0, 0.0])


def test_an_improved_network_scores_above_zero():
    assert reference.score([right(9), right(9)], right(8), 10, [1.0, 1.0]) == pytest.approx(1 / 7)


def test_a_destroyed_network_is_minus_one_on_both_curves_and_zero_in_the_difference():
    destroyed = [right(1)] * 3  # ten classes: chance
    clean = reference.score(destroyed, right(9), 10, [0.5] * 3)
    adversarial = reference.score(destroyed, right(4), 10, [0.5] * 3)
    assert clean == pytest.approx(-1)
    assert adversarial == pytest.approx(-1)
    assert reference.difference(adversarial, clean) == pytest.approx(0)


def test_p0_makes_a_destroyed_network_look_antifragile():
    destroyed = [right(1)] * 3
    clean = reference.score(destroyed, right(10), 10, [0.5] * 3, normalise="p0")
    adversarial = reference.score(destroyed, right(4), 10, [0.5] * 3, normalise="p0")
    assert reference.difference(adversarial, clean) == pytest.approx(0.25 - 0.1)


@pytest.mark.parametrize("curve", ["unfiltered", "retained"])
def test_the_mean_filter_is_the_mean_of_the_three_scores(curve):
    correct = {
        "high_pass": [right(8), right(4), right(1)],
        "low_pass": [right(2), right(3), right(8)],
        "pulse": [right(8), right(9), right(8)],
    }
    kept_fractions = {"high_pass": [0.9, 0.5, 0.0], "low_pass": [0.0, 0.4, 0.9], "pulse": [0.9, 0.1, 1.0]}
    found = reference.mean_filter_score(correct, right(8), 10, kept_fractions, reference=curve)
    # Trapezoid weights 1, 2, 1 over 4: (p - c) / 0.7 of the three is (7 + 6 + 0)/28, (1 + 4 + 7)/28, (7 + 16 + 7)/28.
    response = (13 / 28 + 12 / 28 + 30 / 28) / 3
    reference_curve = {"unfiltered": 1.0, "retained": (1.9 / 4 + 1.7 / 4 + 2.1 / 4) / 3}[curve]
    assert found == pytest.approx(response - reference_curve)


def test_wilson_by_hand():
    # 50 of 100: (0.5 + 0.0192073 ± 1.959964 √(0.0025 + 0.0000960365)) / 1.0384146
    assert reference.wilson(50, 100) == pytest.approx((0.403832, 0.596168), abs=1e-6)
    assert reference.wilson(10, 10) == pytest.approx((10 / (10 + 3.8414588), 1.0), abs=1e-7)
    assert reference.wilson(0, 10) == pytest.approx((0.0, 3.8414588 / 13.8414588), abs=1e-7)


@pytest.mark.parametrize(
    ("num_right", "num_images", "num_classes", "expected"),
    [
        # The bound is at 0.12 where p0 = 0.12 + 1.96 √(0.12 × 0.88 / 300) = 0.1568, 47.03 images.
        (47, 300, 10, True),
        (48, 300, 10, False),
        # 0.025 + 1.96 √(0.025 × 0.975 / 300) = 0.0427, 12.8 images: the count of 20 decides.
        (19, 300, 200, True),
        (20, 300, 200, False),
        (19, 19, 10, True),
        (20, 20, 10, False),
    ],
)
def test_not_measurable(num_right, num_images, num_classes, expected):
    assert reference.not_measurable(num_right, num_images, num_classes) is expected


def test_clopper_pearson_has_its_tails():
    low, high = reference.clopper_pearson(3, 20, 0.9)
    assert stats.binom.sf(2, 20, low) == pytest.approx(0.05)
    assert stats.binom.cdf(3, 20, high) == pytest.approx(0.05)
    # (1 - high)^10 = 0.025 when none is right
    assert reference.clopper_pearson(0, 10, 0.95) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert reference.clopper_pearson(10, 10, 0.95) == pytest.approx((0.025**0.1, 1.0))


# Labels


@pytest.mark.parametrize(
    ("point_estimate", "expected"),
    [(-0.06, "fragile"), (-0.05, "robust"), (0.0, "robust"), (0.05, "robust"), (0.06, "antifragile")],
)
def test_call(point_estimate, expected):
    assert reference.call(point_estimate, 0.05) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.3, -0.06, "decided"),
        (-0.3, -0.05, "leaning"),
        (-0.05, 0.05, "decided"),
        (-0.04, 0.06, "leaning"),
        (0.05, 0.3, "leaning"),
        (0.06, 0.3, "decided"),
        (-0.3, 0.3, "leaning"),
    ],
)
def test_certainty(low, high, expected):
    assert reference.certainty(low, high, 0.05) == expected


# Dead weights


def live_taps(convolution, height, width):
    """Rows and columns of the live taps, the same for every pair of channels."""
    dead = reference.dead_mask(convolution, height, width)
    assert dead.shape == convolution.weight.shape
    taps = [[(i, j) for i, j in (~filter_taps).nonzero().tolist()] for filter_taps in dead.flatten(0, 1)]
    assert all(found == taps[0] for found in taps)
    return taps[0]


@pytest.mark.parametrize(
    ("options", "size", "expected"),
    [
        ({"padding": 1}, (1, 1), [(1, 1)]),
        ({"padding": 1}, (1, 2), [(1, 0), (1, 1), (1, 2)]),
        ({"padding": 1}, (2, 2), [(i, j) for i in range(3) for j in range(3)]),
        ({"padding": 1, "stride": 2}, (2, 2), [(1, 1), (1, 2), (2, 1), (2, 2)]),
        ({"padding": 2, "dilation": 2}, (2, 2), [(1, 1)]),
        ({"padding": 2, "dilation": 2}, (3, 2), [(0, 1), (1, 1), (2, 1)]),
        ({"padding": 0}, (3, 3), [(i, j) for i in range(3) for j in range(3)]),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_dead_taps_by_hand(options, size, expected, groups):
    torch.manual_seed(0)
    assert live_taps(nn.Conv2d(2, 2, 3, groups=groups, **options), *size) == expected


def test_dead_mask_leaves_the_convolution_alone():
    convolution = nn.Conv2d(1, 1, 3, padding=1)
    before = convolution.weight.detach().clone()
    reference.dead_mask(convolution, 1, 1)
    assert torch.equal(convolution.weight, before)
    assert convolution.weight.dtype == torch.float32

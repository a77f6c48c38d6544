"""Adversarial images: within their ball, the same whatever the batch, and at an ε that is calibrated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NUM_CLASSES, MeanBrightness, make_branches, make_images, make_plain, snapshot, unsettle
from torch import Tensor, nn

from fss_core import attacks
from fss_core.attacks import (
    attack,
    calibrate_epsilon,
    count_right,
    epsilon_grid,
    evaluating,
    known_attacks,
    run_attack,
)
from fss_core.specs import AttackSpec, CalibrationError, NotFiniteError, UnknownNameError

EPSILON = 8 / 255
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return make_plain()


@pytest.fixture(scope="module")
def images(plain: nn.Module) -> tuple[Tensor, Tensor]:
    """Images, and as labels mostly what ``plain`` predicts."""
    pixels, labels = make_images(40)
    with torch.no_grad():
        predicted = plain(pixels).argmax(1)
    return pixels, torch.where(torch.arange(40) % 8 == 0, labels, predicted)


# What an attack makes -------------------------------------------------------------------------------------


def test_fgsm_by_hand() -> None:
    """Raising the mean raises logit 1: images of class 0 grow brighter, those of class 1 darker, pixels clamped."""
    model = MeanBrightness(scale=3.0, shift=-1.5)
    pixels = torch.tensor([0.5, 0.5, 0.95, 0.05]).reshape(4, 1, 1, 1)
    adversarial = attack(model, pixels, torch.tensor([0, 1, 0, 1]), epsilon=0.1)
    torch.testing.assert_close(adversarial.flatten(), torch.tensor([0.6, 0.4, 1.0, 0.0]))


@pytest.mark.parametrize("make", [make_plain, make_branches])
def test_fgsm_equals_the_reference_pixel_by_pixel(make: Callable[[], nn.Module]) -> None:
    model, (pixels, labels) = make(), make_images(30)
    adversarial = attack(model, pixels, labels, epsilon=EPSILON)
    torch.testing.assert_close(adversarial, reference.fgsm(model, pixels, labels, EPSILON), rtol=0, atol=ROUNDING)
    assert float((adversarial - pixels).abs().mean()) > EPSILON / 2


def test_pgd_equals_the_reference_from_its_own_start(plain: nn.Module) -> None:
    """One step too small to change a pixel shows the start."""
    pixels, labels = make_images(30)
    pixels = 0.2 + 0.6 * pixels  # the start is not clamped
    still = attack(plain, pixels, labels, kind="pgd", epsilon=EPSILON, steps=1, step_size=1e-30, seed=4)
    start = still - pixels
    got = attack(plain, pixels, labels, kind="pgd", epsilon=EPSILON, steps=3, seed=4)
    expected = reference.pgd(plain, pixels, labels, EPSILON, 3, 2.5 * EPSILON / 3, start)
    close = (got - expected).abs() < ROUNDING
    assert float(close.double().mean()) > 0.999  # a gradient within rounding of zero may have either sign


def test_pgd_starts_uniformly_in_the_ball(plain: nn.Module) -> None:
    pixels, labels = make_images(40)
    pixels = 0.2 + 0.6 * pixels
    start = attack(plain, pixels, labels, kind="pgd", epsilon=0.1, steps=1, step_size=1e-30) - pixels
    assert float(start.abs().max()) <= 0.1 + ROUNDING
    assert float(start.std()) == pytest.approx(0.1 / np.sqrt(3), rel=0.05)
    assert float(start.mean()) == pytest.approx(0, abs=0.005)
    assert len({row.numpy().tobytes() for row in start}) == len(start)


def test_pgd_s_seed_changes_the_start_and_fgsm_has_none(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    starts = [attack(plain, *images, kind="pgd", epsilon=EPSILON, steps=1, step_size=1e-30, seed=s) for s in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(attack(plain, *images, epsilon=EPSILON, seed=0), attack(plain, *images, epsilon=EPSILON, seed=1))


@settings(max_examples=30, deadline=None)
@given(
    epsilon=st.floats(1e-4, 1),
    kind=st.sampled_from(["fgsm", "pgd"]),
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 4),
    step_size=st.one_of(st.none(), st.floats(1e-4, 2)),
)
def test_adversarial_images_stay_in_the_ball_and_are_images(
    epsilon: float, kind: str, seed: int, steps: int, step_size: float | None
) -> None:
    pixels, labels = make_images(6, seed=seed % 5)
    pixels[0], pixels[1, :, :4] = 0, 1
    adversarial = attack(
        make_plain(), pixels, labels, kind=kind, epsilon=epsilon, seed=seed, steps=steps, step_size=step_size
    )
    assert adversarial.shape == pixels.shape
    assert adversarial.dtype == torch.float32
    assert not adversarial.requires_grad
    assert float((adversarial.double() - pixels.double()).abs().max()) <= epsilon + ROUNDING
    assert 0 <= float(adversarial.min())
    assert float(adversarial.max()) <= 1


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_attacks_lower_accuracy_and_pgd_more_so(kind: str, plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    clean = count_right(plain, *images)
    adversarial = count_right(plain, attack(plain, *images, kind=kind, epsilon=16 / 255), images[1])
    assert clean >= 35
    assert adversarial < clean / 2


def test_the_images_handed_in_stay(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    pixels, labels = (tensor.clone() for tensor in images)
    result = attack(plain, pixels, labels, kind="pgd", epsilon=EPSILON)
    assert torch.equal(pixels, images[0])
    assert torch.equal(labels, images[1])
    assert not pixels.requires_grad
    assert result.data_ptr() != pixels.data_ptr()


# The batch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "ffgsm"])
def test_an_image_s_attack_depends_neither_on_the_batch_nor_on_the_order(kind: str) -> None:
    """In float64, where a gradient within rounding of zero is no worry."""
    model = make_plain().double()
    pixels, labels = make_images(attacks.IMAGES_PER_PASS + 7)
    pixels = pixels.double()

    def run(pixels: Tensor, labels: Tensor) -> Tensor:
        return attack(model, pixels, labels, kind=kind, epsilon=EPSILON, steps=2, seed=3)

    whole = run(pixels, labels)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(pixels[order], labels[order]), whole[order], rtol=0, atol=1e-12)
    parts = torch.cat([run(pixels[part], labels[part]) for part in torch.arange(len(pixels)).split(13)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(run(pixels[5:6], labels[5:6]), whole[5:6], rtol=0, atol=1e-12)


# Zero gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_zero_gradients_equal_the_reference(kind: str) -> None:
    """Below a mean of 0.5 the final ReLU is dead, and both logits are zero."""
    model = MeanBrightness(scale=2.0, shift=-1.0, final_relu=True)
    pixels = torch.linspace(0.1, 0.9, 113).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    labels = torch.arange(113) % 2
    attacked = run_attack(model, pixels, labels, AttackSpec(epsilon=0.001, kind=kind, steps=2))
    assert attacked.zero_gradient.dtype == torch.bool
    if kind == "fgsm":
        assert attacked.zero_gradient.tolist() == reference.zero_gradient_images(model, pixels, labels)
        assert torch.equal(attacked.pixels[attacked.zero_gradient], pixels[attacked.zero_gradient])
    dark, bright = pixels.mean((1, 2, 3)) < 0.498, pixels.mean((1, 2, 3)) > 0.502
    assert attacked.zero_gradient[dark].all()
    assert not attacked.zero_gradient[bright].any()


def test_fgsm_says_what_is_predicted_before_it_and_pgd_which_starts_elsewhere_does_not(plain: nn.Module) -> None:
    pixels, labels = make_images(attacks.IMAGES_PER_PASS + 7)
    known = run_attack(plain, pixels, labels, AttackSpec(epsilon=8 / 255)).classes
    assert known is not None
    with torch.no_grad():
        assert torch.equal(known, plain(pixels).argmax(1))
    assert len(known.unique()) > 1
    assert run_attack(plain, pixels, labels, AttackSpec(kind="pgd", epsilon=8 / 255)).classes is None


def test_a_network_whose_classes_are_counted_is_not_run_to_count_them(
    plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    sizes: list[int] = []
    hook = plain.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    spec, num_images = AttackSpec(epsilon=8 / 255), len(images[0])
    asked = run_attack(plain, *images, spec)
    told = run_attack(plain, *images, spec, num_classes=NUM_CLASSES)
    hook.remove()
    assert sizes == [1, num_images, num_images]
    assert torch.equal(asked.pixels, told.pixels)


def test_a_sound_network_has_no_zero_gradient(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    attacked = run_attack(plain, *images, AttackSpec(epsilon=EPSILON))
    assert attacked.zero_gradient.tolist() == reference.zero_gradient_images(plain, *images)
    assert attacked.zero_gradient.shape == (40,)


# State ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "ffgsm"])
@pytest.mark.parametrize("grad", [True, False], ids=["gradients on", "gradients off"])
def test_the_model_and_the_random_state_stay_as_they_were(kind: str, grad: bool) -> None:
    model = unsettle(make_branches())
    before = snapshot(model)
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with torch.set_grad_enabled(grad):
        run_attack(model, *make_images(5), AttackSpec(epsilon=EPSILON, kind=kind, steps=2))
        calibrate_epsilon(model, *make_images(5))
        assert torch.is_grad_enabled() == grad
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_the_model_stays_as_it_was_when_an_attack_fails() -> None:
    model = unsettle(make_plain())
    before = snapshot(model)
    with pytest.raises(UnknownNameError):
        attack(model, *make_images(5), kind="nothing", epsilon=EPSILON)
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert snapshot(model) == before


def test_a_network_is_attacked_in_eval_mode(images: tuple[Tensor, Tensor]) -> None:
    model = make_plain().train()
    evaluated = make_plain().eval()
    assert torch.equal(attack(model, *images, epsilon=EPSILON), attack(evaluated, *images, epsilon=EPSILON))
    assert count_right(model, *images) == count_right(evaluated, *images)


def test_counting_right_images_by_hand() -> None:
    model = MeanBrightness(scale=1.0, shift=-0.5)
    pixels = torch.linspace(0, 0.99, 250).reshape(-1, 1, 1, 1)
    labels = torch.ones(250, dtype=torch.int64)
    assert count_right(model, pixels, labels) == int((pixels > 0.5).sum())
    assert count_right(model, pixels, 1 - labels) == int((pixels <= 0.5).sum())


# Attacks by name ------------------------------------------------------------------------------------------


def test_attacks_are_those_with_an_l_infinity_ball() -> None:
    assert {"fgsm", "pgd", "ffgsm", "mifgsm", "apgd", "square", "autoattack"} <= set(known_attacks())
    assert not {"cw", "deepfool", "pgdl2", "onepixel", "vanila", "jitter_l2"} & set(known_attacks())


@pytest.mark.parametrize("kind", ["FFGSM", "MIFGSM", "bim"])
def test_another_attack_runs_by_name_in_any_case(kind: str, plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    adversarial = attack(plain, *images, kind=kind, epsilon=16 / 255)
    assert torch.equal(adversarial, attack(plain, *images, kind=kind.swapcase(), epsilon=16 / 255))
    assert float((adversarial - images[0]).abs().max()) <= 16 / 255 + ROUNDING
    assert count_right(plain, adversarial, images[1]) < count_right(plain, *images)


def test_an_unknown_attack_lists_the_choices(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UnknownNameError, match=r"^no L∞ attack 'cw'; choose from [^\n]*fgsm[^\n]*$"):
        attack(plain, *images, kind="CW", epsilon=EPSILON)


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 8.0, float("nan")])
def test_an_epsilon_out_of_range_is_refused(epsilon: float, plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"^epsilon must lie in \(0, 1\] [^\n]*got "):
        attack(plain, *images, epsilon=epsilon)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(value: float, plain: nn.Module) -> None:
    pixels, labels = make_images(5)
    pixels[3, 1, 2, 2] = value
    for call in (
        lambda: attack(plain, pixels, labels, epsilon=EPSILON),
        lambda: calibrate_epsilon(plain, pixels, labels),
    ):
        with pytest.raises(NotFiniteError, match=r"^pixels must be finite, got NaN or infinity; [^\n]*$"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda pixels, labels: (pixels * 255, labels),
            r"^pixels must lie in \[0, 1\], got .*divide 8-bit images by 255$",
        ),
        (lambda pixels, labels: (pixels - 0.5, labels), r"^pixels must lie in \[0, 1\], got -0"),
        (lambda pixels, labels: ((pixels * 255).byte(), labels), r"^pixels must be floating point .*uint8"),
        (lambda pixels, labels: (pixels[0], labels), r"^pixels must be floating point \(N, C, H, W\)"),
        (lambda pixels, labels: (pixels[:0], labels[:0]), r"N ≥ 1"),
        (lambda pixels, labels: (pixels, labels[:-1]), r"^labels must be 5 integers, got torch.int64 \(4,\)$"),
        (lambda pixels, labels: (pixels, labels.float()), r"^labels must be 5 integers, got torch.float32 \(5,\)$"),
        (lambda pixels, labels: (pixels, labels + 1), r"^labels must lie in 0 … 4 .*got 1 … 5$"),
        (lambda pixels, labels: (pixels, labels - 1), r"^labels must lie in 0 … 4 .*got -1 … 3$"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str, plain: nn.Module
) -> None:
    pixels, labels = change(*make_images(NUM_CLASSES))
    for call in (
        lambda: attack(plain, pixels, labels, epsilon=EPSILON),
        lambda: calibrate_epsilon(plain, pixels, labels),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integer_type_are_taken(dtype: torch.dtype, plain: nn.Module) -> None:
    pixels, labels = make_images(5)
    expected = attack(plain, pixels, labels, epsilon=EPSILON)
    assert torch.equal(attack(plain, pixels, labels.to(dtype), epsilon=EPSILON), expected)


# Calibration ----------------------------------------------------------------------------------------------


def test_the_grid_equals_the_reference() -> None:
    assert list(epsilon_grid()) == reference.epsilon_grid()
    assert epsilon_grid()[0] == 0.25 / 255
    assert epsilon_grid()[2] * 255 == pytest.approx(0.5)
    assert 0.7 < epsilon_grid()[-1] <= 1


def _pretend(patch: pytest.MonkeyPatch, num_right: dict[float, int]) -> list[dict[str, object]]:
    """Let PGD's accuracy be a given curve: an attacked image is ε everywhere, a clean one 0."""
    calls: list[dict[str, object]] = []

    def fake_attack(
        model: nn.Module,
        pixels: Tensor,
        labels: Tensor,
        *,
        epsilon: float,
        on_pass: Callable[[], None],
        **settings: object,
    ) -> Tensor:
        on_pass()
        calls.append(settings)
        return torch.full_like(pixels, epsilon, dtype=torch.float64)

    patch.setattr(attacks, "attack", fake_attack)
    patch.setattr(attacks, "count_right", lambda model, pixels, labels: num_right[float(pixels[0, 0, 0, 0])])
    return calls


@settings(max_examples=80, deadline=None)
@given(clean=st.integers(0, 20), data=st.data())
def test_calibration_chooses_what_the_reference_chooses(clean: int, data: st.DataObject) -> None:
    grid = epsilon_grid()
    curve = data.draw(st.lists(st.integers(0, 20), min_size=len(grid), max_size=len(grid)))
    model, pixels, labels = make_plain(), torch.zeros(20, 3, 8, 8), torch.zeros(20, dtype=torch.int64)
    expected = reference.calibrated_epsilon(
        {epsilon: right / 20 for epsilon, right in zip(grid, curve, strict=True)}, clean / 20, 1 / NUM_CLASSES
    )
    steps: list[tuple[float, float]] = []
    with pytest.MonkeyPatch.context() as patch:
        calls = _pretend(patch, {0.0: clean, **dict(zip(grid, curve, strict=True))})
        if expected is None:
            with pytest.raises(CalibrationError, match=r"^PGD never brings accuracy from [^\n]*--epsilon 8/255$"):
                calibrate_epsilon(model, pixels, labels)
            return
        got = calibrate_epsilon(model, pixels, labels, seed=6, on_step=lambda *step: steps.append(step))
    tried = grid.index(expected) + 1
    assert got.epsilon == float(got) == expected
    assert got.grid == grid[:tried]
    assert got.pgd_accuracy == tuple(right / 20 for right in curve[:tried])
    assert steps == list(zip(got.grid, got.pgd_accuracy, strict=True))
    assert (got.clean_accuracy, got.num_images) == (clean / 20, 20)
    assert got.target == pytest.approx((clean / 20 + 1 / NUM_CLASSES) / 2)
    assert calls == [{"kind": "pgd", "seed": 6}] * tried


def test_calibration_of_a_real_network(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    got = calibrate_epsilon(plain, *images)
    assert all(accuracy > got.target for accuracy in got.pgd_accuracy[:-1])
    assert got.pgd_accuracy[-1] <= got.target < got.clean_accuracy
    adversarial = attack(plain, *images, kind="pgd", epsilon=got)  # type: ignore[arg-type]
    assert count_right(plain, adversarial, images[1]) / 40 == got.pgd_accuracy[-1]
    assert calibrate_epsilon(plain, *images) == got


def test_a_network_near_chance_gets_the_largest_epsilon_and_says_so() -> None:
    model = MeanBrightness(scale=0.0, shift=1.0)
    labels = torch.arange(20) % 2
    labels[0] = 1  # 11 of 20 right, above chance by luck, and nothing to attack
    found = calibrate_epsilon(model, torch.rand(20, 1, 2, 2), labels)
    assert not found.reached
    assert found.epsilon == epsilon_grid()[-1]
    assert set(found.pgd_accuracy) == {found.clean_accuracy}


def test_no_epsilon_breaks_a_network_that_predicts_one_class() -> None:
    model = MeanBrightness(scale=0.0, shift=1.0)
    pixels = torch.rand(20, 1, 2, 2)
    with pytest.raises(CalibrationError, match=r"^PGD never brings accuracy from 1\.000 to 0\.750 \(lowest 1\.000, 20"):
        calibrate_epsilon(model, pixels, torch.ones(20, dtype=torch.int64))

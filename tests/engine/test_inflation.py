"""The student equals its teacher before any training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec
from e2sam.errors import ChannelError
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.inflation import build_student, canonical_order, inflate, input_layer

PADDED = (64, 96)


def teacher_of(name: str, seed: int = 0) -> E2SAM:
    torch.manual_seed(seed)
    model = build_model(teacher_config(name)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, 0.05)
    return model


def channels_of(count: int) -> tuple[ChannelSpec, ...]:
    return tuple(ChannelSpec(f"band {index}") for index in range(count))


def recipes_of(count: int) -> tuple[ChannelRecipe, ...]:
    return (ChannelRecipe("range", 0.0, 1.0, 0.0),) * count


def matrix_of(count: int, seed: int = 1) -> np.ndarray:
    weights = np.random.default_rng(seed).random((3, count)).astype(np.float32)
    return weights / weights.sum(1, keepdims=True)


def planes_of(count: int, size: tuple[int, int] = (50, 80)) -> torch.Tensor:
    return torch.rand(1, count, *size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 13, 16, 156])
def test_tiny_student_equals_its_teacher_on_the_composite(count: int) -> None:
    teacher, matrix, planes = teacher_of("tiny"), matrix_of(count), planes_of(count)
    student = build_student(teacher, channels_of(count), recipes_of(count), matrix).eval()
    composite = 255 * torch.einsum("kn,bnhw->bkhw", torch.from_numpy(matrix), planes)
    with torch.no_grad():
        expected = teacher.encode(teacher.prepare(composite, PADDED))
        features = student.encode(student.prepare(planes, PADDED))
        for selection in ([0], list(range(count))):
            torch.testing.assert_close(student.embed(features, selection), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("merge", ["gated"])
def test_vit_student_equals_its_teacher_padding_included(merge: str) -> None:
    count = 5
    teacher, matrix, planes = teacher_of("vit_test"), matrix_of(count), planes_of(count, (90, 128))
    student = build_student(teacher, channels_of(count), recipes_of(count), matrix, merge=merge).eval()
    composite = 255 * torch.einsum("kn,bnhw->bkhw", torch.from_numpy(matrix), planes)
    with torch.no_grad():
        expected = teacher.encode(teacher.prepare(composite, (128, 128)))
        features = student.encode(student.prepare(planes, (128, 128)))
        assert expected.std() > 0.01
        torch.testing.assert_close(student.embed(features, [1, 3]), expected, atol=1e-4, rtol=1e-4)


def test_first_layer_agrees_to_double_precision() -> None:
    weight = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    matrix = torch.from_numpy(matrix_of(7)).double()
    planes = planes_of(7, (8, 12)).double()
    mean = torch.tensor((123.675, 116.28, 103.53), dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor((58.395, 57.12, 57.375), dtype=torch.float64).view(3, 1, 1)
    composite = (255 * torch.einsum("kn,bnhw->bkhw", matrix, planes) - mean) / std
    padded = nn.functional.pad(composite, (0, 4, 0, 4))
    inside = nn.functional.pad(torch.cat((planes, torch.ones_like(planes[:, :1])), 1), (0, 4, 0, 4))
    expected = nn.functional.conv2d(padded, weight, stride=4)
    got = nn.functional.conv2d(inside, inflate(weight, matrix), stride=4)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)  # SAM's constants are rounded to float32


def test_decoder_is_the_teachers_and_gives_the_same_masks() -> None:
    teacher = teacher_of("tiny")
    student = build_student(teacher, channels_of(4), recipes_of(4), matrix_of(4))
    mine, its = student.decoder.state_dict(), teacher.decoder.state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


def test_unused_channels_learn_from_the_first_step() -> None:
    matrix = np.zeros((3, 4), np.float32)
    matrix[[0, 1, 2], [0, 1, 2]] = 1
    student = build_student(teacher_of("tiny"), channels_of(4), recipes_of(4), matrix)
    first = input_layer(student.image_encoder)
    assert not first.weight[:, 3].any()
    features = student.encode(student.prepare(planes_of(4), PADDED))
    student.embed(features, [0, 1, 3]).square().mean().backward()
    assert first.weight.grad is not None and first.weight.grad[:, 3].abs().sum() > 0


@pytest.mark.parametrize("init", ["mean", "random", "scratch"])
def test_other_starts_differ_from_the_teacher(init: str) -> None:
    teacher, planes = teacher_of("tiny"), planes_of(4)
    torch.manual_seed(5)
    student = build_student(teacher, channels_of(4), recipes_of(4), matrix_of(4), init=init).eval()
    first = input_layer(student.image_encoder).weight
    assert first.shape[1] == 5
    if init == "mean":
        assert torch.allclose(first[:, 0], first[:, 3])
    composite = 255 * torch.einsum("kn,bnhw->bkhw", torch.from_numpy(matrix_of(4)), planes)
    with torch.no_grad():
        expected = teacher.encode(teacher.prepare(composite, PADDED))
        got = student.embed(student.encode(student.prepare(planes, PADDED)))
    assert (got - expected).abs().max() > 1e-3
    same = torch.equal(student.image_encoder.laterals[0].weight, teacher.image_encoder.laterals[0].weight)
    assert same == (init != "scratch")


def test_light_student_takes_the_heavy_teachers_decoder() -> None:
    teacher, base = teacher_of("vit_test", seed=1), teacher_of("vit_test", seed=2)
    student = build_student(teacher, channels_of(4), recipes_of(4), matrix_of(4), base=base)
    assert torch.equal(student.image_encoder.pos_embed, base.image_encoder.pos_embed)
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(student.decoder.state_dict()[name], teacher.decoder.state_dict()[name])


def test_canonical_order_is_red_first() -> None:
    bands = tuple(ChannelSpec(name, wavelength_nm=nm) for name, nm in (("a", 450.0), ("b", 650.0), ("c", 550.0)))
    assert canonical_order(bands) == (2, 0, 1)
    assert canonical_order(channels_of(3)) == (0, 1, 2)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"init": "none"}, "initialization"),
        ({"recipes": recipes_of(2)}, "2 recipes"),
        ({"composite": matrix_of(5)}, r"shape \(3, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, what: str) -> None:
    arguments = {"channels": channels_of(4), "recipes": recipes_of(4), "composite": matrix_of(4)} | changes
    with pytest.raises(ChannelError, match=what):
        build_student(teacher_of("tiny"), **arguments)


def test_students_have_no_students() -> None:
    student = build_student(teacher_of("tiny"), channels_of(4), recipes_of(4), matrix_of(4))
    with pytest.raises(ChannelError, match="got a student"):
        build_student(student, channels_of(4), recipes_of(4), matrix_of(4))

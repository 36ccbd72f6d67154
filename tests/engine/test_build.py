"""Every size of model: built, given weights, and refused the weights of another."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from segment_anything import sam_model_registry

from e2sam.data.normalize import ChannelRecipe
from e2sam.data.stack import ChannelSpec
from e2sam.errors import CheckpointError
from e2sam.modeling.build import (
    architectures,
    build_from_sam,
    build_model,
    build_with_weights,
    encoder_size,
    teacher_config,
)
from e2sam.modeling.e2sam import E2SAM, PIXEL_MEAN, ModelConfig, PromptTensors


def student_config(architecture: str, num_channels: int, merge: str = "gated") -> ModelConfig:
    return replace(
        teacher_config(architecture),
        channels=tuple(ChannelSpec(f"c{index}") for index in range(num_channels)),
        recipes=(ChannelRecipe("range", 0.0, 1.0),) * num_channels,
        merge=merge,
    )


def sam_state(model: E2SAM) -> dict[str, torch.Tensor]:
    """A teacher's weights under segment_anything's names."""
    return {name.removeprefix("decoder."): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("architecture", ["tiny", "vit_test"])
def test_a_teacher_goes_from_pixels_to_logits(architecture: str) -> None:
    model = build_model(teacher_config(architecture)).eval()
    config = model.config
    side = config.pad_multiple
    with torch.no_grad():
        features = model.encode(model.prepare(torch.rand(1, 3, side - 5, side - 3) * 255, (side, side)))
        embedding = model.embed(features)
        prompts = PromptTensors(torch.tensor([[[9.0, 5.0], [0.0, 0.0]]]), torch.tensor([[1, -1]]))
        logits, quality = model.decode(embedding, prompts, multimask_output=True)
    grid = side // config.embedding_stride
    assert embedding.shape == (1, 256, grid, grid)
    assert logits.shape == (1, 3, side // config.logits_stride, side // config.logits_stride)
    assert quality.shape == (1, 3)
    assert embedding.isfinite().all() and logits.isfinite().all()


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 5, 13, 16])
@pytest.mark.parametrize("architecture", ["tiny", "vit_test"])
def test_a_student_takes_its_channels_and_the_inside_plane(architecture: str, num_channels: int) -> None:
    model = build_model(student_config(architecture, num_channels)).eval()
    side = model.config.pad_multiple
    with torch.no_grad():
        features = model.encode(model.prepare(torch.rand(1, num_channels, side, side), (side, side)))
        embedding = model.embed(features, range(num_channels))
    assert embedding.shape[:2] == (1, 256)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_official_names_fit_ours(name: str) -> None:
    """The official files hold segment_anything's own names; none is missing, none is left over."""
    with torch.device("meta"):
        official = sam_model_registry[name]().state_dict()
        ours = build_model(teacher_config(name)).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key if key.startswith("image_encoder.") else f"decoder.{key}": value.shape for key, value in official.items()
    }


def test_a_teacher_from_segment_anything_names() -> None:
    source = build_model(teacher_config("vit_test"))
    model = build_from_sam(sam_state(source))
    assert model.config == source.config
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.pixel_mean.flatten().tolist() == pytest.approx(PIXEL_MEAN)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_half_precision_weights_are_held_as_float32() -> None:
    state = {name: value.half() for name, value in build_model(teacher_config("vit_test")).state_dict().items()}
    model = build_with_weights(teacher_config("vit_test"), state)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_of_another_model_are_refused() -> None:
    state = sam_state(build_model(teacher_config("vit_test")))
    with pytest.raises(CheckpointError, match="pos_embed among them"):
        build_from_sam({"layer.weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="got 48"):
        build_from_sam({"image_encoder.pos_embed": torch.zeros(1, 8, 8, 48)})
    with pytest.raises(CheckpointError, match=r"lacks decoder.mask_decoder.iou_token.weight \(1 missing, 0 unknown"):
        build_from_sam({name: value for name, value in state.items() if name != "mask_decoder.iou_token.weight"})
    with pytest.raises(CheckpointError, match=r"has the unknown decoder\.surplus"):
        build_from_sam({**state, "surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"iou_token.weight of shape \(1, 256\), got \(2, 256\)"):
        build_from_sam({**state, "mask_decoder.iou_token.weight": torch.zeros(2, 256)})


def test_unknown_architectures_are_refused() -> None:
    with pytest.raises(CheckpointError, match="tiny, vit_b, vit_l, vit_h"):
        teacher_config("vit_x")
    with pytest.raises(CheckpointError, match="got 'tiny'"):
        encoder_size("tiny")
    assert {"tiny", "vit_b", "vit_l", "vit_h"} <= set(architectures())

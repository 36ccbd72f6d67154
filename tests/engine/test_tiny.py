from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from e2sam.data.synthetic.stack import synthetic_stack
from e2sam.evaluation.metrics import mask_iou
from e2sam.inference.predictor import Predictor
from e2sam.modeling import tiny_decoder
from e2sam.modeling.build import build_model, teacher_config
from e2sam.modeling.e2sam import E2SAM, PromptTensors
from e2sam.modeling.geodesic import cost_of_ways
from e2sam.modeling.tiny import TinyDecoder, TinyEncoder
from e2sam.modeling.tiny_prompts import dense_maps, prompt_geometry
from e2sam.weights.zoo import load_model


@pytest.fixture(scope="module")
def model() -> E2SAM:
    torch.manual_seed(0)
    return build_model(teacher_config("tiny")).eval()


def prompts_of(rows: list[list[tuple[float, float, int]]], logits: torch.Tensor | None = None) -> PromptTensors:
    table = torch.tensor(rows)
    return PromptTensors(table[..., :2].float(), table[..., 2].long(), logits)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (128, 32)])
def test_shapes_follow_the_frame(model: E2SAM, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        embedding = model.encode(torch.randn(2, 3, *size))
        assert embedding.shape == (2, 256, size[0] // 8, size[1] // 8)
        prompts = prompts_of([[(10, 20, 1), (5, 5, -1)], [(10, 20, 1), (3, 9, 0)]])
        logits, iou = model.decode(embedding, prompts, True)
        assert logits.shape == (2, 3, size[0] // 4, size[1] // 4) and iou.shape == (2, 3)
        single, quality = model.decode(embedding, prompts, False)
        assert single.shape[1] == 1 and quality.shape == (2, 1)
        assert logits.isfinite().all() and iou.min() >= 0 and iou.max() <= 1


def test_fast_mode_agrees_and_leaves_gradients_in_float32() -> None:
    exact = load_model("tiny", "cpu", exact=True)
    fast = copy.deepcopy(exact)
    fast.image_encoder.prefer_speed(torch.bfloat16)
    fast.decoder.prefer_speed(torch.bfloat16)
    stack, _ = synthetic_stack(1, size=(160, 160))
    channels = stack.names[:3]
    masks = []
    for model in (exact, fast):
        predictor = Predictor(model, cache=False)
        predictor.set_stack(stack, channels)
        found = predictor.predict([(60, 70), (120, 20)], [1, 0], multimask=False)
        assert found.logits.dtype == np.float32
        masks.append((found.masks[0], found.logits))
    assert mask_iou(masks[0][0], masks[1][0]) > 0.97
    assert np.abs(masks[0][1] - masks[1][1]).max() > 0, "bfloat16 was not used"
    embedding = fast.encode(torch.randn(1, 3, 64, 64))
    logits, _ = fast.decode(embedding, prompts_of([[(10, 20, 1)]]), False)
    logits.mean().backward()
    assert embedding.dtype == logits.dtype == torch.float32
    assert all(weight.grad is None or weight.grad.dtype == torch.float32 for weight in fast.parameters())


def test_prompts_of_one_image_equal_one_by_one(model: E2SAM) -> None:
    with torch.inference_mode():
        embedding = model.encode(torch.randn(1, 3, 64, 64))
        rows = [
            [(10.0, 20.0, 1), (40.0, 5.0, 0), (0.0, 0.0, -1)],
            [(4.0, 4.0, 2), (50.0, 40.0, 3), (20.0, 20.0, 1)],
            [(60.0, 60.0, 1), (0.0, 0.0, -1), (0.0, 0.0, -1)],
        ]
        previous = torch.randn(3, 1, 16, 16)
        together, quality = model.decode(embedding, prompts_of(rows, previous), True)
        for index, row in enumerate(rows):
            alone, alone_quality = model.decode(embedding, prompts_of([row], previous[index : index + 1]), True)
            assert torch.allclose(alone[0], together[index], atol=1e-4)
            assert torch.allclose(alone_quality[0], quality[index], atol=1e-4)


def test_several_images_at_once_equal_one_by_one(model: E2SAM) -> None:
    with torch.inference_mode():
        embeddings = model.encode(torch.randn(2, 3, 64, 64))
        rows = [[(10.0, 20.0, 1)], [(30.0, 8.0, 1)], [(50.0, 50.0, 1)], [(9.0, 9.0, 0)]]
        together, _ = model.decode(embeddings, prompts_of(rows), True)
        for image in range(2):
            alone, _ = model.decode(embeddings[image : image + 1], prompts_of(rows[2 * image : 2 * image + 2]), True)
            assert torch.allclose(alone, together[2 * image : 2 * image + 2], atol=1e-4)


def test_padding_points_change_nothing(model: E2SAM) -> None:
    with torch.inference_mode():
        embedding = model.encode(torch.randn(1, 3, 64, 64))
        bare, _ = model.decode(embedding, prompts_of([[(10.0, 20.0, 1)]]), True)
        padded, _ = model.decode(embedding, prompts_of([[(10.0, 20.0, 1), (33.0, 5.0, -1)]]), True)
        other, _ = model.decode(embedding, prompts_of([[(10.0, 20.0, 1), (33.0, 5.0, 0)]]), True)
    assert torch.allclose(bare, padded, atol=1e-5)
    assert not torch.allclose(bare, other, atol=1e-3)


def test_a_box_alone_and_a_mask_alone_are_prompts(model: E2SAM) -> None:
    with torch.inference_mode():
        embedding = model.encode(torch.randn(1, 3, 64, 64))
        boxed, _ = model.decode(embedding, prompts_of([[(4.0, 4.0, 2), (50.0, 40.0, 3)]]), True)
        masked, _ = model.decode(embedding, prompts_of([[(0.0, 0.0, -1)]], torch.randn(1, 1, 16, 16)), True)
    assert boxed.isfinite().all() and masked.isfinite().all() and not torch.allclose(boxed, masked)


def test_first_layer_is_linear_and_detail_starts_with_the_planes() -> None:
    encoder = TinyEncoder(3)
    a, b = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        zero = encoder.input_conv(torch.zeros_like(a))
        together = encoder.input_conv(a + b) - zero
        assert torch.allclose(together, encoder.input_conv(a) + encoder.input_conv(b) - 2 * zero, atol=1e-5)
    assert encoder.input_conv.padding_mode == "zeros"
    assert encoder.detail_input.weight[1, 1] == 1.0


@pytest.mark.parametrize("planes", [1, 2, 4, 5, 13, 16])
def test_encoder_takes_any_number_of_planes(planes: int) -> None:
    with torch.inference_mode():
        assert TinyEncoder(planes)(torch.randn(1, planes, 32, 64)).shape == (1, 256, 4, 8)


def test_dense_maps_mark_clicks_boxes_and_walls() -> None:
    right, down = torch.full((1, 16, 15), 0.02), torch.full((1, 15, 16), 0.02)
    right[0, :, 7] = 1.0
    # Pixel (14, 30) of the frame is position (3, 7) of the grid.
    geometry = prompt_geometry(prompts_of([[(14.0, 30.0, 1), (5.0, 9.0, 2), (31.0, 55.0, 3)]]), (16, 16))
    maps = torch.stack(dense_maps(geometry, cost_of_ways(right), cost_of_ways(down.transpose(1, 2))), dim=1)[0]
    assert divmod(int(maps[0].argmax()), 16) == (7, 3) and maps[0].max() == pytest.approx(1)
    assert maps[2].abs().max() == 0
    assert maps[4].sum() == maps[4, 2:14, 1:8].sum() == 12 * 7
    near = maps[7]
    assert near[7, 3] == 1 and near[:, :8].min() > 0.5 and near[:, 8:].max() < 0.45


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    encoder, decoder = TinyEncoder(3), TinyDecoder()
    # The quality head starts at zero, which stops gradients before it.
    torch.nn.init.normal_(decoder.quality[-1].weight)
    features = decoder.features(encoder(torch.randn(1, 3, 64, 64)))
    prompts = prompts_of(
        [[(10.0, 20.0, 1), (40.0, 5.0, 0)], [(4.0, 4.0, 2), (50.0, 40.0, 3)]], torch.randn(2, 1, 16, 16)
    )
    logits, quality = decoder.decode(features, prompts)
    (logits.square().mean() + quality.sum() + features.boundaries.square().mean()).backward()
    for module in (encoder, decoder):
        for name, weight in module.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all(), name


def test_shipped_weights_segment_a_disk() -> None:
    from e2sam.weights.zoo import load_model

    path = Path(__file__).parents[2] / "e2sam" / "weights" / "tiny.safetensors"
    assert path.stat().st_size < 25e6
    shipped = load_model("tiny", device="cpu")
    y, x = np.mgrid[:128, :128] + 0.5
    truth = np.hypot(y - 70, x - 60) < 26
    planes = np.where(truth, np.array([200.0, 60, 40])[:, None, None], np.array([60.0, 110, 90])[:, None, None])
    noisy = planes + np.random.default_rng(0).normal(0, 6, planes.shape)
    with torch.inference_mode():
        pixels = shipped.prepare(torch.from_numpy(noisy.astype(np.float32))[None], (128, 128))
        logits, scores = shipped.decode(shipped.embed(shipped.encode(pixels)), prompts_of([[(60.0, 70.0, 1)]]), True)
    best = logits[:, int(scores[0].argmax())][:, None].float()
    mask = torch.nn.functional.interpolate(best, (128, 128), mode="bilinear")[0, 0].numpy() > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_kept_features_follow_the_embedding_and_the_weights(model: E2SAM) -> None:
    prompts = prompts_of([[(10.0, 20.0, 1)]])
    with torch.inference_mode():
        first, second = model.encode(torch.randn(1, 3, 64, 64)), model.encode(torch.randn(1, 3, 64, 64))
    decoder = model.decoder
    assert isinstance(decoder, TinyDecoder)
    with torch.no_grad():
        expected = [decoder.decode(decoder.features(embedding), prompts)[0][:, :1] for embedding in (first, second)]
        for index in (0, 0, 1, 0):
            embedding = (first, second)[index].clone()
            assert torch.equal(decoder(embedding, prompts, False)[0], expected[index])
        weight = decoder.trunk_in.weight
        before = weight.clone()
        weight.mul_(2)
        changed, _ = decoder(first.clone(), prompts, False)
        assert not torch.allclose(changed, expected[0])
        weight.copy_(before)
        both = torch.cat((first, second))
        decoder(both, prompts_of([[(10.0, 20.0, 1)]] * 2), False)
        for index in (1, 0):
            assert torch.allclose(decoder(both[index : index + 1], prompts, False)[0], expected[index], atol=1e-5)
        both[0] = both[1]
        assert torch.allclose(decoder(both[:1], prompts, False)[0], expected[1], atol=1e-5)


def test_candidates_hold_the_single_mask_and_the_better_two(model: E2SAM) -> None:
    decoder = model.decoder
    assert isinstance(decoder, TinyDecoder)
    decoder = copy.deepcopy(decoder)
    # The quality head starts at zero and ranks nothing.
    torch.nn.init.normal_(decoder.quality[-1].weight)
    with torch.inference_mode():
        embedding = model.encode(torch.randn(1, 3, 64, 64))
        prompts = prompts_of([[(10.0, 20.0, 1)]])
        every, quality = decoder.decode(decoder.features(embedding), prompts)
        candidates, scores = decoder(embedding, prompts, True)
    assert torch.equal(candidates[:, 0], every[:, 0])
    left_out = int(quality[0, 1:].argmin()) + 1
    kept = {index for index in (1, 2, 3) if index != left_out}
    for position in (1, 2):
        assert any(torch.equal(candidates[0, position], every[0, index]) for index in kept)
    assert scores[0, 0] >= quality[0, 0]


def test_a_mask_is_judged_by_the_boundaries_that_its_contour_crosses() -> None:
    rng = torch.Generator().manual_seed(0)
    hard = (torch.rand(2, 3, 6, 7, generator=rng) > 0.5).float()
    cost = torch.rand(2, 2, 6, 7, generator=rng)
    on_contour, within = tiny_decoder._contour(hard, hard.sum((2, 3)), tiny_decoder._steps(cost))
    sideways, downwards = hard[..., :-1] != hard[..., 1:], hard[..., :-1, :] != hard[..., 1:, :]
    right, down = cost[:, :1, :, :-1], cost[:, 1:, :-1, :]
    crossed = (sideways * right).sum((2, 3)) + (downwards * down).sum((2, 3))
    assert torch.allclose(on_contour, crossed / (sideways.sum((2, 3)) + downwards.sum((2, 3)) + 1), atol=1e-5)
    stays = (hard[..., :-1] * hard[..., 1:] * right).sum((2, 3))
    assert torch.allclose(within, stays / (hard.sum((2, 3)) + 1), atol=1e-5)


def test_quality_is_told_the_same_of_a_large_mask_in_bfloat16(model: E2SAM) -> None:
    decoder = copy.deepcopy(model.decoder)
    assert isinstance(decoder, TinyDecoder)
    torch.nn.init.normal_(decoder.quality[-1].weight)
    rng = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    # Areas to 11,000 positions, of which bfloat16 knows every 64th: a contour of 380 would be lost in them.
    radii = torch.tensor([30.0, 45.0, 55.0, 60.0])[:, None, None]
    logits = (radii - torch.hypot(y - 63.3, x - 64.1))[None]
    x8, summary = torch.randn(1, 48, 64, 64, generator=rng), torch.randn(1, 128, generator=rng)
    steps = tiny_decoder._steps(torch.rand(1, 2, 128, 128, generator=rng))
    with torch.no_grad():
        exact = decoder._quality(logits, x8, summary, steps)
        with torch.autocast("cpu", torch.bfloat16):
            fast = decoder._quality(logits, x8, summary, steps)
    assert fast.dtype == torch.float32 and torch.equal(fast, exact)


def test_likeness_to_clicks_is_by_head() -> None:
    rng = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(4, 3, 2, 5, generator=rng), torch.randn(2, 2, 5, 11, generator=rng)
    expected = torch.einsum("biphd,bhdn->biphn", queries.unflatten(0, (2, 2)), keys).flatten(0, 1)
    assert torch.allclose(tiny_decoder._scores(queries, keys), expected, atol=1e-5)


def test_maps_are_the_same_in_either_order() -> None:
    maps = torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        last = tiny_decoder._channels_last(maps)
    assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, maps)


def test_features_of_an_image_and_of_a_closer_look_are_both_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("tiny", device="cpu")
    decoder = model.decoder
    assert isinstance(decoder, TinyDecoder)
    made: list[int] = []
    features = decoder.features

    def counted(embeddings: torch.Tensor) -> Any:
        made.append(1)
        return features(embeddings)

    monkeypatch.setattr(decoder, "features", counted)
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 256, 16, 16, generator=generator) for _ in range(3)]
    prompts = PromptTensors(torch.tensor([[[40.0, 40.0], [0.0, 0.0]]]), torch.tensor([[1, -1]]))
    with torch.no_grad():
        fresh = [model.decode(image, prompts, False)[0].clone() for image in images[:2]]
        assert len(made) == 2
        for _ in range(2):
            for image, expected in zip(images[:2], fresh, strict=True):
                torch.testing.assert_close(model.decode(image, prompts, False)[0], expected)
        assert len(made) == 2
        # A third one takes the place of the one that was not used for longest.
        for index in (2, 1, 0):
            model.decode(images[index], prompts, False)
    assert len(made) == 4

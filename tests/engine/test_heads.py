"""SAM's decoder: the quick pass and the one with gradients, against segment_anything's own modules."""

from __future__ import annotations

import copy

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from e2sam.modeling.e2sam import PromptTensors
from e2sam.modeling.heads import SamDecoder
from e2sam.modeling.lora import LoRALinear

GRID = (6, 9)
FRAME = (GRID[0] * 16, GRID[1] * 16)


@pytest.fixture(scope="module")
def decoder() -> SamDecoder:
    torch.manual_seed(0)
    made = SamDecoder(128, 16).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made


@pytest.fixture(scope="module")
def reference(decoder: SamDecoder) -> nn.Module:
    """segment_anything's own pair for the same frame."""
    pair = nn.Module()
    pair.prompt_encoder = PromptEncoder(256, GRID, FRAME, 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    pair.mask_decoder = MaskDecoder(transformer_dim=256, transformer=transformer, num_multimask_outputs=3)
    pair.load_state_dict(decoder.state_dict(), strict=True)
    return pair.eval()


def embeddings_of(batch: int) -> Tensor:
    return torch.randn(batch, 256, *GRID, generator=torch.Generator().manual_seed(1))


def decode_reference(
    reference: nn.Module, embeddings: Tensor, prompts: PromptTensors, multimask: bool
) -> tuple[Tensor, Tensor]:
    """One prompt at a time, with the calls that `SamPredictor` makes."""
    parts = []
    for index, (coords, labels) in enumerate(zip(prompts.point_coords, prompts.point_labels, strict=True)):
        is_box = labels >= 2
        boxes = coords[is_box].reshape(1, 4) if is_box.any() else None
        kept = (labels == 0) | (labels == 1)
        points = (coords[kept][None], labels[kept][None]) if kept.any() else None
        mask = None if prompts.mask_input is None else prompts.mask_input[index : index + 1]
        sparse, dense = reference.prompt_encoder(points, boxes, mask)
        embedding = embeddings[min(index, len(embeddings) - 1)][None]
        positions = reference.prompt_encoder.get_dense_pe()
        parts.append(reference.mask_decoder(embedding, positions, sparse, dense, multimask))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def prompts_of(kind: str, batch: int) -> PromptTensors:
    generator = torch.Generator().manual_seed(2)

    def coords(count: int) -> Tensor:
        return torch.rand(batch, count, 2, generator=generator) * torch.tensor(FRAME[::-1])

    labels = {"click": [1, -1], "clicks": [1, 0, 1, -1], "box": [2, 3], "box and click": [0, 2, 3], "mask": [1, -1]}
    mask = torch.randn(batch, 1, 4 * GRID[0], 4 * GRID[1], generator=generator) if kind == "mask" else None
    return PromptTensors(coords(len(labels[kind])), torch.tensor([labels[kind]] * batch), mask)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["click", "clicks", "box", "box and click", "mask"])
def test_equals_segment_anything(
    decoder: SamDecoder, reference: nn.Module, kind: str, multimask: bool, gradients: bool
) -> None:
    prompts, embeddings = prompts_of(kind, 5), embeddings_of(1)
    with torch.no_grad():
        expected = decode_reference(reference, embeddings, prompts, multimask)
    with torch.set_grad_enabled(gradients):
        found = decoder(embeddings, prompts, multimask)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gradients", [False, True])
def test_prompts_on_embeddings_of_their_own(decoder: SamDecoder, reference: nn.Module, gradients: bool) -> None:
    """One prompt for each of five embeddings, as for several views of a scene."""
    prompts, embeddings = prompts_of("click", 5), embeddings_of(5)
    with torch.no_grad():
        expected, _ = decode_reference(reference, embeddings, prompts, True)
    with torch.set_grad_enabled(gradients):
        found, _ = decoder(embeddings, prompts, True)
    torch.testing.assert_close(found.detach(), expected, atol=1e-4, rtol=1e-4)


def test_what_is_held_of_an_image_is_not_used_for_another(decoder: SamDecoder) -> None:
    prompts, image = prompts_of("click", 1), embeddings_of(1)
    with torch.no_grad():
        first, _ = decoder(image, prompts, True)
        again, _ = decoder(image, prompts, True)
        torch.testing.assert_close(first, again)
        image.mul_(-1)
        changed, _ = decoder(image, prompts, True)
        fresh, _ = copy.deepcopy(decoder)(image.clone(), prompts, True)
    assert (changed - first).abs().max() > 1e-3
    torch.testing.assert_close(changed, fresh)


def test_training_and_other_grids_are_seen(decoder: SamDecoder) -> None:
    trained = copy.deepcopy(decoder)
    prompts, image = prompts_of("click", 1), embeddings_of(1)
    with torch.no_grad():
        before, _ = trained(image, prompts, True)
        trained.prompt_encoder.no_mask_embed.weight += 1
        after, _ = trained(image, prompts, True)
        small, _ = trained(image[..., :4, :4], prompts, True)
    assert (after - before).abs().max() > 1e-3
    assert small.shape == (1, 3, 16, 16)
    with torch.enable_grad():
        torch.testing.assert_close(trained(image, prompts, True)[0].detach(), after, atol=1e-4, rtol=1e-4)


def test_low_rank_adaptations_are_seen(decoder: SamDecoder) -> None:
    adapted = copy.deepcopy(decoder)
    prompts, image = prompts_of("click", 2), embeddings_of(1)
    attention = adapted.mask_decoder.transformer.layers[0].cross_attn_image_to_token
    attention.q_proj = LoRALinear(attention.q_proj, rank=2)
    with torch.no_grad():
        attention.q_proj.lora_b.normal_(std=1.0)
        found, _ = adapted(image, prompts, True)
        plain, _ = decoder(image, prompts, True)
    assert (found - plain).abs().max() > 1e-4
    torch.testing.assert_close(found, adapted(image, prompts, True)[0].detach(), atol=1e-5, rtol=1e-5)


def test_gradients_reach_decoder_and_embedding(decoder: SamDecoder) -> None:
    trained = copy.deepcopy(decoder)
    image = embeddings_of(1).requires_grad_()
    logits, quality = trained(image, prompts_of("click", 3), True)
    (logits.square().mean() + quality.square().mean()).backward()
    assert image.grad is not None and image.grad.abs().max() > 0
    attention = trained.mask_decoder.transformer.layers[1].cross_attn_image_to_token
    assert attention.v_proj.weight.grad is not None


def test_autocast_keeps_working(decoder: SamDecoder) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits, _ = decoder(embeddings_of(1), prompts_of("click", 3), True)
    assert logits.isfinite().all()

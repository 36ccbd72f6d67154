"""SAM's prompt encoder and mask decoder behind one call, on any embedding grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from e2sam.modeling.e2sam import PromptTensors
from e2sam.modeling.two_way import ImageSide, is_plain, two_way_pass, upscale

__all__ = ["SamDecoder"]

# Prompts decoded at once without gradients. Each has its own image tokens, 4 MB at 1024 pixels: on a CPU more than two
# leave the caches and cost time; a GPU wants many.
_CHUNKS = {"cpu": 2}
_CHUNK_OF_OTHERS = 64


class SamDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder; weights and their names are segment_anything's own.

    With gradients it runs segment_anything's modules; without, the same sums in an order that never projects the image
    tokens, which depend on the image alone until the prompts' tokens have reached them (see `two_way`).

    Parameters
    ----------
    image_size
        Side of SAM's square frame in pixels.
    stride
        Pixels of the frame behind one position of the embedding.
    """

    def __init__(self, image_size: int = 1024, stride: int = 16) -> None:
        super().__init__()
        # Only here: with it comes torchvision, of which `tiny` needs nothing.
        from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

        grid = image_size // stride
        self.stride = stride
        self.prompt_encoder = PromptEncoder(
            embed_dim=256,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )
        self._image_side = ImageSide()

    def forward(
        self, image_embeddings: Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts on (B or 1, 256, h, w) embeddings; see `PromptDecoder`.

        Point coordinates are taken as segment_anything takes them: the half pixel to a pixel's centre is added here.
        """
        if torch.is_grad_enabled() or not is_plain(self.mask_decoder.transformer):
            return self._decode_with_modules(image_embeddings, prompts, multimask_output)
        num = prompts.point_coords.shape[0]
        size = _CHUNKS.get(image_embeddings.device.type, _CHUNK_OF_OTHERS)
        if num <= size:
            return self._decode_quickly(image_embeddings, prompts, multimask_output)
        parts = [slice(start, start + size) for start in range(0, num, size)]
        shared = image_embeddings.shape[0] == 1
        decoded = [
            self._decode_quickly(
                image_embeddings if shared else image_embeddings[part], _taken(prompts, part), multimask_output
            )
            for part in parts
        ]
        return torch.cat([logits for logits, _ in decoded]), torch.cat([quality for _, quality in decoded])

    def _decode_with_modules(
        self, embeddings: Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        decoder = self.mask_decoder
        height, width = embeddings.shape[-2:]
        tokens = self._tokens(prompts, (height, width))
        source = embeddings + self._dense(prompts, (height, width))
        positions = self.prompt_encoder.pe_layer((height, width)).expand_as(source)
        queries, keys = decoder.transformer(source, positions, tokens)
        upscaled = decoder.output_upscaling(keys.transpose(1, 2).unflatten(2, (height, width)))
        logits = torch.einsum("bmc,bcyx->bmyx", self._mask_weights(queries, multimask_output), upscaled)
        return logits, self._quality(queries, multimask_output)

    def _decode_quickly(
        self, embeddings: Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        decoder = self.mask_decoder
        height, width = embeddings.shape[-2:]
        tokens = self._tokens(prompts, (height, width))
        positions = self._image_side.positions(self.prompt_encoder.pe_layer, (height, width))
        if prompts.mask_input is None:
            keys = self._image_side.keys(embeddings, self.prompt_encoder.no_mask_embed.weight)
        else:
            keys = (embeddings + self._dense(prompts, (height, width))).flatten(2).transpose(1, 2).contiguous()
        queries, keys = two_way_pass(decoder.transformer, tokens, keys, positions)
        weights = self._mask_weights(queries, multimask_output)
        logits = upscale(decoder.output_upscaling, keys, weights, (height, width))
        return logits, self._quality(queries, multimask_output)

    def _tokens(self, prompts: PromptTensors, grid: tuple[int, int]) -> Tensor:
        """(B, 5 + P, 256): quality, four masks, then the prompt's points."""
        decoder = self.mask_decoder
        sparse = self._embed_points(prompts, grid)
        output = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
        return torch.cat((output.expand(sparse.shape[0], -1, -1), sparse), dim=1)

    def _embed_points(self, prompts: PromptTensors, grid: tuple[int, int]) -> Tensor:
        encoder = self.prompt_encoder
        frame = (grid[0] * self.stride, grid[1] * self.stride)
        positions = encoder.pe_layer.forward_with_coords(prompts.point_coords + 0.5, frame)
        kinds = torch.cat((encoder.not_a_point_embed.weight, *(kind.weight for kind in encoder.point_embeddings)))
        embedded: Tensor = positions * (prompts.point_labels >= 0).unsqueeze(-1) + kinds[prompts.point_labels + 1]
        return embedded

    def _dense(self, prompts: PromptTensors, grid: tuple[int, int]) -> Tensor:
        """(B or 1, 256, h, w) embedding of the mask prompts, or of their absence."""
        encoder = self.prompt_encoder
        if prompts.mask_input is None:
            absent: Tensor = encoder.no_mask_embed.weight.view(1, -1, 1, 1)
            return absent.expand(-1, -1, *grid)
        dense: Tensor = encoder.mask_downscaling(prompts.mask_input)
        return dense

    def _mask_weights(self, queries: Tensor, multimask_output: bool) -> Tensor:
        """(B, M, 32) weights of the upscaled channels in each mask."""
        wanted = range(1, self.mask_decoder.num_mask_tokens) if multimask_output else range(1)
        networks = self.mask_decoder.output_hypernetworks_mlps
        return torch.stack([networks[index](queries[:, 1 + index]) for index in wanted], dim=1)

    def _quality(self, queries: Tensor, multimask_output: bool) -> Tensor:
        """(B, M) predicted IoU."""
        quality: Tensor = self.mask_decoder.iou_prediction_head(queries[:, 0])
        return quality[:, 1:] if multimask_output else quality[:, :1]


def _taken(prompts: PromptTensors, part: slice) -> PromptTensors:
    mask = prompts.mask_input
    return PromptTensors(prompts.point_coords[part], prompts.point_labels[part], None if mask is None else mask[part])

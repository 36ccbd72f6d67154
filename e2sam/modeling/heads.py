"""SAM's prompt encoder and mask decoder behind one call, on any embedding grid."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from e2sam.modeling.e2sam import PromptTensors

__all__ = ["SamDecoder"]


class SamDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder; weights and their names are segment_anything's own.

    Parameters
    ----------
    image_size
        Side of SAM's square frame in pixels.
    stride
        Pixels of the frame behind one position of the embedding.
    """

    def __init__(self, image_size: int = 1024, stride: int = 16, mlp_dim: int = 2048) -> None:
        super().__init__()
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
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=mlp_dim, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    def forward(
        self, image_embeddings: Tensor, prompts: PromptTensors, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode B prompts on (B or 1, 256, h, w) embeddings; see `PromptDecoder`."""
        height, width = image_embeddings.shape[-2:]
        encoder = self.prompt_encoder
        batch = prompts.point_coords.shape[0]
        frame = (height * self.stride, width * self.stride)
        sparse = self._embed_points(prompts.point_coords, prompts.point_labels, frame)
        if prompts.mask_input is None:
            dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(batch, -1, height, width)
        else:
            dense = encoder.mask_downscaling(prompts.mask_input)
        pe = encoder.pe_layer((height, width)).unsqueeze(0)
        if image_embeddings.shape[0] == 1:
            return self.mask_decoder(image_embeddings, pe, sparse, dense, multimask_output)
        parts = [
            self.mask_decoder(image_embeddings[i : i + 1], pe, sparse[i : i + 1], dense[i : i + 1], multimask_output)
            for i in range(batch)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _embed_points(self, coords: Tensor, labels: Tensor, frame: tuple[int, int]) -> Tensor:
        """(B, P, 256) embeddings of points of every label; the half pixel is added here, as in SAM."""
        encoder = self.prompt_encoder
        positions = encoder.pe_layer.forward_with_coords(coords + 0.5, frame)
        table = torch.cat([encoder.not_a_point_embed.weight, *(kind.weight for kind in encoder.point_embeddings)])
        return positions * (labels >= 0).unsqueeze(-1) + table[labels + 1]

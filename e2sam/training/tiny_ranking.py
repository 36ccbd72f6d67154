"""Trains what `tiny` ranks its masks by: `python -m e2sam.training.tiny_ranking --help`.

The other weights stay as they are. What the head of the predicted quality is given is computed once, on whole scenes as
users see them, and the head alone learns from that.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from e2sam.data.synthetic import Material, Scene, SceneOptions, make_scene
from e2sam.errors import TrainingError
from e2sam.modeling.e2sam import E2SAM
from e2sam.modeling.tiny import TinyDecoder
from e2sam.training.tiny_data import KindShares, first_prompts
from e2sam.training.tiny_loss import Rounds, corrected
from e2sam.weights.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["Examples", "RankingConfig", "collect_examples", "fit_quality", "train_ranking"]

logger = logging.getLogger(__name__)

_SIDE = 512
# How sharply the mask of the highest logit counts as chosen, and what its loss weighs beside the cross entropy.
_SHARPNESS, _RANKING = 3.0, 2.0


@dataclass(frozen=True)
class RankingConfig:
    """Settings.

    Attributes
    ----------
    initial
        Checkpoint of `tiny` whose head is trained anew.
    out
        Checkpoint to write.
    material
        `train.npz` of `e2sam.training.tiny_material`, or None for procedural scenes only.
    scenes, objects
        Scenes of 512 x 512 pixels, and objects of each at most.
    shares
        How often a scene is of a kind that is asked for by name.
    smallest
        Least area of an object that is asked for, pixels.
    epochs, learning_rate, weight_decay, dropout
        Of the head.
    seed
        Of scenes, prompts and the head.
    """

    initial: Path
    out: Path
    material: Path | None = None
    scenes: int = 300
    objects: int = 12
    shares: KindShares = field(default_factory=KindShares)
    smallest: int = 200
    epochs: int = 40
    learning_rate: float = 2e-3
    weight_decay: float = 0.3
    dropout: float = 0.3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of the quality head (N, 4, F) and the IoU (N, 4) of the masks that they describe, both float32."""

    inputs: Tensor
    ious: Tensor

    def chosen_iou(self, head: nn.Module) -> float:
        """Mean IoU of the masks that the head would choose."""
        with torch.no_grad():
            best = head(self.inputs)[..., 0].argmax(1, keepdim=True)
        return float(self.ious.gather(1, best).mean())


def train_ranking(config: RankingConfig) -> Path:
    """Train the quality head of `initial` and write the checkpoint `out`."""
    model = load_checkpoint(config.initial, "cpu")
    decoder = model.decoder
    if not isinstance(decoder, TinyDecoder):
        raise TrainingError(f"Expected a checkpoint of tiny, got another model in {config.initial}.")
    material = None if config.material is None else Material.load(config.material)
    # The last eighth of the scenes judges, and is not learned from.
    judging = max(1, config.scenes // 8)
    learned = collect_examples(model, config, range(config.scenes - judging), material)
    judged = collect_examples(model, config, range(config.scenes - judging, config.scenes), material)
    before = judged.chosen_iou(decoder.quality)
    fit_quality(decoder.quality, learned, config)
    figures = {
        "chosen_before": before,
        "chosen": judged.chosen_iou(decoder.quality),
        "best": float(judged.ious.amax(1).mean()),
    }
    logger.info("IoU on scenes not learned from: %s", " ".join(f"{name} {figures[name]:.3f}" for name in figures))
    settings = {name: value for name, value in asdict(config).items() if not isinstance(value, Path)}
    facts = {"stage": "teacher", "training": {"task": "ranking", "of": model.fingerprint, **settings, **figures}}
    return save_checkpoint(config.out, model.half(), facts)


@torch.no_grad()
def collect_examples(
    model: E2SAM, config: RankingConfig, numbers: Sequence[int], material: Material | None
) -> Examples:
    """What the head sees, and should say, of objects of the scenes of these numbers: first prompts and corrections."""
    decoder = model.decoder
    assert isinstance(decoder, TinyDecoder)
    inputs: list[Tensor] = []
    ious: list[Tensor] = []
    hook = decoder.quality.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        for number in numbers:
            rng = np.random.default_rng((config.seed, number))
            kind = config.shares.draw(rng)
            options = SceneOptions(kind, hidden=0.0, smallest=config.smallest)
            scene = make_scene(rng, (_SIDE, _SIDE), 0, options, material)
            masks = _objects(rng, scene, config.objects)
            if not len(masks):
                continue
            pixels = torch.from_numpy(np.round(scene.planes[:3] * 255).astype(np.float32))[None]
            features = decoder.features(model.encode(model.prepare(pixels, (_SIDE, _SIDE))))
            rounds = Rounds(*first_prompts(rng, masks))
            for is_last in (False, True):
                logits, quality = decoder.decode(features, rounds.prompts())
                ious.append(_ious(logits, masks))
                if not is_last:
                    shown = logits[torch.arange(len(logits)), quality.argmax(1)][:, None]
                    rounds = corrected(rounds, shown, masks[:, ::2, ::2], rng)
            if (number + 1) % 20 == 0:
                logger.info("scene %d of %d", number + 1, config.scenes)
    finally:
        hook.remove()
    if not inputs:
        raise TrainingError("Expected scenes with visible objects, got none: raise the number of scenes.")
    return Examples(torch.cat(inputs), torch.cat(ious))


def fit_quality(head: nn.Sequential, examples: Examples, config: RankingConfig) -> None:
    """Train the head anew, in place: cross entropy with the IoU, and what choosing by it loses."""
    torch.manual_seed(config.seed)
    mean = examples.inputs.mean((0, 1))
    scale = examples.inputs.std((0, 1)).clamp(min=1e-3)
    inputs = (examples.inputs - mean) / scale
    first, last = head[0], head[-1]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    for layer in (first, last):
        layer.reset_parameters()
    dropped = nn.Sequential(nn.Dropout(config.dropout), first, nn.ReLU(), nn.Dropout(config.dropout), last)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = max(1, config.epochs * len(inputs) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        drawn = torch.randint(0, len(inputs), (128,))
        logits, ious = dropped(inputs[drawn])[..., 0], examples.ious[drawn]
        loss = F.binary_cross_entropy_with_logits(logits, ious)
        chance = torch.softmax(_SHARPNESS * logits, dim=1)
        loss = loss + _RANKING * (ious.amax(1) - (chance * ious).sum(1)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        # The head is used without standardization: it goes into the first layer.
        first.weight.div_(scale)
        first.bias.sub_(first.weight @ mean)


def _objects(rng: np.random.Generator, scene: Scene, most: int) -> NDArray[np.bool_]:
    """(B, H, W) masks of objects that the colour planes show, at random."""
    shown = [label for label in range(1, len(scene.parents)) if scene.visible[label, 0] and scene.mask(label).any()]
    chosen = rng.permutation(np.array(shown, dtype=np.int64))[:most]
    height, width = scene.planes.shape[1:]
    return np.array([scene.mask(int(label)) for label in chosen], bool).reshape(-1, height, width)


def _ious(logits: Tensor, masks: NDArray[np.bool_]) -> Tensor:
    """(B, M) IoU of logits at stride 4 with the masks (B, H, W)."""
    hard = F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=False) > 0
    truth = torch.from_numpy(masks)[:, None]
    return (hard & truth).sum((2, 3)) / (hard | truth).sum((2, 3)).clamp(min=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Train what the embedded model ranks its masks by.",
        epilog="example: python -m e2sam.training.tiny_ranking --initial run/tiny.safetensors --out ranked.safetensors",
    )
    parser.add_argument("--initial", type=Path, required=True, help="checkpoint of tiny")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--material", type=Path, help="train.npz of e2sam.training.tiny_material")
    defaults = RankingConfig(Path(), Path())
    for name in ("scenes", "objects", "smallest", "epochs", "seed"):
        parser.add_argument("--" + name, type=int, default=getattr(defaults, name))
    for name in ("learning_rate", "weight_decay", "dropout"):
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=getattr(defaults, name))
    KindShares.add_options(parser)
    options = vars(parser.parse_args(arguments))
    options["shares"] = KindShares.take(options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logger.info("wrote %s", train_ranking(RankingConfig(**options)))


if __name__ == "__main__":
    main()

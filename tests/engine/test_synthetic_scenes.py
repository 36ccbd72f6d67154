from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from e2sam.data.synthetic import KINDS, Material, SceneOptions, make_scene, synthetic_stack
from e2sam.data.synthetic.textures import resample, smooth_field
from e2sam.errors import ChannelError, StackError, TrainingError
from e2sam.training.tiny_material import collect_material


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_scene_is_finite_in_range_and_labelled(kind: str, size: tuple[int, int]) -> None:
    scene = make_scene(np.random.default_rng(1), size, 3, SceneOptions(kind=kind))
    assert scene.planes.shape == (6, *size) and scene.planes.dtype == np.float32
    assert np.isfinite(scene.planes).all() and scene.planes.min() >= 0 and scene.planes.max() <= 1
    assert scene.labels.dtype == np.int32 and scene.labels.max() >= 1
    assert set(np.unique(scene.labels)) - {0} <= set(range(1, len(scene.visible)))
    assert scene.visible.shape == (len(scene.parents), 4)


def test_same_state_gives_same_scene_and_another_gives_another() -> None:
    first = make_scene(np.random.default_rng(3), (64, 64))
    again = make_scene(np.random.default_rng(3), (64, 64))
    other = make_scene(np.random.default_rng(4), (64, 64))
    assert np.array_equal(first.planes, again.planes) and np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.planes, other.planes)


def test_hidden_objects_are_in_further_channels_only() -> None:
    contrast_colour, contrast_extra = [], []
    for seed in range(8):
        options = SceneOptions(kind="objects", hidden=1.0, clean=True)
        scene = make_scene(np.random.default_rng(seed), (96, 96), 3, options)
        assert not scene.visible[1:, 0].any()
        bare = make_scene(
            np.random.default_rng(seed), (96, 96), 3, SceneOptions(kind="objects", hidden=1.0, clean=True)
        )
        assert np.array_equal(bare.labels, scene.labels)
        inside, outside = scene.labels > 0, scene.labels == 0
        edge = inside[:, 1:] != inside[:, :-1]
        steps = np.abs(np.diff(scene.planes, axis=2))
        contrast_colour.append(steps[:3][:, edge].mean() - steps[:3][:, ~edge].mean())
        contrast_extra.append(steps[3][edge].mean() - steps[3][~edge].mean())
        assert outside.any()
    # Borders of hidden objects are steps in depth, and no more than any other place in colour.
    assert np.mean(contrast_extra) > 0.05
    assert abs(np.mean(contrast_colour)) < 0.01


def test_night_leaves_the_further_channels_alone() -> None:
    day = make_scene(np.random.default_rng(5), (96, 96), 2, SceneOptions(kind="objects"))
    night = make_scene(np.random.default_rng(5), (96, 96), 2, SceneOptions(kind="objects", night=True))
    assert night.planes[:3].mean() < 0.5 * day.planes[:3].mean()
    assert night.planes[3:].std() > 0.5 * day.planes[3:].std()


def test_haze_lowers_contrast() -> None:
    clear = make_scene(np.random.default_rng(8), (96, 96), 2, SceneOptions(kind="objects"))
    hazy = make_scene(np.random.default_rng(8), (96, 96), 2, SceneOptions(kind="objects", haze=True))
    assert hazy.planes[:3].std() < clear.planes[:3].std()


def test_mask_of_a_cell_holds_its_nucleus() -> None:
    for seed in range(20):
        scene = make_scene(np.random.default_rng(seed), (96, 96), 2, SceneOptions(kind="cells"))
        parts = np.flatnonzero(scene.parents)
        if len(parts):
            part, parent = int(parts[0]), int(scene.parents[parts[0]])
            assert scene.mask(parent)[scene.labels == part].all()
            assert not scene.mask(part)[scene.labels == parent].any()
            return
    pytest.fail("no scene of 20 had nuclei")


def test_tissue_is_packed_and_parts_too_small_to_see_belong_to_their_cell() -> None:
    touching = 0
    for seed in range(6):
        scene = make_scene(np.random.default_rng(seed), (96, 96), 2, SceneOptions(kind="tissue", smallest=60))
        for label in range(1, len(scene.parents)):
            assert scene.mask(label).sum() >= 60
            assert scene.parents[scene.parents[label]] == 0
        wholes = np.where(scene.parents[scene.labels] > 0, scene.parents[scene.labels], scene.labels)
        right, left = wholes[:, 1:], wholes[:, :-1]
        touching += int(((right != left) & (right > 0) & (left > 0)).sum())
    assert touching > 200


def test_cells_of_a_culture_fade_from_their_middle_to_their_rim() -> None:
    brightness: list[list[float]] = []
    for seed in range(12):
        scene = make_scene(np.random.default_rng(seed), (160, 160), 0, SceneOptions(kind="culture", clean=True))
        assert (scene.parents > 0).sum() < (scene.parents == 0).sum()
        brightest = scene.planes.max(0)
        for label in np.flatnonzero(scene.parents == 0)[1:]:
            depth = ndimage.distance_transform_edt(scene.mask(int(label)))
            if depth.max() >= 8 and scene.visible[label, 0]:
                rings = ((depth > 0) & (depth < 3), depth > 0.6 * depth.max())
                brightness.append([float(brightest[ring].mean()) for ring in rings])
    rim, middle = np.array(brightness).T
    assert len(rim) >= 20
    assert (middle > rim).mean() > 0.7


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 13, 16])
def test_stack_of_any_number_of_channels(count: int) -> None:
    stack, labels = synthetic_stack(0, count, (64, 80))
    assert stack.data.shape == (count, 64, 80) and labels.shape == (64, 80)
    assert np.isfinite(stack.read()).all() and stack.valid.all()
    if count >= 3:
        assert stack.names[:3] == ("R", "G", "B") and stack.read(channels=[0, 1, 2]).max() > 1


def test_depth_grows_with_distance() -> None:
    stack, labels = synthetic_stack(2, 4, (96, 96), SceneOptions(kind="objects", hidden=1.0, clean=True))
    depth = stack.read()[3]
    assert depth.min() >= 0.9 and depth.max() <= 60.1
    assert np.median(depth[labels > 0]) < np.median(depth[labels == 0])


def test_wrong_wishes_are_refused() -> None:
    with pytest.raises(StackError, match="kind of scene"):
        make_scene(np.random.default_rng(0), (64, 64), 3, SceneOptions(kind="sea"))
    with pytest.raises(StackError, match="32 x 32"):
        make_scene(np.random.default_rng(0), (8, 64))
    with pytest.raises(ChannelError, match="at least 1"):
        synthetic_stack(0, 0)


def test_resample_keeps_linear_ramps() -> None:
    ramp = np.linspace(0, 1, 5, dtype=np.float32)[None].repeat(3, 0)
    assert np.allclose(resample(ramp, (7, 17)), np.linspace(0, 1, 17), atol=1e-6)
    field = smooth_field(np.random.default_rng(0), (20, 30), 3.0)
    assert field.min() == 0 and field.max() == pytest.approx(1)


def test_material_is_collected_loaded_and_used(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    disk = np.hypot(*(np.mgrid[:48, :48] - 23.5)) < 20
    for index in range(24):
        rgba = np.zeros((48, 48, 4), np.uint8)
        rgba[disk] = (255, 10 * index, 0, 255)
        Image.fromarray(rgba).save(pictures / f"disk_{index}.png")
    Image.fromarray(np.full((300, 300, 3), 128, np.uint8)).save(pictures / "grey.jpg")
    # A word may name a folder as well as a file.
    (pictures / "dark").mkdir()
    Image.fromarray(np.full((300, 300, 3), 20, np.uint8)).save(pictures / "dark" / "picture.jpg")
    (pictures / "broken.png").write_bytes(b"no picture")
    counts = collect_material([pictures], [pictures / "grey.jpg", pictures / "dark"], tmp_path / "out", ["dark/"])
    assert counts["train_sprites"] + counts["held_out_sprites"] == 24
    assert (counts["train_photos"], counts["held_out_photos"]) == (1, 1)
    material = Material.load(tmp_path / "out" / "train.npz")
    sprite = material.sprite(material.num_sprites - 1)
    assert sprite.shape[0] == 4 and 0.6 < (sprite[3] > 0.5).mean() < 0.9
    assert material.photo(0).shape == (300, 300, 3) and (material.photo(0) == 128).all()
    scene = make_scene(np.random.default_rng(0), (96, 96), 3, SceneOptions(kind="objects", clean=True), material)
    assert scene.labels.max() > 0
    with pytest.raises(TrainingError, match="tiny_material"):
        Material.load(tmp_path / "absent.npz")

"""Every tooltip of the window, by the name of its widget; {action} stands for the action's key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtWidgets import QPushButton, QWidget

from napari_e2sam._shortcuts import SHORTCUTS, Shortcut, readable

__all__ = ["TOOLTIPS", "set_tooltips"]

TOOLTIPS: Mapping[str, str] = {
    # Stack
    "layers": "Image layers the stack is made of. Tick several to join them on the finest of their pixel grids.",
    "axis": "Which axis of the layer holds the channels.",
    "sample": "Open the sample: a photograph with its disparity map (RGB-D).",
    "find_image": "Say where the image of this session is now; others that moved with it are found too.",
    "accept_image": "Take the image as it is now. Its objects stay where they are.",
    "alignment": "Estimate the shift between each selected channel and the first one, by phase correlation.",
    "correct": "Shift the channels that lie more than 2 pixels off back onto the first one.",
    "previous_plane": "The plane before this one.",
    "next_plane": "The plane after this one.",
    "planes_done": "Whether this stack is done.",
    "blink": "Switch the display between the channels that were compared.",
    # Worklist
    "open_folder": "Take the images of a folder as a worklist; it is kept in the session.",
    "worklist": "Images of the worklist: a tick for those that are done, a dot for those with objects.",
    "most_doubt": "Go to the image not done yet whose candidate masks disagree most ({most_doubt}).",
    "previous_image": "The image before this one.",
    "next_image": "The image after this one.",
    "done_and_next": "Tick this image off and go to the next one that is not done.",
    "image_done": "Whether this image is done.",
    # Channels
    "filter": "Show only channels whose name, role or unit contains this text, or a range such as 10-20.",
    "channels": "Tick the channels that the model sees. Space ticks every highlighted row.",
    "range": "Double-click to give the range by hand: two numbers such as 0 to 255. auto takes back recipe and range.",
    "range_trained": "This model normalizes as it was trained: recipes and ranges cannot be set.",
    "suggest": "Propose the most informative selection, and say why.",
    "preset": "Selections for this stack. {preset_0} to {preset_8} choose the first nine.",
    "save_preset": "Keep the current selection as a preset of this session.",
    "all": "Tick every channel that the filter shows.",
    "none": "Untick every channel that the filter shows.",
    "composite": "Show the three planes that the model is given as a layer. Display contrast never changes them.",
    # Model
    "model": "The model that makes masks. It stays on this computer; nothing is uploaded.",
    "browse": "Take a model from a file: .safetensors, or an official SAM .pth.",
    # Prompts
    "points": "Left click: inside the object. Right click or Shift + click: outside. Drag to move the view.",
    "box": "Drag a box around the object.",
    "scribble": "Draw a line inside the object; it becomes points.",
    "move": "Select, drag or delete points that were set.",
    "hover": "Show the mask for the pixel under the pointer before you click.",
    "window": "Encode again only the part around the object, from the first click on and whatever its size.",
    "candidates": "Masks for the same prompts. Choose with the keys {candidate_0}, {candidate_1} and {candidate_2}.",
    "accept": "Keep the mask as an object ({accept}).",
    "clear": "Take away points, box and mask ({clear}).",
    "leave_one_out": "Predict again without each selected channel: 1 means that the mask stays the same.",
    "next_click": "Show where the candidate masks disagree most: a good place for the next click ({next_click}).",
    # Objects
    "objects": "Accepted objects. Double-click edits one from its own prompts.",
    "classes": "Class of new objects, and of the chosen ones.",
    "add_class": "Add a class.",
    "rename_class": "Give this class another name; its objects keep it.",
    "remove_class": "Remove this class. Where objects have it, you say which class they go to.",
    "edit": "Take the chosen object back into prompts and improve it ({edit}).",
    "delete": "Delete the chosen objects ({delete}).",
    "merge": "Make one object of the chosen ones ({merge}).",
    "split": "Make one object of each separate part of the chosen ones.",
    "next": "Go to the next object that is not reviewed ({next}).",
    "export": "Write the objects to a file: label TIFF, PNG, COCO JSON or GeoJSON.",
    "import": "Take objects from a label image or a COCO file.",
    "everything": "Segment every object of the image; they come as objects to review.",
    "everything_here": "Segment every object that shows whole on the screen, at the detail of this view.",
    "carry": "Go to the next plane and begin an object there from this one ({carry}).",
    "overlap": "What happens where a new object lies on an old one.",
    "session": "Everything is saved as you work. Go on with another session, or begin one.",
    "preferences": "What is on in a new window, and where keys are changed.",
    "keys": "Every shortcut of this window.",
    # Learning
    "finetune": "Train the mask decoder on the accepted objects of this session.",
    "inherit": "Make a student that takes all channels of this stack, taught by the current model. Needs no labels.",
    "cancel": "Stop the run. The session stays as it is.",
    "use": "Take the trained model from now on.",
    "roll_back": "Go back to the model before the training.",
    # Batch
    "batch_source": "Folder of stacks, or one stack.",
    "batch_folders": "The images of a folder are the channels of one stack, as bands of satellites often are.",
    "batch_target": "Where masks are written.",
    "batch_model": "tiny, vit_b, vit_l, vit_h, or a file.",
    "batch_axis": "Which axis holds the channels, counted from 0, where the files do not say; else leave it empty.",
    "batch_channels": "Channels of the first stack. Tick those that the model sees, the same for every stack.",
    "batch_cancel": "Stop after the stacks under way; what is written stays. A second time stops at once.",
}


# Buttons that name their key.
_LABELS: Mapping[str, str] = {"accept": "Accept ({accept})", "clear": "Clear ({clear})"}


def set_tooltips(root: QWidget, shortcuts: Sequence[Shortcut] = SHORTCUTS) -> None:
    """Give every named widget under `root` its tooltip, with the keys that hold now."""
    keys = {shortcut.action.replace(" ", "_"): readable(shortcut.key) for shortcut in shortcuts}
    for widget in root.findChildren(QWidget):
        text = TOOLTIPS.get(widget.objectName())
        if text:
            widget.setToolTip(text.format_map(keys))
        label = _LABELS.get(widget.objectName())
        if label and isinstance(widget, QPushButton):
            widget.setText(label.format_map(keys))

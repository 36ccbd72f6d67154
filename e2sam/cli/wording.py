"""The engine's messages in the words of the command: options where a program would pass arguments."""

from __future__ import annotations

__all__ = ["in_command_words"]

_WORDS = (
    (
        "Give a mapping from the model's names to the stack's, or missing='fill'.",
        "Name the stack's channels as the model does, with --channel-names.",
    ),
    (
        "give a mapping from the model's names to the stack's.",
        "name the stack's channels as the model does, with --channel-names.",
    ),
    ("tick one in Channels, or pass channels='auto'.", "name one with --channels, or leave it out."),
    ("use device='cpu' or 'auto'.", "use --device cpu or auto."),
    ("pass the value that means unlabelled as ignore index.", "give the value of unlabelled with --ignore-index."),
    ("start without resume.", "start without --resume."),
    ("give channel_axis", "give --channel-axis"),
    ("Give channel_axis (--channel-axis)", "Give --channel-axis"),
    ("give stack_id (--stack)", "name one with --stack N"),
    (" (--channel-axis)", ""),
)


def in_command_words(message: str) -> str:
    """A message of the engine as one who types commands can follow it.

    Examples
    --------
    >>> in_command_words("Expected a CUDA device, got none on this machine: use device='cpu' or 'auto'.")
    'Expected a CUDA device, got none on this machine: use --device cpu or auto.'
    """
    for engine, command in _WORDS:
        message = message.replace(engine, command)
    return message

"""What can go wrong through a caller's input, each with one clear line.

Every message says what was expected, what came, and what to do.
"""


class E2SamError(Exception):
    """Wrong use or wrong input; commands answer it with one line and exit code 2."""


class StackError(E2SamError):
    """A file or array that cannot be read as a stack of channels."""


class AxisError(StackError):
    """An array of which neither its file nor its shape says which axis holds the channels."""


class ChannelError(E2SamError):
    """Channels that do not exist, stand twice, or do not fit the model."""


class PromptError(E2SamError):
    """Points, boxes or masks that do not fit the image."""


class CheckpointError(E2SamError):
    """Weights that are missing, damaged, unsafe or of another model."""


class SessionError(E2SamError):
    """A session file that cannot be opened, or an action that it cannot take."""


class TrainingError(E2SamError):
    """Data or settings that cannot be trained with."""


class OutputError(E2SamError):
    """A file that cannot be written, or must not be written over."""

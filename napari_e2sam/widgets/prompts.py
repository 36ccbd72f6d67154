"""Prompts panel: the tool in hand, candidate masks, and what each channel has to do with the mask."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import signals_blocked

from napari_e2sam._rows import CandidateRow, ShareRow, area_text

__all__ = ["PromptsPanel", "ShareBars"]

_BUTTON_HEIGHT = 27
_TOOLS = (("points", "Points"), ("box", "Box"), ("scribble", "Scribble"), ("move", "Edit"))


class PromptsPanel(QWidget):
    """Shows the tool in hand and the masks of the current prompts."""

    tool_chosen = Signal(str)
    candidate_chosen = Signal(int)
    accept_asked = Signal()
    clear_asked = Signal()
    hover_toggled = Signal(bool)
    window_toggled = Signal(bool)
    leave_one_out_asked = Signal()
    next_click_toggled = Signal(bool)
    summarized = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._build()
        self._lay_out()
        self._connect()
        self.set_tool("points")
        self.set_candidates((), 0)
        self.forget_shares()

    def _build(self) -> None:
        self.tools: dict[str, QPushButton] = {}
        self._tool_group = QButtonGroup(self)
        for name, text in _TOOLS:
            button = QPushButton(text, checkable=True, objectName=name)
            self._tool_group.addButton(button)
            self.tools[name] = button
        self.hover = QCheckBox("Hover preview", objectName="hover")
        self.window = QCheckBox("Refine", objectName="window")
        self.no_mask = QLabel("No mask: click an object", alignment=Qt.AlignmentFlag.AlignCenter)
        self.candidates = [QPushButton(checkable=True, objectName="candidates") for _ in range(3)]
        self._candidate_group = QButtonGroup(self)
        for index, button in enumerate(self.candidates):
            # As high when it is checked as when it is not, which style sheets make lower by two pixels.
            button.setMinimumSize(40, _BUTTON_HEIGHT)
            policy = button.sizePolicy()
            # Every click hides and shows some: nothing may move for it, and nothing else be drawn again.
            policy.setRetainSizeWhenHidden(True)
            button.setSizePolicy(policy)
            self._candidate_group.addButton(button, index)
        self.accept = QPushButton("Accept", objectName="accept")
        self.clear = QPushButton("Clear", objectName="clear")
        self.bars = ShareBars()
        self.leave_one_out = QPushButton("Leave out", objectName="leave_one_out")
        self.next_click = QPushButton("Next click", objectName="next_click", checkable=True)

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(4)
        tools = QHBoxLayout()
        tools.setSpacing(2)
        for button in self.tools.values():
            tools.addWidget(button)
        layout.addLayout(tools)
        found = QWidget()
        candidates = QHBoxLayout(found)
        candidates.setContentsMargins(0, 0, 0, 0)
        candidates.setSpacing(2)
        for button in self.candidates:
            candidates.addWidget(button)
        # One takes the other's place, of the same size: nothing moves when a mask comes or goes.
        self._masks = QStackedWidget()
        self._masks.addWidget(self.no_mask)
        self._masks.addWidget(found)
        self._masks.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self._masks, 1)
        buttons.addWidget(self.accept)
        buttons.addWidget(self.clear)
        layout.addLayout(buttons)
        layout.addWidget(self.bars)
        more = QHBoxLayout()
        more.setSpacing(2)
        for widget in (self.hover, self.window, self.leave_one_out, self.next_click):
            more.addWidget(widget)
        layout.addLayout(more)

    def _connect(self) -> None:
        for name, button in self.tools.items():
            button.clicked.connect(lambda _=False, name=name: self.tool_chosen.emit(name))
        self._candidate_group.idClicked.connect(self.candidate_chosen)
        self.accept.clicked.connect(lambda: self.accept_asked.emit())
        self.clear.clicked.connect(lambda: self.clear_asked.emit())
        self.hover.toggled.connect(self.hover_toggled)
        self.window.toggled.connect(self.window_toggled)
        self.leave_one_out.clicked.connect(lambda: self.leave_one_out_asked.emit())
        self.next_click.toggled.connect(self.next_click_toggled)

    def set_tool(self, name: str) -> None:
        """Show which tool is in hand; "" is none of ours."""
        for other, button in self.tools.items():
            self._tool_group.setExclusive(False)
            button.setChecked(other == name)
            self._tool_group.setExclusive(True)

    def set_hint(self, text: str) -> None:
        """Show one line about what to do next."""
        self.summarized.emit(text)

    def set_candidates(self, rows: Sequence[CandidateRow], current: int) -> None:
        """Show the candidate masks, with scores and areas."""
        self._masks.setCurrentIndex(1 if rows else 0)
        for index, button in enumerate(self.candidates):
            button.setVisible(index < len(rows))
            if index < len(rows):
                button.setText(f"{index + 1}:  {rows[index].score:.2f}")
                button.setToolTip(f"Predicted quality {rows[index].score:.3f}, {area_text(rows[index].area)}")
                button.setChecked(index == current)
        for widget in (self.accept, self.clear, self.leave_one_out):
            widget.setEnabled(len(rows) > 0)

    def set_can_clear(self, can_clear: bool) -> None:
        """Show whether there are prompts to take away."""
        self.clear.setEnabled(can_clear)

    def set_shares(self, rows: Sequence[ShareRow], title: str) -> None:
        """Show a bar for each channel."""
        self.bars.set_rows(rows, title)

    def reserve_shares(self, channels: int) -> None:
        """Have room for the bars of so many channels before they come, so that nothing moves at the first click."""
        self.bars.reserve(channels)

    def forget_shares(self) -> None:
        """Take the bars away, with the room that they had."""
        self.bars.forget()

    def set_hover(self, on: bool) -> None:
        """Show whether the preview on hover is on."""
        with signals_blocked(self.hover):
            self.hover.setChecked(on)


class ShareBars(QWidget):
    """Horizontal bars side by side, one a channel: the nine largest."""

    _ROW = 15
    _MOST = 9
    _COLUMNS = 3
    _GAP = 12

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: tuple[ShareRow, ...] = ()
        self._title = ""
        self._room = 0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_rows(self, rows: Sequence[ShareRow], title: str) -> None:
        """Show these shares under a title; none leaves the room empty, so that no panel moves between two clicks."""
        self._rows = tuple(sorted(rows, key=lambda row: -row.share)[: self._MOST])
        self._title = title if len(rows) <= self._MOST else f"{title} ({self._MOST} of {len(rows)} shown)"
        self.setToolTip("\n".join(f"{row.name}: {row.share:.3f}" for row in rows[:40]))
        self._give_room(max(self._room, len(self._rows)))
        self.update()

    def reserve(self, channels: int) -> None:
        """Have room for so many channels; one alone has nothing to share."""
        if channels > 1:
            self._give_room(max(self._room, min(channels, self._MOST)))

    def forget(self) -> None:
        """Show nothing and take no room."""
        self._rows, self._title = (), ""
        self._give_room(0)

    def _give_room(self, rows: int) -> None:
        if rows != self._room:
            self._room = rows
            self.updateGeometry()
        self.setVisible(rows > 0)

    def sizeHint(self) -> QSize:
        return QSize(200, self._ROW * (-(-self._room // self._COLUMNS) + 1) + 4)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        text = self.palette().text().color()
        painter.setPen(text)
        metrics = self.fontMetrics()
        painter.drawText(QRectF(0, 0, self.width(), self._ROW), Qt.AlignmentFlag.AlignLeft, self._title)
        columns = min(self._COLUMNS, max(len(self._rows), 1))
        width = (self.width() - (columns - 1) * self._GAP) / columns
        names = max((metrics.horizontalAdvance(row.name) for row in self._rows), default=0)
        label = min(int(0.55 * width), names + 6)
        number = metrics.horizontalAdvance("0.00") + 6
        back = QColor(text)
        back.setAlpha(30)
        for position, row in enumerate(self._rows):
            left = (position % columns) * (width + self._GAP)
            top = (position // columns + 1) * self._ROW + 2
            name = metrics.elidedText(row.name, Qt.TextElideMode.ElideRight, label - 4)
            painter.drawText(QRectF(left, top, label, self._ROW), Qt.AlignmentFlag.AlignVCenter, name)
            room = width - label - number
            bar = QRectF(left + label, top + 3, room, self._ROW - 6)
            painter.fillRect(bar, back)
            bar.setWidth(room * min(row.share, 1.0))
            painter.fillRect(bar, QColor("#3f9fd8"))
            painter.drawText(
                QRectF(left + width - number, top, number, self._ROW),
                Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight,
                f"{row.share:.2f}",
            )
        painter.end()

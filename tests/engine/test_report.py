"""Reports: complete in one file, safe against what is written into them, pictures drawn where they belong."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from e2sam.evaluation.learning_report import learning_report
from e2sam.evaluation.pictures import class_colours, colour_classes, draw_masks, draw_points, fit_within
from e2sam.evaluation.report import Report


class Balance(HTMLParser):
    """Collects tags and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def report():
    page = Report("Before & <after>")
    page.heading("Figures")
    page.paragraph("5 < 6 & 7")
    page.table(("", "before", "after"), [("IoU", 0.61234, float("nan")), ("clicks", 7, None)], caption="Held out")
    page.curves({"loss": [(1, 0.9), (2, float("nan")), (3, 0.5)], "IoU <1>": [(1, 0.1), (3, 0.2)]}, "step", "score")
    page.confusion(("sea", "fog"), np.array([[3, 1], [0, 0]]))
    page.pictures([(np.full((10, 20, 3), 7, np.uint8), 'worst "case"')], side=40)
    return page


def test_page_is_whole_and_fetches_nothing(report):
    text = report.html()
    checker = Balance()
    checker.feed(text)
    assert checker.open == []
    assert not [tag for tag, _ in checker.seen if tag in ("script", "link", "iframe")]
    sources = [attributes["src"] for _, attributes in checker.seen if "src" in attributes]
    assert sources and all(source.startswith("data:image/png") for source in sources)
    assert "http" not in text


def test_text_is_escaped_and_numbers_are_readable(report):
    text = report.html()
    assert "Before &amp; &lt;after&gt;" in text and "5 &lt; 6 &amp; 7" in text and "IoU &lt;1&gt;" in text
    assert "<td>0.612</td><td>–</td>" in text
    assert "<td>7</td><td>–</td>" in text


def test_curve_points_stand_where_their_values_say(report):
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", report.html(), re.S)[0])
    lines = [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()] for line in svg.iter("polyline")
    ]
    (first, last), second = lines
    assert first[0] < last[0] and first[1] < last[1]  # x grows to the right, y = 0.9 stands above 0.5
    assert first[0] == second[0][0] and second[0][1] > last[1]


def test_confusion_matrix_shows_shares_and_empty_rows(report):
    rows = re.findall(r"<tr><th>(?:sea|fog)</th>(.*?)</tr>", report.html())
    assert re.findall(r">([\d.–]+)</td>", rows[0]) == ["0.75", "0.25"]
    assert re.findall(r">([\d.–]+)</td>", rows[1]) == ["–", "–"]


def test_nothing_measured_and_one_point_are_no_failures():
    page = Report("x")
    page.curves({"loss": []}, "step", "loss")
    page.curves({"loss": [(1, 1.0)]}, "step", "loss")
    assert "nothing was measured" in page.html() and page.html().count("<polyline") == 1


def test_write_replaces_and_leaves_nothing_beside(report, tmp_path):
    target = tmp_path / "deep" / "report.html"
    report.write(target)
    report.write(target)
    assert target.read_text(encoding="utf-8") == report.html()
    assert list(target.parent.iterdir()) == [target]


def test_picture_in_page_is_the_picture(report):
    uri = re.search(r'src="data:image/png;base64,([^"]+)"', report.html())[1]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))
    assert image.shape == (20, 40, 3) and (image == 7).all()


def test_masks_and_clicks_are_drawn_where_they_are():
    black = np.zeros((40, 60, 3), np.uint8)
    mask, truth = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    mask[5:15, 5:15] = True
    truth[20:30, 20:40] = True
    drawn = draw_masks(black, mask, truth)
    assert drawn[10, 10, 0] > 80 and not drawn[0, 0].any()
    assert (drawn[20, 20] == 255).all() and not drawn[25, 30].any()
    assert not black.any()
    clicked = draw_points(black, [(50, 10), (10, 30)], [1, 0])
    assert clicked[10, 50, 1] > clicked[10, 50, 0] and clicked[30, 10, 0] > clicked[30, 10, 1]


def test_classes_have_their_own_colours():
    assert len(np.unique(class_colours(23), axis=0)) == 23
    picture = colour_classes(np.array([[1, 5, 9]]), (1, 5))
    assert not picture[0, 2].any() and picture[0, 0].any() and (picture[0, 0] != picture[0, 1]).any()
    assert fit_within(np.zeros((100, 50, 3), np.uint8), 20).shape == (20, 10, 3)


def test_learning_report_shows_every_figure_of_before_after_and_twin():
    def figures(value):
        return {"score": value, "score_interval": [value, None], "iou": {"1": value + 1}, "noc": {"85": value + 2}}

    result = {
        "message": "The new model is better.",
        "before": figures(0.25),
        "after": figures(0.5),
        "twin": None,
        "split": {"train": 3, "held_out": 2, "kind": "region"},
        "difference": {"score": 0.25, "not_worse": True},
    }
    text = learning_report("x", result, [(1, 0.9), (2, 0.8)], {"score": [(0, 0.25), (2, 0.5)]}).html()
    assert "<td>IoU after 1 click(s)</td><td>1.250</td><td>1.500</td><td>–</td>" in text
    assert "<td>mean IoU over the first five clicks and the box, 95 % interval</td><td>0.250 .. –</td>" in text
    assert "<td>clicks to 85 %</td><td>2.250</td>" in text and "<td>not worse</td><td>yes</td>" in text
    assert "held out: 2" in text and text.count("<polyline") == 2
    classes = {"miou": 0.5, "per_class": [{"class": "fog", "iou": None, "pixels": 0}]}
    text = learning_report("x", {**result, "before": classes, "after": classes}, [], {}).html()
    assert "<td>IoU of fog</td><td>–</td>" in text

"""Charts of a run's page."""

import re

from mlx_ltxw.train.charts import Line, chart


def test_a_mark_in_the_legend_is_as_pale_as_its_line():
    lines = [Line("each", [(0, 1.0), (1, 2.0)], "#123456", faint=True), Line("mean", [(0, 1.0), (1, 1.5)], "#123456")]
    drawn = chart(lines, "steps", "loss")
    assert re.findall(r'<polyline [^>]*opacity="([^"]*)"', drawn) == ["0.35"]
    assert re.findall(r'opacity:([\d.]+)">&#9644;</b> (\w+)', drawn) == [("0.35", "each"), ("1", "mean")]

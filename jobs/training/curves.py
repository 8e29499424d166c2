"""Loss, accuracy, margin and learning rate of a run as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PANELS = (
    ("loss", ("loss", "eval_loss")),
    ("accuracy", ("accuracy", "eval_accuracy", "eval_auc")),
    ("margin", ("margin", "eval_margin")),
    ("learning rate", ("learning_rate",)),
)


def draw_curves(lines: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the lines of a metrics.jsonl into a PNG file."""
    # The object interface: pyplot would keep global state and ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=110)
    FigureCanvasAgg(figure)
    for axes, (name, keys) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for key in keys:
            points = [(line["step"], line[key]) for line in lines if line.get(key) is not None and "step" in line]
            if points:
                held_out = key.startswith("eval_")
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, label=key, marker="o" if held_out else None, linewidth=2 if held_out else 1)
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.suptitle(title)
    # Fixed margins: the layout engines draw everything twice, half a second on a laptop.
    figure.subplots_adjust(left=0.07, right=0.97, bottom=0.09, top=0.89, hspace=0.38, wspace=0.2)
    figure.savefig(path, metadata={"Software": None})

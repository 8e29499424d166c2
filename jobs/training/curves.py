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
                steps, values = zip(*points, strict=True)
                _draw(axes, key, steps, values)
        if name == "accuracy":
            axes.axhline(0.5, color="gray", linestyle=":", label="chance")
        axes.set_title(name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.suptitle(title)
    # Fixed margins: the layout engines draw everything twice, half a second on a laptop.
    figure.subplots_adjust(left=0.07, right=0.97, bottom=0.09, top=0.89, hspace=0.38, wspace=0.2)
    figure.savefig(path, metadata={"Software": None})


def _draw(axes: Any, key: str, steps: tuple[int, ...], values: tuple[float, ...]) -> None:
    """Draw one curve: held-out figures with markers, noisy training figures pale under their running mean."""
    if key.startswith("eval_"):
        axes.plot(steps, values, label=key, marker="o", linewidth=2)
        return
    window = len(values) // 20
    if window < 2 or key == "learning_rate":
        axes.plot(steps, values, label=key, linewidth=1)
        return
    (line,) = axes.plot(steps, values, linewidth=0.8, alpha=0.3)
    means = [sum(part) / len(part) for part in (values[max(0, i - window + 1) : i + 1] for i in range(len(values)))]
    axes.plot(steps, means, label=f"{key}, mean of {window} lines", color=line.get_color(), linewidth=1.5)

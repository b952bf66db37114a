"""What trained models remember of each part of their data, in the order in which it was seen (Figure 9)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tinylm_ablate.report.arms import Arm, Section
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.statistics import mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The word in ``experiment.figures`` that asks for this figure.
NAME = "forgetting"

_UNSEEN = "forgetting/unseen"
_PART = re.compile(r"forgetting/part_(\d+)")


def shown(section: Section, write: Callable[[Figure | None], str | None]) -> list[str]:
    """Figure and table in Markdown; nothing where no arm has such measurements.

    Args:
        section: The arms.
        write: Writes a figure, and returns its path relative to the page.
    """
    arms = [arm for arm in section.arms if parts_of(arm)]
    path = write(_draw(arms))
    if path is None:
        return []
    columns = [f"forgetting/part_{part}" for part in range(1, max(map(parts_of, arms)) + 1)] + [_UNSEEN]
    rows = [[*arm.place.values(), *(_cell(arm, column) for column in columns), str(len(arm.runs))] for arm in arms]
    head = [*section.axis, *(f"part {part}" for part in range(1, len(columns))), "unseen", "seeds"]
    return [
        "### Loss of each part of the training data under the final model",
        f"![Loss by part of the training data, a line an arm; dashed: text that was not trained on]({path})",
        table(head, rows, words=len(section.axis)),
        "Nats a token, mean ± standard deviation over seeds. Part 1 was seen first. “Unseen” is text of the same order that "
        "was not trained on: a part that is not below it is not remembered.",
    ]


def parts_of(arm: Arm) -> int:
    """Into how many parts the data of an arm's runs is split; 0 where that was not measured."""
    found = [int(match[1]) for run in arm.runs.values() for name, value in run.values.items()
             if (match := _PART.fullmatch(name)) and value == value]  # fmt: skip
    return max(found, default=0)


def _cell(arm: Arm, column: str) -> str:
    values = list(arm.by_seed(column).values())
    if not values:
        return "–"
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.4f}" if len(values) == 1 else f"{mean:.4f} ± {deviation:.4f}"


def _draw(arms: list[Arm]) -> Figure | None:
    """Mean over seeds by part, a line an arm, with bars from the lowest to the highest seed."""
    from matplotlib.figure import Figure

    if not arms:
        return None
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for index, arm in enumerate(arms):
        numbers = range(1, parts_of(arm) + 1)
        seeds = [list(arm.by_seed(f"forgetting/part_{part}").values()) for part in numbers]
        means = [sum(values) / len(values) for values in seeds]
        below = [mean - min(values) for mean, values in zip(means, seeds, strict=True)]
        above = [max(values) - mean for mean, values in zip(means, seeds, strict=True)]
        colour = f"C{index}"
        axes.errorbar(numbers, means, yerr=[below, above], color=colour, marker="o", capsize=3, label=arm.label)
        if unseen := list(arm.by_seed(_UNSEEN).values()):
            axes.axhline(sum(unseen) / len(unseen), color=colour, linestyle="--", linewidth=1)
    axes.set_xlabel("part of the training data, in the order in which it was seen")
    axes.set_ylabel("loss, nats a token")
    axes.legend(frameon=False)
    return figure

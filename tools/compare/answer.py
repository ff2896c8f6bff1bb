"""One answer for all versions together: which of them, if any, can replace the old one, and at what cost."""

from dataclasses import dataclass

import numpy as np

from evaluation.evaluation_set import MIN_ERRORS, MIN_SUBJECTS, protocol_of
from evaluation.formats import percent
from evaluation.judgement import BETTER, CONTRADICTORY, NO_VERDICT, PARTLY, SAFE, UNDECIDED, WORSE
from tools.compare.sentences import reasons, threshold_sentence, would_decide
from tools.compare.tables import count_verdicts, others, word_for_other
from tools.compare.texts import (
    ANSWER,
    Table,
    bounds,
    change,
    cheapest,
    false_rate,
    main_metric,
    meaning_of,
    points,
    small,
    threshold_row,
    value,
)

YES, PERHAPS, OPEN, NO, NO_ANSWER = "yes", "perhaps", "undecided", "no", "no answer"
RANKS = {BETTER: YES, SAFE: YES, PARTLY: PERHAPS, UNDECIDED: OPEN, CONTRADICTORY: NO, WORSE: NO}     # the best first


def first_answer(report: dict) -> dict:
    """{"word": yes, perhaps, undecided, no or no answer; "version": the one that it is about, or None; "text": sentences}."""
    upgrades = {name: upgrade for name, upgrade in report["upgrades"].items() if upgrade["overall"] != NO_VERDICT}
    weak = report["old"] in report["weak"] or set(upgrades or report["upgrades"]) <= set(report["weak"])
    if not upgrades and not weak:
        return answer(NO_ANSWER, None, "A warning says that the inputs, not the models, may have made these figures.")
    if upgrades and not report["reliable"]:
        return answer(NO_ANSWER, None, f"The evaluation set is too small: a figure counts if it rests on {MIN_ERRORS} errors and "
                      f"{MIN_SUBJECTS} people, and here none does.")
    if weak:
        return answer(NO_ANSWER, None, weak_text(report, warned=not upgrades))
    metric, order = main_metric(report), list(RANKS)
    best = min(upgrades, key=lambda name: (order.index(upgrades[name]["overall"]), count_verdicts(upgrades[name])[WORSE],
                                           -value(report, name, report["old"], metric)["value"]))
    word = RANKS[upgrades[best]["overall"]]
    text = {YES: yes_text, PERHAPS: perhaps_text, OPEN: open_text, NO: no_text}[word](report, upgrades, best)
    return answer(word, best, text)


def answer(word: str, version: str | None, text: str) -> dict:
    """The answer as JSON."""
    return {"word": word, "version": version, "text": text}


def weak_text(report: dict, warned: bool) -> str:
    """Why models that are near guessing decide nothing.  warned: a warning says so, too, and that it may be the inputs."""
    name = report["weak"][0]
    figures = listed([f"{percent(value(report, name, name, metric)['value'])} % {metric} (guessing: "
                      f"{small(report['guessing'][metric])} %)" for metric in report["headline"]])
    if warned:
        return (f"Alone, {name} reaches {figures}: either rows and labels do not belong together, as the warning says, or these "
                f"models are too weak to decide anything.")
    return (f"These models are too weak to decide anything: alone, {name} reaches {figures}. Train longer, or on more people; "
            f"then compare again.")


def yes_text(report: dict, upgrades: dict, best: str) -> str:
    """The version that can replace the old one, the threshold, and what re-embedding adds."""
    old, upgrade, counted = report["old"], upgrades[best], len(report["reliable"])
    metric, better = upgrade["decided by"], count_verdicts(upgrade)[BETTER]
    before, after = (percent(value(report, name, old, metric)["value"]) for name in (old, best))
    text = f"{best} can replace {old} without re-embedding the gallery"
    if better == counted:
        text += f": it is better in all figures that count ({metric} goes from {before} to {after} %)."
    elif better:
        text += (f": it is better in {better} of the {counted} figures that count ({metric} goes from {before} to {after} %) and "
                 f"safe in the others.")
    else:
        text += (f", but without a gain that can be shown: no figure that counts loses more than the accepted "
                 f"{points(report['margin'])}.")
    also = [name for name in upgrades if name != best and upgrades[name]["overall"] in (BETTER, SAFE)]
    parts = [text, threshold_sentence(best, report), re_embedding(report, best)]
    if also:
        parts.append(f"So can {listed(also)}.")
    return " ".join(filter(None, parts))


def re_embedding(report: dict, name: str) -> str:
    """What re-embedding the gallery with a version that can replace the old one adds."""
    alone = report["upgrades"][name]["alone"]
    if alone["overall"] in (WORSE, CONTRADICTORY):
        return "Do not re-embed the gallery with it: alone it is worse."
    metric = better_alone(report, name)
    return cost(report, name, metric) if metric else "Re-embedding the gallery is not shown to add anything."


def better_alone(report: dict, name: str) -> str | None:
    """The figure that shows that a version is better than the old one alone, the main one if it does; None: none does."""
    alone, metric = report["upgrades"][name]["alone"], main_metric(report)
    better = [metric for metric, entry in alone["criterion"].items() if entry["verdict"] == BETTER]
    if alone["overall"] not in (BETTER, PARTLY):
        return None
    return metric if metric in better else better[0]


def cost(report: dict, name: str, metric: str) -> str:
    """The images to re-embed for a part of the gain; empty if the curve was not computed, or has no gain in this figure."""
    way = cheapest(report, name, metric)
    if way is None:
        return ""
    part, total = f"{100 * report['part']:.0f} %", report["evaluation"]["gallery images"][protocol_of(metric)]
    if way[0] == 0:
        return f"More than {part} of the gain in {metric} is there before any image is re-embedded."
    return f"Re-embedding {way[0]:,} of the gallery's {total:,} images brings {part} of the gain in {metric}."


def perhaps_text(report: dict, upgrades: dict, best: str) -> str:
    """A version with evidence for it and none against it."""
    upgrade = upgrades[best]
    metric, count = upgrade["decided by"], count_verdicts(upgrade)[BETTER]
    entry = upgrade["criterion"][metric]
    return (f"{best} may be able to replace {report['old']} without re-embedding the gallery: it is better in {count} of the "
            f"{len(report['reliable'])} figures that count and worse in none, but {metric} is open ({change(entry)}). "
            f"{would_decide(entry)}").strip()


def open_text(report: dict, upgrades: dict, best: str) -> str:
    """The data cannot tell."""
    metric = upgrades[best]["decided by"]
    entry = upgrades[best]["criterion"][metric]
    return (f"This data cannot tell whether {best} can replace {report['old']}: {metric} changes by {change(entry)}. "
            f"{would_decide(entry)} {whole_gallery(report, upgrades)}").strip()


def no_text(report: dict, upgrades: dict, best: str) -> str:
    """No version can; the nearest one, and what is left."""
    metric, old = upgrades[best]["decided by"], report["old"]
    text = f"{best} cannot replace {old} without re-embedding the gallery"
    if len(upgrades) > 1:
        text = f"None of the versions can replace {old} without re-embedding the gallery; the nearest is {best}"
    return f"{text}: {metric} changes by {change(upgrades[best]['criterion'][metric])}. {whole_gallery(report, upgrades)}"


def whole_gallery(report: dict, upgrades: dict) -> str:
    """The version that is worth re-embedding the gallery for: of those that are as good as the best alone, up to the margin, the
    cheapest."""
    main, old = main_metric(report), report["old"]
    able = {name: value(report, name, name, main)["value"] for name in upgrades if better_alone(report, name)}
    if not able:
        worse = all(upgrade["alone"]["overall"] in (WORSE, CONTRADICTORY) for upgrade in upgrades.values())
        return ("Do not re-embed the gallery: alone, every version is worse than the old one." if worse else
                "Re-embedding the whole gallery is not shown to help, either.")
    near = [name for name in able if able[name] >= max(able.values()) - report["margin"]]
    best = min(near, key=lambda name: (cheapest(report, name, main) or (np.inf, ""))[0])
    metric = better_alone(report, best) or main
    before, after = (percent(value(report, name, name, metric)["value"]) for name in (old, best))
    text = f"Re-embedding the whole gallery with {best} takes {metric} from {before} to {after} %."
    return f"{text} {cost(report, best, metric)}".strip()


def listed(names: list[str]) -> str:
    """Names as "A", "A and B" or "A, B and C"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# --- one row a version -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Row:
    """What the first table shows of a version.  cells: (text, small text below it) for each column after the answer."""

    name: str
    answer: str
    cells: list[tuple[str, str]]
    sentence: str = ""


def answer_columns(report: dict) -> list[str]:
    """The columns after name and answer."""
    return [f"on the gallery of {report['old']}, new threshold", "the same at today's threshold",
            f"images to re-embed for {100 * report['part']:.0f} % of the gain", "alone"]


def answer_caption(report: dict) -> str:
    """What the figures of the first table are."""
    metric = main_metric(report)
    return f"{metric} in %: {meaning_of(metric)}."


def answer_rows(report: dict) -> list[Row]:
    """The old version, each candidate, and the versions that need a map."""
    metric, old = main_metric(report), report["old"]

    def figure(query: str, gallery: str) -> tuple[str, str]:
        entry = value(report, query, gallery, metric)
        return percent(entry["value"]), bounds(entry["interval"])

    rows = [Row(old, "", [figure(old, old), ("", ""), ("", ""), figure(old, old)])]
    for name, upgrade in report["upgrades"].items():
        cells = [figure(name, old), today(report, name, metric), images(report, name, metric), figure(name, name)]
        rows.append(Row(name, upgrade["overall"], cells, reasons(name, report)))
    for name in others(report):
        rows.append(Row(name, word_for_other(name, report), [("", ""), ("", ""), ("", ""), figure(name, name)],
                        f"{report['versions'][name]['dim']} dimensions, {old} has {report['versions'][old]['dim']}."))
    return rows


def today(report: dict, name: str, metric: str) -> tuple[str, str]:
    """The figure at today's threshold, and the false rate there."""
    row = threshold_row(report, name, metric)
    return ("n/a", "") if row is None else (percent(row["mixed"]), f"{false_rate(metric)} {small(row['mixed rate'])} %")


def images(report: dict, name: str, metric: str) -> tuple[str, str]:
    """The images to re-embed in the cheapest order, and the images that there are; n/a for a figure that does not count."""
    if "backfill" not in report["upgrades"][name] or metric not in report["reliable"]:
        return "n/a", ""
    way = cheapest(report, name, metric)
    total = report["evaluation"]["gallery images"][protocol_of(metric)]
    if way is None or better_alone(report, name) is None:
        return "no gain shown", ""
    return f"{way[0]:,}", f"of {total:,}"


def answer_table(report: dict) -> Table:
    """The first table as text."""
    rows = [[row.name, row.answer, *(f"{text} ({less})" if less else text for text, less in row.cells)]
            for row in answer_rows(report)]
    return Table(answer_caption(report), ["version", "answer", *answer_columns(report)], rows, part=ANSWER)

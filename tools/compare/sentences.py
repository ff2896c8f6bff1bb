"""What is said about one candidate: short, because the page's tables have the figures."""

from evaluation.judgement import NO_VERDICT, PARTLY, UNDECIDED
from tools.compare.texts import change, main_metric, more, numbers


def verdict_line(name: str, report: dict) -> str:
    """The answer for one candidate: the overall verdict and its reasons."""
    return f"{name}: {report['upgrades'][name]['overall']}. {reasons(name, report)}"


def reasons(name: str, report: dict) -> str:
    """Sentences: the figure that decided, and the threshold."""
    if report["upgrades"][name]["overall"] == NO_VERDICT:
        return "See the warning: the figures may come from the inputs, not from the models."
    return " ".join(filter(None, [decision(name, report), threshold_sentence(name, report)]))


def decision(name: str, report: dict) -> str:
    """Which figure decided, and what would decide if none does."""
    upgrade = report["upgrades"][name]
    metric, answer = upgrade["decided by"], upgrade["overall"]
    if metric is None:
        return "No figure rests on enough errors and people to count."
    entry = upgrade["criterion"][metric]
    if answer not in (UNDECIDED, PARTLY):
        return f"Decided by {metric}: {change(entry)}."
    evidence = "No evidence either way. " if answer == UNDECIDED else ""
    return f"Left open by {metric}: {change(entry)}. {evidence}{would_decide(entry)}".strip()


def would_decide(entry: dict) -> str:
    """What would decide an open figure, if its difference stays as it is."""
    return "" if entry["needed"] is None else f"It would take {more(entry['needed'])} to decide."


def threshold_sentence(name: str, report: dict) -> str:
    """What to do about today's threshold, for the figure that the answer shows."""
    plans = report["upgrades"][name]["advice"]
    plan = next((plan for plan in plans if plan["metric"] == main_metric(report)), next(iter(plans), None))
    if plan is None:
        return ""
    today = to_set = numbers(plan["threshold"])
    text = f"Keep today's threshold, {today}"
    if plan["action"] == "set":
        to_set = numbers(plan["new threshold"])
        text = f"Set the threshold to {to_set} (today {today})"
    if plan["entries"] is None or numbers(plan["entries"]) == to_set:
        return f"{text}."
    return f"{text}; re-embedded entries need {numbers(plan['entries'])}."

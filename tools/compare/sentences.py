"""The answer for a candidate in sentences."""

from evaluation.evaluation_set import protocol_of
from evaluation.formats import percent
from evaluation.judgement import BETTER, NO_VERDICT, PARTLY, UNDECIDED
from tools.compare.tables import count_verdicts, more, numbers, small, span, value


def verdict_line(name: str, report: dict) -> str:
    """The answer for one candidate: the overall verdict and its reasons."""
    return f"{name}: {report['upgrades'][name]['overall']}. {reasons(name, report)}"


def reasons(name: str, report: dict) -> str:
    """Sentences: the figure that decided, the threshold, and the cheapest way to most of the gain."""
    if report["upgrades"][name]["overall"] == NO_VERDICT:
        return "See the warning: the figures may come from the inputs, not from the models."
    return " ".join(filter(None, [decision(name, report), threshold_sentence(name, report), cost_sentence(name, report)]))


def decision(name: str, report: dict) -> str:
    """Which figure decided, and what would decide if none does."""
    upgrade = report["upgrades"][name]
    metric, answer = upgrade["decided by"], upgrade["overall"]
    if metric is None:
        return "No figure rests on enough errors and subjects to count."
    entry, counts = upgrade["criterion"][metric], count_verdicts(upgrade)
    verb = "Left open" if answer in (UNDECIDED, PARTLY) else "Decided"
    text = f"{verb} by {metric}: {100 * entry['difference']:+.2f} points{span(entry['interval'])} against the old model; "
    text += ", ".join(f"{kind} in {count}" for kind, count in counts.items() if count)
    text += f" of the {len(report['reliable'])} figures that count."
    if answer in (UNDECIDED, PARTLY):
        if not counts[BETTER]:
            text += " There is no evidence in either direction."
        if entry["needed"] is not None:
            text += f" It would take {more(entry['needed'])} to decide, if the difference stays as it is."
    return text


def threshold_sentence(name: str, report: dict) -> str:
    """What to do about today's threshold, for the first headline figure with a rate."""
    upgrade, old = report["upgrades"][name], report["old"]
    plan = next(iter(upgrade["advice"]), None)
    if plan is None:
        return ""
    metric = plan["metric"]
    protocol, rate_name = ("1:1", "FAR") if metric.startswith("TAR") else ("1:N", "FPIR")
    row = next(row for row in upgrade["threshold"][protocol] if metric.endswith(f"@{row['rate']}"))
    new = value(report, name, old, metric)["value"]
    today, own = numbers(row["threshold"]), numbers(row["new threshold"])
    text = f"Keep today's threshold, {today}" if plan["action"] == "keep" else f"Set the threshold to {own} (today {today})"
    if plan["entries"] is not None:
        text += f" for old entries, and set {numbers(plan['entries'])} for re-embedded ones"
    return (f"{text}: {metric} goes from {percent(row['old'])} to {percent(new)} % with the threshold {own}; with today's it "
            f"goes to {percent(row['mixed'])} % and the {rate_name} from {small(row['old rate'])} to "
            f"{small(row['mixed rate'])} %.")


def cost_sentence(name: str, report: dict) -> str:
    """The cheapest order of re-embedding for the first headline figure with a rate."""
    metric = next((m for m in report["headline"] if "@" in m), report["headline"][0])
    ways = [(curve[metric]["images"], order) for order, curve in report["upgrades"][name].get("backfill", {}).items()
            if metric in curve["values"] and curve[metric]["images"] is not None]
    if not ways:
        return ""
    images, order = min(ways)
    return (f"Re-embedding {images:,} of {report['evaluation']['gallery images'][protocol_of(metric)]:,} images reaches "
            f"{100 * report['part']:.0f} % of its gain in {metric} (cheapest order: {order}).")

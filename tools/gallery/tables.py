"""What gallery.py prints of a plan."""

import argparse
from pathlib import Path

from prettytable import PrettyTable

from gallery.names import Names
from gallery.plan import STEPS, Plan, expected, on_paper, thresholds
from gallery.store import Table
from serving.upgrade import Upgrade
from utils.files import free_space


def print_plan(args: argparse.Namespace, plan: Plan, table: Table, names: Names, upgrade: Upgrade, new: str, maps: bool,
               entries: float, together: float) -> None:
    """entries: that move, in ``together`` days; maps: whether their stored vectors are mapped."""
    sources = [] if plan.with_image is None else [f"{plan.with_image:,} have an image or vector, "
                                                  f"{plan.entries - plan.with_image:,} have none and would stay old"]
    rate = f"{f'{args.rate:g} images/s' if args.rate else '(no --rate) unlimited speed'} and "
    if maps:
        sources, rate = ["every stored vector is mapped once to the space of the new model; no image is needed"], ""
    free = "" if "://" in args.store else f"; {free_space(Path(args.store) / 'x')} free there"
    facts = [f"{plan.entries:,} entries of {upgrade.old} in {names.old}, {table.dim} x {table.dtype}; order: {plan.order}",
             *sources,
             f"new table {names.new}: {gigabytes(plan.bytes_new)} of vectors; kept until finish: {gigabytes(plan.bytes_kept)}; "
             f"journal {gigabytes(plan.bytes_journal)}" + free,
             f"{together:.3g} days for {entries:,.0f} entries with {args.workers} workers of {rate}{args.writes:g} writes/s",
             *plan.notes]
    print("\n".join(facts))
    if maps:
        print_thresholds(upgrade, new)
    else:
        print_curve(upgrade, plan, new, together)
    if args.entries:
        paper = on_paper(args.entries, table.dim, upgrade.versions[new]["dimension"], (not maps and args.rate) or args.writes,
                         args.writes, args.workers)
        print_table(list(paper), [[f"{value:.3g}" for value in paper.values()]])


def print_curve(upgrade: Upgrade, plan: Plan, new: str, together: float) -> None:
    """The figures while the gallery is re-embedded."""
    curve, known = expected(upgrade, new), upgrade.data["order"]["name"]
    if curve:
        print(f"expected figures, with comparable scores, in the order of upgrade.json: {known}"
              + ("" if known == plan.order else f"; those of this order ({plan.order}) may differ"))
        print_table(["re-embedded", "days", *curve], [[f"{share:.0%}", f"{share * together:.3g}",
                    *(f"{values[k]:.4f}" for values in curve.values())] for k, share in enumerate(STEPS)])


def print_thresholds(upgrade: Upgrade, new: str) -> None:
    """What is expected of mapped entries, and the thresholds that apply to them."""
    verdict = upgrade.data.get("verdict", {}).get(new, {})
    if verdict.get("difference") is not None:
        print(f"compare judged {new} '{verdict['answer']}' on the gallery of {upgrade.old}: {verdict['figure']} changes by "
              f"{verdict['difference']:+.4f}")
    print("expected figures, from the first query of the new model on; today's thresholds do not hold for it")
    print_table(["at", "threshold today", "TAR, TPIR today", "threshold", "TAR, TPIR"], [
        ["" if cell is None else cell if isinstance(cell, str) else f"{cell:.4f}" for cell in row.values()]
        for row in thresholds(upgrade, new)])


def print_table(head: list[str], rows: list[list]) -> None:
    table = PrettyTable(head, align="r")
    table.add_rows(rows)
    print(table)


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"

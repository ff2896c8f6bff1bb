"""All methods of one scenario, from a data folder to the page that compares them.

    bash reproduce.sh OPclass --dry-run         checks every input, prints the cost and the commands
    bash reproduce.sh OPclass                   runs them; killed and started again, it continues where it stopped
    bash reproduce.sh OPclass --seeds 3         trains each model three times; after a run with fewer seeds only what is missing

Trains the old model, extracts its features, trains the paragon (the new model without the old one) and the new models
by every method, and compares all of them.  As soon as the first method is trained, a first page compares it alone
(<out>/first).  Settings of the configs are given as KEY=VALUE for all trainings, as new:KEY=VALUE for all but the old model's,
and as NAME:KEY=VALUE for one (old, paragon, or a method).
With --seeds N all of this happens N times, with an old model of its own each time: results of seed k > 1 are in <out>/seed_k,
and its trainings have the config's seed + k - 1, so seed=669 --seeds 3 are seeds 669 to 671.
On GPUs each training uses all of them, one training after the other; on a CPU as many trainings run at the same time as there
are cores.
"""

import argparse
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from BCT_Methods.scenarios import SCENARIOS
from evaluation.protocol import read_images
from old_model.names import artefact, credible_kind, part_of
from old_model.present import MISSING
from tools.reproduce import small
from tools.reproduce.existing import SD, existing_old
from tools.reproduce.plan import SEED_FOLDER, Training, check_inputs, parts_exist, parts_of, print_plan, same_people
from tools.reproduce.steps import Step, hardware, on_data, refuse_other_settings, run_steps
from utils.command_line import Parser, at_least, print_written
from utils.config import load_config
from utils.errors import UserError, run

METHODS = ["MixBCT", "UniBCT", "NCCL", "BCT", "AdvBCT", "L2", "weakenedL2"]
RESERVED = ["old", "paragon", "new", "split", "old_features", "credible", "means", "paragon_features", "compare", "feature_save",
            "first", "log", "steps"]        # names of steps and folders: no method may have one of them
RANDOM_ORDERS = 5                   # of re-embedding, for all trainings of a version together: their curves are averaged
SET_HERE = ["dataset", "feature_save", "output", "old_model", "resume"]         # settings that Recipe gives to each training


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__, prog="reproduce.sh")
    add = parser.add_argument
    add("scenario", choices=list(SCENARIOS), help="what the old and the new model see (docs/training.md, Scenarios)")
    add("settings", nargs="*", metavar="[NAME:]KEY=VALUE",
        help="settings of the configs: for all trainings; new:... for all but the old model's; NAME:... for one")
    add("--small", action="store_true", help="settings, methods and family for a few thousand images; prints what it sets")
    add("--family", default=argparse.SUPPRESS, metavar="LOSS_to_arc_fDIM",
        help="end of the configs' names: the old model's loss (arc, softmax) and the dimensions of the features "
             f"(default: arc_to_arc_f512, with --small {small.FAMILIES['class']})")
    add("--methods", default=argparse.SUPPRESS, metavar="METHOD,...",
        help="methods; NAME=METHOD trains one again under another name, with settings NAME:KEY=VALUE "
             f"(default: {','.join(METHODS)}, with --small {small.METHODS})")
    add("--old", metavar="FILE[:NETWORK][,WORDS]", help="an old model that exists, instead of a trained one (scenario "
        "EXclass): .onnx, .pt with its network, WORDS as in tools/compare, for example old.onnx,input=raw,bgr; or its vectors "
        "of the training images with ids, as tools/import_features reads them, and --old-eval; with --seeds "
        "only the new models vary")
    add("--old-ids", type=Path, metavar="FILE.txt", help="ids of an --old FILE.npy, one a line")
    add("--old-missing", choices=MISSING, help="training images without a vector in --old: refuse, or leave them out of the old "
        "side's term (default: refuse)")
    add("--old-eval", type=Path, metavar="FILE", help="the old model's embeddings of the evaluation images, if --old holds "
        "vectors: .npy [N, d] in the order of the landmark file, or .npz of ijbc_eval.py -E")
    add("--seeds", type=at_least(1, int), default=1, metavar="N", help="trainings of each model, which differ in their seed")
    add("--backfill", type=at_least(0, int), default=10, metavar="STEPS",
        help="steps of re-embedding the gallery on the page; 0: none")
    add("--records", type=Path, default=ROOT / "dataset/ms1m-retinaface-t1", help="folder of train.rec, train.idx")
    add("--ijb", type=Path, default=ROOT / "dataset", help="folder that contains IJBC/ or IJBB/")
    add("--subset", default="IJBC", choices=["IJBC", "IJBB"], help="evaluation set")
    add("--out", type=Path, help="folder of all results (default: reproduce_output/SCENARIO)")
    add("--title", help="heading of the page (default: scenario and family)")
    add("--dry-run", action="store_true", help="only check the inputs and print the cost and the commands")
    args = parser.parse_intermixed_args()
    scenario = "class" if args.scenario.endswith("class") else "data"
    given = {"family": small.FAMILIES[scenario], "methods": small.METHODS} if args.small else {
        "family": "arc_to_arc_f512", "methods": ",".join(METHODS)}
    args = argparse.Namespace(**given | vars(args))
    args.existing = existing_old(args)
    return args


class Recipe:
    """The trainings of a scenario with one seed: config, settings and output of each, by name.

    number: 1 to --seeds.  What belongs to a number depends on no other, so that --seeds can be changed between two runs.
    """

    def __init__(self, args: argparse.Namespace, number: int = 1):
        self.args, self.number = args, number
        self.out = (args.out or ROOT / "reproduce_output" / args.scenario).resolve()
        if args.seeds > 1 and "," in str(self.out):
            raise UserError(f"--out {self.out}: expected a folder without a comma in its path, because the comparison separates "
                            f"the trainings of a model by commas; give another --out")
        first_out = self.out
        if number > 1:
            self.out /= f"{SEED_FOLDER}{number}"
        self.prefix = "" if number == 1 else f"{SEED_FOLDER}{number}_"         # of the names of its steps
        self.old_part, self.new_part = SCENARIOS[args.scenario]
        words = args.family.split("_")
        old_loss, dims = words[0], [word for word in words if word[1:].isdigit()] or words[-1:]
        self.old_config = f"configs/{dims[0]}_r18_{old_loss}_{self.old_part}.py"
        self.sd = SD if args.existing else f"{dims[0]}_r18_{old_loss}_{self.new_part}"
        self.paragon_sd = f"{dims[-1]}_r50_arc_{self.new_part}"
        self.old_script = f"train_old_{old_loss}.py"
        self.features = self.out / "feature_save"
        self.old_save = (first_out if args.existing else self.out) / "feature_save"      # an existing old model is for all seeds
        self.preset = small.settings_of(method_names(args.methods)) if args.small else []
        self.settings = [split_setting(text) for text in args.settings]
        against = args.existing.settings(self.old_save) if args.existing else (f"old_model={self.out / 'old/model.pt'}",)
        size = (f"embedding_size={args.existing.dim}",) if args.existing else ()
        self.trainings = [] if args.existing else [self.training("old", self.old_script, self.old_config)]
        self.trainings.append(self.training("paragon", "train_old_arc.py", f"configs/{dims[-1]}_r50_arc_data100.py",
                                            f"rec={part_of(self.sd)[1]}", *size))
        for name, method in method_names(args.methods).items():
            config = self.method_config(method)
            self.trainings.append(self.training(name, f"{config.parts[0]}/{config.parts[1]}/train.py", str(config), *against))
        unknown = {prefix for prefix, _ in self.settings} - {"", "new", *(t.name for t in self.trainings)}
        if unknown:
            raise UserError(f"settings for {', '.join(sorted(unknown))}: expected new or one of "
                            f"{', '.join(t.name for t in self.trainings)} before the colon")

    def method_config(self, method: str) -> Path:
        """BCT_Methods/<directory>/configs/<config>.py of a method, below the repository."""
        name = f"{self.args.scenario}_ms1mv3_r18_to_r50_{method}_{self.args.family}.py"
        found = sorted(ROOT.glob(f"BCT_Methods/*/configs/{name}"))
        if not found:
            raise UserError(f"no config BCT_Methods/*/configs/{name}; choose --methods and --family for which there is one")
        return found[0].relative_to(ROOT)

    def training(self, name: str, script: str, config: str, *own: str) -> Training:
        scopes = ("", "old") if name == "old" else ("", "new", name)
        both = (self.preset, self.settings)             # a later value replaces an earlier one: of the preset, of a wider scope
        chosen = {text.partition("=")[0]: text
                  for settings in both for scope in scopes for prefix, text in settings if prefix == scope}
        if self.number > 1:
            first = load_config(ROOT / config, tuple(chosen.values())).seed
            chosen["seed"] = f"seed={first + self.number - 1}"
        return Training(name, script, config, (f"dataset={self.args.records.resolve()}", f"feature_save={self.features}",
                                               f"output={self.out / name}", *own, *chosen.values()))


def method_names(text: str) -> dict[str, str]:
    """{name: method} of METHOD,... where an entry may be NAME=METHOD."""
    pairs = [(name, method or name) for name, _, method in (entry.partition("=") for entry in text.split(","))]
    for number, (name, _) in enumerate(pairs):
        taken = name in RESERVED or name.startswith(SEED_FOLDER) or name in dict(pairs[:number])
        if taken or not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"--methods {text}: expected different names of letters, digits, _, - and ., none of "
                            f"{', '.join(RESERVED)} and none that begins with {SEED_FOLDER}; found '{name}'; give another one as "
                            f"NAME=METHOD")
    return dict(pairs)


def split_setting(text: str) -> tuple[str, str]:
    """(prefix, KEY=VALUE) of [PREFIX:]KEY=VALUE; values may hold colons."""
    key, equals, _ = text.partition("=")
    prefix, colon, key = key.rpartition(":")
    if not equals or colon and not prefix:
        raise UserError(f"expected KEY=VALUE or NAME:KEY=VALUE, found '{text}'")
    if key in SET_HERE:
        raise UserError(f"expected a setting other than {', '.join(SET_HERE)}, found '{text}'; use --records and --out")
    return prefix, text[len(prefix) + len(colon):]


def all_steps(recipes: list[Recipe], launcher: list[str]) -> list[Step]:
    """The steps of every seed, a page of the first method as soon as it is trained, and the page of everything.

    What runs first is what comes first here, so the first page does not wait for other methods and seeds.
    """
    first = recipes[0]
    through_method = 1 + next(i for i, training in enumerate(first.trainings) if training.name not in ("old", "paragon"))
    method = first.trainings[through_method - 1]
    steps = [step for recipe in recipes for step in steps_of(recipe, launcher)]
    page = Step("compare", compare_command(recipes, first.trainings, "compare"), tuple(step.name for step in steps), again=True)
    early = Step("first", compare_command(recipes[:1], first.trainings[:through_method], "first"),
                 ("paragon_features", method.name), makes=first.out / "first/index.html")
    if len(recipes) == 1 and len(first.trainings) == through_method:        # that is the whole page
        return [*steps, page]
    place = 1 + max(i for i, step in enumerate(steps) if step.name in early.needs)
    return [*steps[:place], early, *steps[place:], replace(page, needs=(*page.needs, early.name))]


def steps_of(recipe: Recipe, launcher: list[str]) -> list[Step]:
    """The commands of the README's first three steps in their order, each with the names of the steps that it needs."""
    args, python, features = recipe.args, [sys.executable], f"--feature-save={recipe.old_save}"
    by_name = {training.name: training for training in recipe.trainings}
    shared = ("old_features", "credible", "means") if args.existing else ("split",)        # steps of the first seed for all

    def step(name: str, command: list[str], *needs: str, **more) -> Step:
        own = tuple(need if need in shared else recipe.prefix + need for need in needs)
        return Step(recipe.prefix + name, command, own, **more)

    def train(name: str, *needs: str) -> Step:
        script, config = Path(by_name[name].script), by_name[name].config
        folder = ROOT / script.parent
        command = [*launcher, script.name, os.path.relpath(ROOT / config, folder), *by_name[name].settings]
        return step(name, command, *needs, folder=folder, makes=recipe.out / name / "model.pt", trains=True)

    def extract(name: str, model: str, sd: str) -> Step:
        command = [*launcher, "tools/get_feature/get_feature.py", by_name[model].config, "--SD", sd, "--force",
                   *by_name[model].settings]      # of a model of this folder that was trained again
        return step(name, command, model, makes=artefact(recipe.features, sd, "feature"))

    def after_features(name: str, kind: str, script: str, *options: str) -> Step:
        command = [*python, f"tools/get_feature/{script}", *options, "--SD", recipe.sd, features]
        return step(name, command, "old_features", makes=artefact(recipe.old_save, recipe.sd, kind))

    old_steps = [after_features("credible", credible_kind(0.9), "denoise_credible.py", "--T", "0.9"),
                 after_features("means", "avg_feature", "get_avg_feature.py")]
    if args.existing:
        old_steps = [existing_features(recipe, launcher), *old_steps] if recipe.number == 1 else []
    else:
        old_steps = [train("old", "split"), extract("old_features", "old", recipe.sd), *old_steps]
        if recipe.number == 1 and not parts_exist(args.records):
            missing = next(part for part in parts_of(args.records) if not part.is_file())
            old_steps.insert(0, Step("split", [*python, "tools/split_dataset/split_dataset_ms1mv3.py",
                                               f"--data={args.records.resolve()}"], makes=missing))
    first, *others = [train(name, "credible", "means") for name in by_name if name not in ("old", "paragon")]
    before = ("credible", "means") if args.existing else ("split",)     # nothing is trained before unusable vectors are refused
    return [*old_steps, train("paragon", *before), first, extract("paragon_features", "paragon", recipe.paragon_sd), *others]


def existing_features(recipe: Recipe, launcher: list[str]) -> Step:
    """The step that makes the features of an old model that exists."""
    settings = recipe.training("old", "", "").settings
    command = recipe.args.existing.feature_command(launcher, recipe.args.records, recipe.old_save, settings)
    return Step("old_features", command, makes=recipe.args.existing.features(recipe.old_save))


def compare_command(recipes: list[Recipe], trainings: list[Training], folder: str) -> list[str]:
    """The command that compares some trainings of the first recipe, and those of the same names with other seeds."""
    args, out = recipes[0].args, recipes[0].out
    title = args.title or (f"{args.scenario}, {args.existing.name if args.existing else args.family}: can the new one replace "
                           f"the old?")

    def model(training: Training) -> str:
        files = ",".join(str(recipe.out / training.name / "model.pt") for recipe in recipes)
        return f"{training.name}={files}:{training.load().network}"

    def features(sd: str) -> str:
        return ",".join(str(artefact(recipe.features, sd, "feature")) for recipe in recipes)

    by_name = {training.name: training for training in trainings}
    new = [training for name, training in by_name.items() if name not in ("old", "paragon")]
    existing = args.existing
    old = f"old={existing.model or existing.evaluation}" if existing else model(by_name["old"])
    old_features = str(existing.features(recipes[0].old_save)) if existing else features(recipes[0].sd)
    return [sys.executable, "tools/compare/compare.py", "--data", str(args.ijb.resolve()),
            "--subset", args.subset, "--old", old, "--new", *map(model, new), "--paragon", model(by_name["paragon"]),
            "--old-features", old_features, "--new-features", f"paragon={features(recipes[0].paragon_sd)}",
            "--title", title if folder == "compare" else f"{title} First answer: {trainings[-1].name}, one training",
            "--backfill", str(args.backfill),
            "--orders", str(-(-RANDOM_ORDERS // len(recipes))), "--embeddings", str(out / "compare/embeddings"),
            "--out", str(out / folder)]


def main() -> None:
    args = parse_arguments()
    recipe = Recipe(args)
    if args.small:
        print(small.describe(args.family, args.methods, recipe.preset))
    gpus, cores = hardware()
    launcher = [sys.executable]
    if gpus:
        launcher += ["-m", "torch.distributed.launch", f"--nproc_per_node={gpus}", "--nnodes=1", "--master_port=22222"]
    problems = check_inputs(recipe.trainings, args.records, args.ijb, args.subset)
    if args.existing:
        print("\n".join(["old:", *args.existing.notes, f"{args.existing.dim} dimensions"]))
        problems += args.existing.problems(args, recipe.old_save)
    if not problems:
        problems = print_plan(recipe.trainings, args.records, args.ijb, args.subset, recipe.out, max(gpus, 1), args.seeds,
                              bool(args.existing and args.existing.model))
    if problems:
        raise UserError("; and ".join(problems))
    if both := same_people(args.records, args.ijb):
        print(f"warning: {len(both)} people of {args.ijb} have the names of people of {args.records}: {', '.join(both[:5])}"
              f"{', ...' if len(both) > 5 else ''}; if they are the same people, the figures are not those of people who are new "
              f"to the models: make the evaluation set from others", file=sys.stderr)
    steps = all_steps([recipe, *(Recipe(args, number) for number in range(2, args.seeds + 1))], launcher)
    steps = on_data(steps, args.records, read_images(args.ijb, args.subset), args.existing and args.existing.evaluation)
    refuse_other_settings(steps, recipe.out)
    if args.dry_run:
        for step in steps:
            print(f"(cd {os.path.relpath(step.folder, ROOT)} && {shlex.join(step.command)})")
        print("all inputs are there; run without --dry-run to run these commands")
    else:
        run_steps(steps, recipe.out, gpus, cores)
        print_written(recipe.out / "compare/index.html")


if __name__ == "__main__":
    run(main)

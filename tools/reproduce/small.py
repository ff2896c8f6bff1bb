"""--small: what a few thousand images need.  The shipped configs are for millions of images and 8 GPUs."""

import shlex

FAMILIES = {"class": "softmax_to_arc_f128", "data": "softmax_to_arc_f512"}     # by the end of the scenario's name
METHODS = "MixBCT,L2,BCT"
# (scope, KEY=VALUE).  Scopes are names before the colon of reproduce.sh's settings, or names of methods.
SETTINGS = [
    ("", "network=mbf"),                        # MobileFaceNet: 1.2 million weights; trains on a CPU
    ("", "image_size=32"),
    ("", "batch_size=64"),
    ("", "num_epoch=16"),
    ("", "warmup_epoch=1"),
    ("", "scale=16"),                           # with few people the loss is flat at the scale and margin of MS1MV3
    ("", "margin_list=(1.0,0.2,0.0)"),
    ("", "fp16=False"),                         # as fast for this network, and figures depend less on the machine
    ("", "workers=1"),
    ("", "frequent=30"),
    ("", "val_targets=[]"),
    ("old", "lr=0.1"),
    ("new", "lr=0.2"),
    ("new", "clip=100"),
    ("BCT", "bct_scale=16"),                    # the second loss has the scale of the first
    ("UniBCT", "bct_scale=16"),
    ("UniBCT", "refine_epoch=[5,10]"),          # of 16 epochs, as 10 and 20 of 35
]


def settings_of(methods: dict[str, str]) -> list[tuple[str, str]]:
    """(scope, KEY=VALUE) of the preset for trainings {name: method}; a method's own settings are for all its names."""
    for_all = [(scope, text) for scope, text in SETTINGS if scope in ("", "old", "new")]
    return for_all + [(name, text) for name, method in methods.items() for scope, text in SETTINGS if scope == method]


def describe(family: str, methods: str, settings: list[tuple[str, str]]) -> str:
    """What the preset sets, in the syntax of the command line."""
    words = shlex.join(f"{scope}:{text}" if scope else text for scope, text in settings)
    return (f"--small is short for: --family {family} --methods {methods} {words}\n"
            f"(what the command line gives replaces it)")

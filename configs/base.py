"""Every setting with its meaning, unit and default.  A config names only what differs from here.

Order: this file <- base.py beside the config, where there is one <- the config <- KEY=VALUE on the command line.
"""

from pathlib import Path

from easydict import EasyDict as edict

ROOT = Path(__file__).resolve().parents[1]

config = edict()

# Data. A name that is neither absolute nor found from the current directory is looked up in `dataset`.
config.dataset = str(ROOT / "dataset/ms1m-retinaface-t1")   # folder of the .rec/.idx and .bin files
config.rec = "train"            # record file: name in `dataset`, path with or without .rec, or "synthetic"
config.num_classes = None       # classes of the head; None = as the record file's header says
config.num_image = None         # images per epoch; known from the record file, only compared with it
config.workers = 2              # loader processes per rank (one decodes about 10,000 images/s)
config.bad_records = "stop"     # or "skip": log and count them, the next readable image takes the place; not above 1 %
config.image_size = 112         # pixels, a multiple of 16; records of another size are resized
config.val_targets = ["lfw", "cfp_fp", "agedb_30"]          # verification sets <dataset>/<name>.bin

# Model
config.network = "r50"          # one of backbones.NETWORKS
config.embedding_size = 512     # dimensions of the feature
config.dropout = 0.0            # probability, before the last linear layer
config.fp16 = True              # autocast: float16 with GradScaler on CUDA, bfloat16 on CPUs that have it
config.margin_list = (1.0, 0.5, 0.0)                        # (m1, m2, m3): ArcFace (1, 0.5 rad, 0), CosFace (1, 0, 0.4)
config.scale = 64.0             # s: logits are s times the cosines; small sets learn sooner with 16
config.interclass_filtering_threshold = 0                   # cosine; 0 = off
config.sample_rate = 1.0        # share of the classes that the head uses in a step (PartialFC)

# Optimisation
config.optimizer = "sgd"        # "sgd" or "adamw"
config.lr = 0.1                 # of the recipe's 1024 images a step (batch_size x ranks); not scaled by itself
config.momentum = 0.9           # sgd only
config.weight_decay = 5e-4
config.batch_size = 128         # images per rank and step
config.gradient_acc = 1         # steps whose gradients are added up before an update
config.num_epoch = 35
config.warmup_epoch = 0         # epochs of linear rise from 0
config.lr_power = 1             # 1 = linear to zero; 2 = as the public code
config.decay_epoch = []         # if set: lr x 0.1 after each of these epochs instead of the polynomial
config.clip = 5.0               # largest gradient norm of the backbone

# Run
config.output = None            # folder of model.pt, log and TensorBoard; None = work_dirs/<config name>
config.seed = 666
config.deterministic = False    # bitwise repeatable on CUDA too, and resumed on three ranks or more; slower
config.frequent = 50            # steps between log lines
config.verbose = 2000           # steps between verifications; there is one after each epoch, too
config.resume = False           # go on from the newest checkpoint in `output`, on any number of ranks; anew if there is none
config.save_every = 0           # steps between checkpoints; there is one after each epoch, too; 0 = only these
config.keep_checkpoints = 2     # newest checkpoints that are kept
config.timeout = 30             # minutes that a rank waits for the others before the run ends with an error
config.dali = False             # answered with a sentence: cv2 in loader processes is faster and keeps the index

# What the old model left for the new one: names in `feature_save` (BCT_Methods/scenarios.py fills them in).
config.feature_save = str(ROOT / "feature_save")
config.scenario = None          # EXclass, EXdata, OPclass or OPdata
config.old_model = None         # model.pt whose features these must be; compared where it exists
config.old_feature = None       # [images, d] float32, raw, row i = image i of the record file
config.credible = None          # [images] bool, True = the old feature may stand in for the new one
config.prototypes = None        # [classes, d] float32, unit rows: mean old feature of each class
config.old_classifier = None    # folder of the old model's softmax_fc_gpu_*.pt: BCT then takes its rows where it has them

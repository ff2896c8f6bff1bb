"""Every setting: default, meaning with unit, accepted values.  A config names only what differs from here.

Order: this file <- base.py next to the config, if there is one <- the config <- KEY=VALUE on the command line.
Edit the defaults (the first argument) as you like; the other arguments say what is accepted.
"""

from easydict import EasyDict as edict

from utils.paths import ROOT
from utils.settings import choice, flag, number, several, text, whole

config = edict()

# Data. A name that is not absolute is looked up in `dataset`, then from the current directory.  `dataset` itself, `output` and
# `feature_save` are below the repository if they are not absolute (`dataset`: or below the current directory).
config.dataset = text(str(ROOT / "dataset/ms1m-retinaface-t1"), "folder of the .rec/.idx and .bin files")
config.rec = text("train", 'record file: name in `dataset`, path with or without .rec, or "synthetic" (random images); with '
                  'network=linear or mlp NAME_feature.npy in `feature_save`, or its path')
config.num_classes = whole(2, "classes of the head", least=2).or_none("as the record file says")
config.num_image = whole(1, "images per epoch; only compared with the record file", least=1).or_none("as the record file says")
config.workers = whole(2, "loader processes per rank (one decodes about 10,000 images/s)")
config.bad_records = choice("stop", 'corrupt records end the run ("stop"), or are logged, counted and replaced by the next '
                            'readable image, up to 1 % of them ("skip")', "stop", "skip")
config.image_size = whole(112, "pixels; records of another size are resized", least=16, multiple_of=16)
config.val_targets = several(["lfw", "cfp_fp", "agedb_30"], "verification sets <dataset>/<name>.bin", text("", "name of a set"))

# Model
config.network = text("r50", "one of backbones.NETWORKS; linear or mlp: trained on stored features instead of images")
config.init = text("", "file of the backbone's first weights: model.pt, insightface's backbone.pth, a map .npz (linear, mlp)"
                   ).or_none("random")
config.embedding_size = whole(512, "dimensions of the feature", least=1)
config.dropout = number(0.0, "probability, before the last linear layer", least=0, below=1)
config.fp16 = flag(True, "autocast: float16 with GradScaler on CUDA, bfloat16 on CPUs that have it")
config.margin_list = several((1.0, 0.5, 0.0), "(m1, m2, m3): ArcFace (1, 0.5 rad, 0), CosFace (1, 0, 0.4)",
                             number(0.0, "margin", least=0, most=3), count=3)
config.scale = number(64.0, "s: logits are s times the cosines; small sets learn sooner with 16", above=0)
config.interclass_filtering_threshold = number(0, "cosine above which another class counts as a wrong label; 0 = off",
                                               least=0, below=1)
config.sample_rate = number(1.0, "share of the classes that the head uses in a step (PartialFC)", above=0, most=1)

# Optimisation
config.optimizer = choice("sgd", "optimiser", "sgd", "adamw")
config.lr = number(0.1, "learning rate for the recipe's 1024 images per step (batch_size x ranks); not scaled by itself", above=0)
config.momentum = number(0.9, "sgd only", least=0, below=1)
config.weight_decay = number(5e-4, "pull towards 0 of everything that learns", least=0)
config.batch_size = whole(128, "images per rank and step", least=2, hint=" (BatchNorm needs two images)")
config.gradient_acc = whole(1, "steps whose gradients are added up before an update", least=1)
config.num_epoch = whole(35, "passes over the training set", least=1)
config.warmup_epoch = number(0, "epochs of linear rise of the learning rate from 0", least=0)
config.lr_power = number(1, "1 = linear to zero; 2 = as the public code; 0 = constant", least=0)
config.decay_epoch = several([], "if set: lr x 0.1 after each of these epochs instead of the polynomial",
                             whole(1, "epoch", least=1))
config.clip = number(5.0, "largest norm of the gradient of everything but the margin head's class vectors", above=0,
                     hint=" (1e9 never clips)")

# Run
config.output = text("", "folder of model.pt, log and TensorBoard").or_none("work_dirs/<config name>")
config.seed = whole(666, "seed of every random draw")
config.deterministic = flag(False, "bitwise repeatable on CUDA too, and resumed on three ranks or more; slower")
config.frequent = whole(50, "steps between log lines", least=1)
config.verbose = whole(2000, "steps between verifications; there is one after each epoch, too", least=1)
config.resume = flag(False, "resume from the newest checkpoint in `output`, on any number of ranks; start over if there is none")
config.save_every = whole(0, "steps between checkpoints; there is one after each epoch, too; 0 = only these")
config.keep_checkpoints = whole(2, "newest checkpoints that are kept", least=1)
config.timeout = number(30, "minutes that a rank waits for the others before the run ends with an error", least=0.01)
config.dali = flag(False, "answered with a sentence: cv2 in loader processes is faster and keeps the index")

# What the old model left for the new one: names in `feature_save` (BCT_Methods/scenarios.py fills them in).  A list has an
# entry for each of several old models, in one order: old_feature=[v1.npy,v2.npy]; the loss is the mean over them.
config.feature_save = text(str(ROOT / "feature_save"), "folder of the arrays below")
config.scenario = choice("", "what the old and the new model see", "EXclass", "EXdata", "OPclass", "OPdata"
                         ).or_none("no old model")
config.old_model = text("", "model.pt that made the arrays below; compared if it exists").or_list().or_none("not compared")
config.old_feature = text("", "[images, d] float32, raw, row i = image i of the record file").or_list().or_none("not there")
config.old_dim = whole(512, "dimensions of the old features; if others than embedding_size, they are compared with a view of the "
                       "new ones (losses/view.py)", least=1).or_list().or_none("embedding_size")
config.credible = text("", "[images] bool, True = the old feature may stand in for the new one").or_list().or_none("not there")
config.prototypes = text("", "[classes, d] float32, unit rows: mean old feature of each class").or_list().or_none("not there")
config.old_classifier = text("", "folder of the old model's softmax_fc_gpu_*.pt: BCT takes its rows for the classes that it has"
                             ).or_list().or_none("class means only")

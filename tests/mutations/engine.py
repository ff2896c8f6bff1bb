"""One-line faults in the engine (trainer, loop, settings, loader, heads as the loop builds them) that a test must catch."""

STEP, LOOP, PARTS = "tests/engine/test_step.py", "tests/engine/test_wiring_loop.py", "tests/engine/test_wiring_parts.py"
RANKS, REACH = "tests/engine/test_wiring_ranks.py", "tests/engine/test_settings_reach.py"
FINITE = "tests/engine/test_finite.py::test_overflows_are_skipped_and_counted"
TRAINER, MAIN, PROGRESS, CHECKPOINT = "engine/trainer.py", "engine/loop.py", "engine/progress.py", "engine/checkpoint.py"
SETTINGS, VERIFICATION, CONFIG, NETWORKS = "engine/loop.py", "engine/verification.py", "utils/config.py", "backbones/__init__.py"
LOADER, FC, SOFTMAX, SHARDS = "records/loader.py", "losses/partial_fc.py", "losses/softmax_head.py", "losses/shards.py"
PARTITION = "parts = [[p for p in part.parameters() if p.requires_grad] for part in (backbone, method, head)]"
SGD = "sgd = torch.optim.SGD(groups, cfg.lr, cfg.momentum, weight_decay=cfg.weight_decay, fused=True)"
ADAMW = "return torch.optim.AdamW(groups, cfg.lr, weight_decay=cfg.weight_decay, fused=True)"
FORWARD = "terms = self.method(self.head, new, labels.to(device, non_blocking=True), index, clock)"
CLIP = "bad = ~clip_grad_norm_(self.plain_backbone.parameters(), self.cfg.clip).isfinite()"
SCALER = 'self.scaler = SharedScaler(ranks.device.type, enabled=cfg.fp16 and ranks.device.type == "cuda")     # else a no-op'
BAD_STEPS = "self.bad_steps = BadSteps(ranks.device, self.scaler.is_enabled(), cfg.gradient_acc)"
ONE_STEP = "terms = trainer.step(images, labels, index, flips(cfg, ranks, step), clock, lr, update)"
TOTAL = "return dict(lr=cfg.lr, total_steps=max(steps * cfg.num_epoch // cfg.gradient_acc, 1), power=cfg.lr_power,"
WARMUP = "warmup_steps=steps * cfg.warmup_epoch // cfg.gradient_acc,"
DECAY = "decay_steps=tuple(steps * epoch // cfg.gradient_acc for epoch in cfg.decay_epoch))"
NOISE = 'torch.manual_seed(int(torch.randint(2**62, (), generator=generator(cfg.seed, "epoch", epoch, ranks.rank))))'
RECORDS = "dataset = FaceRecords(locate(cfg.rec, cfg.dataset), cfg.image_size, cfg.num_classes, cfg.bad_records)"
BACKBONE = "backbone = get_model(cfg.network, dropout=cfg.dropout, fp16=cfg.fp16, num_features=cfg.embedding_size,"
MARGIN = "margin = CombinedMarginLoss(cfg.scale, *cfg.margin_list, cfg.interclass_filtering_threshold)"
HEAD = "head = head_class(margin, cfg.embedding_size, cfg.num_classes, sample_rate=cfg.sample_rate, fp16=cfg.fp16,"
LOAD = "loader = train_loader(dataset, cfg.batch_size, ranks.rank, ranks.world_size, cfg.seed, cfg.workers)"
FLIP = 'drawn = torch.rand(ranks.world_size, cfg.batch_size, generator=generator(cfg.seed, "flip", step))'
SPEED = "speed = self.cfg.batch_size * self.ranks.world_size * self.steps / (now - self.since)"
LEFT = "left = (now - self.begin) / done * (self.total_steps - clock.step - 1)"
DUE = "self.wanted |= self.stop.asked() is not None or self.cfg.save_every > 0 and step % self.cfg.save_every == 0"
ORDER = 'order = torch.randperm(self.images, generator=generator(self.seed, "order", self.epoch)).numpy()[self.seen:]'
BATCHES = "batches = ShuffledBatches(len(dataset), batch_size, rank, world_size, seed)"
CLASS_ROWS = 'generator=generator(self.seed, "class rows", first // CLASSES_PER_DRAW))'
SAMPLE = 'return torch.rand(rows, generator=generator(self.seed, "class sample", dist.get_rank(), self.step))'
OWN = 'return kind(**{**own, "fp16": fp16, "num_features": num_features, "image_size": image_size, "dropout": dropout,'


def reach(*settings: str) -> str:
    return " ".join(f"{REACH}::test_a_setting_has_its_effect[{name}]" for name in settings)


def loop(name: str) -> str:
    return f"{LOOP}::test_{name}"


def parts(name: str) -> str:
    return f"{PARTS}::test_{name}"


def change(file: str, line: str, old: str, new: str, tests: str) -> tuple[str, str, str, str]:
    """``old``, which occurs once in the line, becomes ``new``."""
    assert line.count(old) == 1, (line, old)
    return file, line, line.replace(old, new), tests


def drop(file: str, line: str, tests: str) -> tuple[str, str, str, str]:
    return file, line, "pass", tests


BAD, RESUMED = loop("a_loss_that_is_not_finite_names_term_step_and_images"), loop("a_resumed_run_is_the_rest_of_the_straight_one")
MIRRORED, ORDER_OF_A_RUN = loop("half_of_the_images_are_mirrored_and_others_in_each_step"), loop("the_order_of_a_run")
NETWORK = parts("the_network_is_that_of_the_settings")

# (file, the line as it is without its indentation, the line as it becomes, the tests that must fail[, which occurrence])
MUTATIONS = [
    # the optimiser
    change(TRAINER, PARTITION, "backbone, method, head)]", "backbone, head)]", STEP),
    change(TRAINER, PARTITION, "backbone, method, head)]", "backbone, method)]", STEP),
    change(TRAINER, SGD, " weight_decay=cfg.weight_decay,", "", STEP),
    change(TRAINER, SGD, " cfg.momentum,", "", STEP),
    change(TRAINER, SGD, "weight_decay=cfg", "cfg", STEP),     # the position of dampening
    change(TRAINER, ADAMW, " weight_decay=cfg.weight_decay,", "", STEP),
    change(TRAINER, ADAMW, "AdamW", "Adam", STEP),
    change(TRAINER, 'if cfg.optimizer == "sgd":', "==", "!=", STEP),
    change(TRAINER, 'parameters["lr"] = lr', " lr", " self.cfg.lr", STEP),
    change(TRAINER, "for parameters in self.optimizer.param_groups:", "self.optimizer.param_groups",
           "self.optimizer.param_groups[:1]", STEP),
    drop(TRAINER, "head.bind(self.optimizer)", reach("sample_rate")),

    # a step and an update
    change(TRAINER, "loss = sum(terms.values())", "sum(terms.values())", 'terms["cls"]', STEP),
    change(TRAINER, "self.scaler.scale(loss / self.cfg.gradient_acc).backward()", "loss / self.cfg.gradient_acc", "loss", STEP),
    change(TRAINER, "self.scaler.scale(loss / self.cfg.gradient_acc).backward()", "self.scaler.scale", "", STEP),
    change(TRAINER, "new = self.backbone(to_input(images, device, flip))", "device, flip", "device", STEP),
    change(TRAINER, "new = self.backbone(to_input(images, device, flip))", "flip", "~flip", STEP),
    change(TRAINER, FORWARD, ", index,", ", labels,", STEP),
    change(TRAINER, FORWARD, " new,", " new.detach(),", STEP),
    change(TRAINER, "if update:", "update", "True", STEP),
    change(TRAINER, CLIP, "self.cfg.clip", 'float("inf")', STEP),
    change(TRAINER, CLIP, "self.cfg.clip", "5.0", STEP),
    drop(TRAINER, "self.scaler.unscale_(self.optimizer)", STEP),
    change(TRAINER, "self.scaler.step(self.optimizer)", "self.scaler.step(self.optimizer)", "self.optimizer.step()", FINITE),
    drop(TRAINER, "self.scaler.update()", FINITE),
    drop(TRAINER, "self.optimizer.zero_grad()", STEP),
    change(TRAINER, "return {name: value.detach() for name, value in terms.items()}",
           "{name: value.detach() for name, value in terms.items()}", "terms", STEP),
    change(TRAINER, SCALER, "cfg.fp16 and ", "", STEP),
    change(TRAINER, SCALER, 'cfg.fp16 and ranks.device.type == "cuda"', "False", STEP),
    change(TRAINER, BAD_STEPS, "cfg.gradient_acc", "1", STEP),
    change(TRAINER, BAD_STEPS, "self.scaler.is_enabled()", "True", BAD),
    drop(TRAINER, "self.bad_steps.step(loss)", BAD),
    change(TRAINER, "self.bad_steps.update(self.update(lr), clock.step)", "clock.step", "clock.epoch", BAD),
    change(TRAINER, "self.backbone, self.method = replicate(backbone), replicate(method)", "replicate(method)", "method", RANKS),
    change(TRAINER, "self.backbone, self.method = replicate(backbone), replicate(method)", "replicate(backbone)", "backbone",
           RANKS),
    change(TRAINER, "if not update:", "not update", "update", RANKS),

    # the loop
    drop(MAIN, "begin_epoch(cfg, ranks, trainer, progress, at.epoch, dataset)", loop("a_method_is_told_of_each_epoch")),
    change(MAIN, "begin_epoch(cfg, ranks, trainer, progress, at.epoch, dataset)", "at.epoch", "at.epoch + 1",
           loop("a_method_is_told_of_each_epoch")),
    change(MAIN, "if at.images == 0:", "at.images == 0", "True", RESUMED),
    change(MAIN, "trainer.plain_method.start_epoch(epoch, trainer.plain_backbone, dataset)", "trainer.plain_backbone",
           "trainer.backbone", loop("a_method_is_told_of_each_epoch")),
    change(MAIN, NOISE, " epoch,", "", loop("a_method_is_told_of_each_epoch")),
    change(MAIN, NOISE, "cfg.seed, ", "", loop("a_method_is_told_of_each_epoch")),
    change(MAIN, NOISE, ", ranks.rank", "", RANKS),
    drop(MAIN, "trainer.plain_backbone.train()", loop("backbone_modes")),
    change(MAIN, "loader.set_epoch(at.epoch, at.images)", "at.epoch", "0", loop("each_epoch_is_a_new_permutation")),
    change(MAIN, "loader.set_epoch(at.epoch, at.images)", "at.epoch, at.images", "at.epoch", RESUMED),
    change(MAIN, "step = at.epoch * len(loader) + at.images // batch", " + at.images // batch", "", RESUMED),
    change(MAIN, "clock = Clock(at.epoch, step, step / total)", "step / total", "0.0", loop("a_method_is_told_the_time")),
    change(MAIN, "clock = Clock(at.epoch, step, step / total)", "total", "len(loader)", loop("a_method_is_told_the_time")),
    change(MAIN, "clock = Clock(at.epoch, step, step / total)", "at.epoch", "at.epoch + 1", loop("a_method_is_told_the_time")),
    change(MAIN, "lr = learning_rate(step // cfg.gradient_acc, **schedule)", "step // cfg.gradient_acc", "step",
           loop("learning_rates")),
    change(MAIN, "lr = learning_rate(step // cfg.gradient_acc, **schedule)",
           "learning_rate(step // cfg.gradient_acc, **schedule)", "cfg.lr", loop("learning_rates")),
    change(MAIN, "update = (step + 1) % cfg.gradient_acc == 0", "(step + 1)", "step", ORDER_OF_A_RUN),
    change(MAIN, ONE_STEP, "flips(cfg, ranks, step)", "flips(cfg, ranks, 0)", MIRRORED),
    change(MAIN, ONE_STEP, "flips(cfg, ranks, step)", "torch.zeros(len(images), dtype=torch.bool)", MIRRORED),
    change(MAIN, ONE_STEP, ", update)", ")", ORDER_OF_A_RUN),
    change(MAIN, ONE_STEP, "labels, index", "index, labels", loop("images_labels_and_index_belong_together")),
    drop(MAIN, "progress.step(terms, clock, lr)", loop("log_lines_and_curves")),
    change(MAIN, "step, at = step + 1, Position(at.epoch, at.images + batch)", "batch", "cfg.batch_size", RANKS),
    change(MAIN, "if step % len(loader):", "step % len(loader)", "True", ORDER_OF_A_RUN),
    change(MAIN, "if checkpoints.due(step, update):", "update", "True", ORDER_OF_A_RUN),
    drop(MAIN, "checkpoints.save(at)", ORDER_OF_A_RUN),
    change(MAIN, "if step % cfg.verbose == 0:", "cfg.verbose", "cfg.frequent", ORDER_OF_A_RUN),
    drop(MAIN, "verify_and_report(verify, trainer, progress, step)", ORDER_OF_A_RUN),
    drop(MAIN, "verify_and_report(verify, trainer, progress, step)      # after the save: it takes long, and changes nothing",
         ORDER_OF_A_RUN),
    change(MAIN, "checkpoints.epoch_ends(at, step % cfg.gradient_acc == 0)", "step % cfg.gradient_acc == 0", "True",
           ORDER_OF_A_RUN),
    change(MAIN, "at = Position(at.epoch + 1)", "at.epoch + 1", "at.epoch + 1, at.images", ORDER_OF_A_RUN),
    change(MAIN, "if at.epoch >= cfg.num_epoch:", ">=", ">", RESUMED),
    drop(MAIN, "checkpoints.write_model()", RESUMED),
    drop(MAIN, "verify_and_report(verify, trainer, progress, total)", RESUMED),
    change(MAIN, "total, batch = len(loader) * cfg.num_epoch, ranks.world_size * cfg.batch_size",
           "ranks.world_size * cfg.batch_size", "cfg.batch_size", RANKS),
    change(MAIN, "progress = Progress(cfg, ranks, log, at, total, trainer)", "at", "Position()", BAD),
    change(MAIN, TOTAL, " // cfg.gradient_acc", "", loop("learning_rates")),
    change(MAIN, TOTAL, " power=cfg.lr_power,", "", loop("learning_rates")),
    change(MAIN, WARMUP, "steps * cfg.warmup_epoch // cfg.gradient_acc", "0", loop("learning_rates")),
    change(MAIN, WARMUP, " // cfg.gradient_acc", "", loop("learning_rates")),
    change(MAIN, DECAY, "steps * epoch // cfg.gradient_acc for epoch in cfg.decay_epoch", "cfg.decay_epoch",
           loop("learning_rates")),
    change(MAIN, DECAY, " // cfg.gradient_acc", "", loop("learning_rates")),
    drop(MAIN, 'progress.scalars({f"verification/{name}": accuracy}, step)', loop("log_lines_and_curves")),

    # what the loop builds
    change(MAIN, "ranks = start_ranks(cfg.timeout)", "cfg.timeout", "", reach("timeout")),
    drop(MAIN, "check_settings(cfg)", reach("dali")),
    drop(MAIN, "make_repeatable(cfg)", reach("seed", "deterministic")),
    drop(MAIN, "check_same(settings)", "tests/test_failures.py::test_different_settings_on_the_ranks_are_named"),
    change(MAIN, LOAD, "cfg.workers", "0", reach("workers")),
    change(MAIN, LOAD, "cfg.seed", "0", MIRRORED),
    change(MAIN, LOAD, "ranks.rank, ranks.world_size", "ranks.world_size, ranks.rank", RANKS),
    change(MAIN, "train(load_config(args.config, args.overrides), method, head, stop)", "args.config, args.overrides",
           "args.config", reach("lr")),
    change(MAIN, "train(load_config(args.config, args.overrides), method, head, stop)", "head", "PartialFC",
           loop("the_old_models_scripts")),
    change(MAIN, "torch.backends.cudnn.benchmark = not cfg.deterministic", "not cfg.deterministic", "cfg.deterministic",
           reach("deterministic")),
    change(MAIN, "torch.use_deterministic_algorithms(cfg.deterministic)", "cfg.deterministic", "False", reach("deterministic")),
    change(MAIN, "torch.manual_seed(cfg.seed)          # the same initial weights on all ranks", "cfg.seed", "0", reach("seed")),
    change(MAIN, RECORDS, "cfg.image_size", "None", reach("image_size")),
    change(MAIN, RECORDS, "cfg.num_classes", "None", reach("num_classes")),
    change(MAIN, RECORDS, ", cfg.bad_records)", ")", reach("bad_records")),
    change(MAIN, "cfg.num_image, cfg.num_classes, cfg.records = len(dataset), dataset.num_classes, dataset.fingerprint()",
           "len(dataset)", "cfg.num_image",
           loop("a_method_knows_the_records_and_gets_the_head")),
    change(MAIN, "cfg.num_image, cfg.num_classes, cfg.records = len(dataset), dataset.num_classes, dataset.fingerprint()",
           "dataset.fingerprint()", "None", loop("a_method_knows_the_records_and_gets_the_head")),
    change(MAIN, BACKBONE, " dropout=cfg.dropout,", "", reach("dropout")),
    change(MAIN, BACKBONE, " fp16=cfg.fp16,", "", reach("fp16")),
    change(MAIN, BACKBONE, " num_features=cfg.embedding_size,", "", NETWORK),
    change(MAIN, "image_size=cfg.image_size)", "image_size=cfg.image_size", "", NETWORK),
    change(MAIN, MARGIN, "cfg.scale", "64.0", reach("margin_list")),
    change(MAIN, MARGIN, "*cfg.margin_list", "1.0, 0.5, 0.0", reach("margin_list")),
    change(MAIN, MARGIN, "*cfg.margin_list", "1.0, *cfg.margin_list[:0:-1]", reach("margin_list")),     # m2 and m3
    change(MAIN, MARGIN, ", cfg.interclass_filtering_threshold", "", reach("margin_list")),
    change(MAIN, HEAD, " sample_rate=cfg.sample_rate,", "", reach("sample_rate")),
    change(MAIN, HEAD, " fp16=cfg.fp16,", "", reach("fp16")),
    change(MAIN, "seed=cfg.seed).to(ranks.device)", "seed=cfg.seed", "", reach("seed")),
    change(MAIN, FLIP, "cfg.seed, ", "", MIRRORED),
    change(MAIN, "return drawn[ranks.rank] < 0.5", "ranks.rank", "0", RANKS),
    change(MAIN, "return drawn[ranks.rank] < 0.5", "0.5", "0.05", MIRRORED),
    change(SETTINGS, "return ({key: repr(value) for key, value in sorted(cfg.items()) if key not in PLACES}",
           " if key not in PLACES", "", parts("a_checkpoint_is_of_its_method_head_and_data")),
    change(SETTINGS, '| {"method": method_class.__name__, "head": head_class.__name__})', '"head": head_class.__name__', "",
           parts("a_checkpoint_is_of_its_method_head_and_data")),
    change(SETTINGS, 'if cfg.sample_rate < 1 and cfg.gradient_acc > 1:', "and", "or", parts("the_least_values_are_accepted")),
    change(SETTINGS, "if type(cfg[key]) not in kind or not cfg[key] >= least:", ">=", ">",
           parts("the_least_values_are_accepted")),
    change(SETTINGS, "if type(cfg[key]) not in kind or not cfg[key] >= least:", "not cfg[key] >=", "cfg[key] <",
           parts("a_setting_that_means_nothing_is_refused_by_name")),

    # log, checkpoints, verification
    change(PROGRESS, "if (clock.step + 1) % self.cfg.frequent == 0 or clock.step + 1 == self.total_steps:", "(clock.step + 1)",
           "clock.step", loop("log_lines_and_curves")),
    change(PROGRESS, "self.sums[name] = total + value, count + 1", "total + value, count + 1", "value, 1",
           loop("log_lines_and_curves")),
    change(PROGRESS, "self.sums, self.steps, self.since, self.skipped = {}, 0, now, bad", "{}", "self.sums",
           loop("log_lines_and_curves")),
    drop(PROGRESS, "dist.all_reduce(mean)", RANKS),
    change(PROGRESS, SPEED, "self.steps", "self.cfg.frequent * 2", parts("images_per_second_without_pauses")),
    change(PROGRESS, LEFT, " - clock.step - 1", "", parts("images_per_second_without_pauses")),
    drop(PROGRESS, "self.since += time.monotonic() - begin", parts("images_per_second_without_pauses")),
    change(PROGRESS, "batches.seen, number = self.start.images, since - self.first_step",
           "batches.seen, number = self.start.images, since - self.first_step", "batches.seen = self.start.images",
           BAD),
    change(PROGRESS, "self.fail(max(since, self.first_step))", "max(since, self.first_step)", "since", BAD),
    change(CHECKPOINT, DUE, "self.stop.asked() is not None or ", "", parts("a_signal_ends_the_run_at_the_next_update")),
    change(CHECKPOINT, "return self.wanted and update", "self.wanted and update", "self.wanted", ORDER_OF_A_RUN),
    change(CHECKPOINT, "if update or position.epoch == self.cfg.num_epoch:", "update or position.epoch == self.cfg.num_epoch",
           "update", ORDER_OF_A_RUN),
    change(CHECKPOINT, "self.remove(set(sorted(older, key=int)[:-self.cfg.keep_checkpoints]))", "self.cfg.keep_checkpoints", "2",
           reach("keep_checkpoints")),
    drop(CHECKPOINT, "trainer.optimizer.state[parameter] = moments", RESUMED),
    change(CHECKPOINT, 'save_whole(rows | {"class_start": head.class_start, "num_classes": head.num_classes},',
           "head.class_start", "0", RANKS),
    change(PROGRESS, 'self.writer = SummaryWriter(Path(cfg.output) / "tensorboard", purge_step=first_step + 1)',
           "first_step + 1", "None", RESUMED),
    change(VERIFICATION, "self.sets[name] = load_bin(path, cfg.image_size)", "cfg.image_size", "112", reach("image_size")),
    change(VERIFICATION, "self.ranks, self.batch_size, self.sets, self.best = ranks, cfg.batch_size, {}, {}", "cfg.batch_size",
           "128", parts("verification_sets")),
    drop(VERIFICATION, "backbone.eval()", loop("backbone_modes")),
    drop(VERIFICATION, "backbone.train()", loop("backbone_modes")),
    change(VERIFICATION, "self.best[name] = max(mean, self.best.get(name, 0.0))",
           "max(mean, self.best.get(name, 0.0))", "mean", parts("verification_sets")),
    change(VERIFICATION, "total = plain + backbone(x.flip(3))", "x.flip(3)", "x",
           "tests/engine/test_verification.py::test_two_ranks_share_the_work"),
    change("engine/schedule.py", "return lr * step / warmup_steps", " step", " (step + 1)", loop("learning_rates")),
    change("engine/distributed.py", "dist.init_process_group(backend, timeout=timedelta(minutes=timeout))", "minutes", "seconds",
           parts("the_ranks_wait_for_config_timeout")),

    # scripts, configs and networks
    change("train_old_softmax.py", "main(head=SoftmaxHead)", "head=SoftmaxHead", "", loop("the_old_models_scripts")),
    change("train_old_arc.py", "main()", "main()", 'main(head=__import__("losses").SoftmaxHead)', loop("the_old_models_scripts")),
    change(CONFIG, "set_key(config, key, literal(value), COMMAND_LINE)", "literal(value)", "value", "tests/utils/test_config.py"),
    change(CONFIG, "config.update(run_config(beside))", "config.update(run_config(beside))", "run_config(beside)",
           "tests/utils/test_config.py"),
    change(CONFIG, "if config.output is None:", "config.output is None", "True", reach("output")),
    change(CONFIG, 'config.output = str(ROOT / "work_dirs" / path.stem)', " / path.stem", "", "tests/utils/test_config.py"),
    change(CONFIG, "return Path(folder) / name", "Path(folder) / name", "given", reach("rec")),
    change(NETWORKS, OWN, '"dropout": dropout,', "", NETWORK),
    change(NETWORKS, OWN, '"fp16": fp16,', '"fp16": False,', NETWORK),
    change(NETWORKS, OWN, '"num_features": num_features, ', "", NETWORK),
    change(NETWORKS, OWN, '"image_size": image_size, ', "", NETWORK),

    # the loader
    change(LOADER, ORDER, "self.epoch", "0", loop("each_epoch_is_a_new_permutation")),
    change(LOADER, ORDER, "self.seed", "0", MIRRORED),
    change(LOADER, ORDER, ".numpy()[self.seen:]", ".numpy()", parts("the_rest_of_an_epoch_on_other_ranks_and_batches")),
    change(LOADER, "yield from self.left()[:, self.rank]", "self.rank", "0",
           parts("the_rest_of_an_epoch_on_other_ranks_and_batches")),
    change(LOADER, "return self.images // (self.batch_size * self.world_size)", "(self.batch_size * self.world_size)",
           "self.batch_size", RANKS),
    change(LOADER, "self.batches.epoch, self.batches.seen = epoch, seen", "self.batches.epoch, self.batches.seen = epoch, seen",
           "self.batches.epoch = epoch", RESUMED),
    change(LOADER, BATCHES, "rank, world_size", "0, 1", RANKS),

    # heads
    change(FC, "return Cosines.apply(F.normalize(embeddings), weight, self.fp16)", "self.fp16", "False",
           parts("a_heads_seed_and_precision")),
    change(FC, "return Cosines.apply(F.normalize(embeddings), weight, self.fp16)", "F.normalize(embeddings)", "embeddings",
           reach("margin_list")),
    change(FC, CLASS_ROWS, "self.seed", "0", parts("a_heads_seed_and_precision")),
    change(FC, SAMPLE, ", self.step", "", parts("sampled_classes_depend_on_seed_and_step")),
    change(FC, SAMPLE, "self.seed, ", "", parts("sampled_classes_depend_on_seed_and_step")),
    change(FC, "self.sampler = RowSampler(int(sample_rate * self.num_local), weight, seed)", "sample_rate * self.num_local",
           "sample_rate", parts("sampled_classes_depend_on_seed_and_step")),
    change(SOFTMAX, "super().__init__(no_margin, embedding_size, num_classes, fp16=fp16, seed=seed)", ", seed=seed", "",
           parts("a_heads_seed_and_precision")),
    change(SOFTMAX, "super().__init__(no_margin, embedding_size, num_classes, fp16=fp16, seed=seed)", "no_margin", "margin",
           STEP),
    change(SOFTMAX, "with autocast(embeddings.device, self.fp16):", "self.fp16", "False", parts("a_heads_seed_and_precision")),
    change(SHARDS, "return (total.log() - target).clamp(max=LARGEST_LOSS).mean()", ".clamp(max=LARGEST_LOSS)", "",
           parts("a_loss_is_cut_at_the_smallest_probability")),
    change(SHARDS, "share = upstream * ctx.s / len(grad)", "* ctx.s ", "", STEP),
    (*change(SHARDS, "return own_rows(grad) * dist.get_world_size()", " * dist.get_world_size()", "", RANKS), 1),
    drop(SHARDS, "dist.all_reduce(grad)", RANKS),
]

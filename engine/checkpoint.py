"""Checkpoints of a run: complete or absent, checked before they are used, for any number of ranks.

    <output>/checkpoints/<images seen>/rank_<r>.pt      state of rank r
                                       complete.json    written last; a folder without it is not a checkpoint
    <output>/model.pt, softmax_fc_gpu_<rank>.pt         the plain backbone and each rank's classes, after each epoch
             view_<d_o>.npz, view_<d_o>/                the same of the view, if the old features have other dimensions
             map.npz                                    the backbone as a map, if it is trained on features

A folder is named by the number of images seen, which does not depend on batch size and number of ranks.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from backbones.feature_maps import FeatureMap
from engine.checkpoint_files import Position, changes, found_in, last_words, names_in, problem_of, refuse_another_training
from engine.distributed import Ranks, gathered, held_by_first_rank, in_short
from engine.feature_training import has_map, models_of_features, write_map
from engine.model_files import save_model, save_whole
from engine.signals import EXIT_AGAIN, StopSignal
from engine.state import not_finite, own_tensors, put_back, rank_state
from engine.trainer import Trainer
from losses.view import views_of
from records.facts import Facts
from utils.errors import UserError
from utils.files import to_disk, whole_file
from utils.settings import Settings


@contextmanager
def locked_output(output: Path, ranks: Ranks) -> Iterator[None]:
    """Lock ``output`` for this run.  A collective: UserError on every rank if another run holds the folder."""
    refusal = (f"another training, or a process of a killed one, still writes to {output}; wait until it ends, or end it, and "
               f"start again; or give another output=FOLDER")
    with held_by_first_rank(output / "lock", refusal, ranks):
        yield


class Checkpoints:
    """Saves the run when it is due, keeps the newest config.keep_checkpoints, and resumes from the newest intact one."""

    def __init__(self, cfg: Settings, data: Facts, ranks: Ranks, trainer: Trainer, settings: dict[str, str], stop: StopSignal,
                 log: logging.Logger):
        """settings: of :func:`engine.settings.settings_of`; saved, and compared when a run resumes."""
        self.cfg, self.data, self.ranks, self.trainer, self.settings = cfg, data, ranks, trainer, settings
        self.stop, self.log = stop, log
        self.output, self.folder = Path(cfg.output), Path(cfg.output) / "checkpoints"
        self.wanted = False
        self.last: Position | None = None

    def resume(self) -> Position:
        """Restore the newest intact checkpoint; its position, or the start if there is no checkpoint.  A collective.

        Raises :class:`UserError` if there is a checkpoint and config.resume is off (it would be lost), if all are damaged, or
        if the newest is of another training.
        """
        found = gathered(found_in(self.folder) if self.ranks.rank == 0 else None)[0]
        if found and not self.cfg.resume:
            raise UserError(f"{self.folder} holds a checkpoint (newest: {max(found, key=int)}): add resume=True to resume "
                            f"from it, give another output=FOLDER, or remove {self.folder} to start over")
        for name in sorted(found, key=int, reverse=True):
            problem = self.problem(name, found[name])
            if problem is None:
                position = self.load(self.folder / name, found[name])
                self.set_aside([damaged for damaged in found if int(damaged) > int(name)])
                return position
            self.log.warning("%s is not used, and is renamed to %s_damaged if an older one is intact: %s", self.folder / name,
                             name, problem)
        if found:
            raise UserError(f"no checkpoint in {self.folder} is intact (see above); copy one back, or remove {self.folder} to "
                            f"start over")
        if self.cfg.resume:
            self.log.info("no checkpoint in %s: the run starts from the beginning", self.folder)
        return Position()

    def problem(self, name: str, about: dict | str) -> str | None:
        """Why a checkpoint cannot be used, or None; each rank reads its share of the files.  A collective."""
        mine = slice(self.ranks.rank, None, self.ranks.world_size)
        return next(filter(None, gathered(problem_of(self.folder / name, about, mine))), None)

    def load(self, folder: Path, about: dict) -> Position:
        """Restore one checkpoint; its position.  A collective, since every rank must agree that it fits."""
        world_size, position = about["world_size"], Position(about["epoch"], about["images"])
        changed = changes(about, self.settings)
        refuse_another_training(folder, changed)
        same = world_size == self.ranks.world_size
        try:
            saved = [torch.load(folder / f"rank_{r}.pt", map_location="cpu", mmap=True, weights_only=True)
                     for r in ([self.ranks.rank] if same else range(world_size))]
            own = saved[0 if same else self.ranks.rank % world_size]
            put_back(self.trainer, own["tensors"] if same else own_tensors(saved, self.ranks), own["scaler"], own["random"])
        except Exception as error:      # other names or shapes: torch raises errors of many kinds
            raise UserError(f"{folder} does not fit this config (settings that differ: {', '.join(changed) or 'none'}; "
                            f"{in_short(error)}); give the settings it was saved with, or another output=FOLDER") from error
        self.last = position
        self.log.info("resumed from %s: epoch %d, %d images of it seen, saved by %d ranks%s", folder, position.epoch + 1,
                      position.images, world_size, "".join(f"; config.{k} was {a}, is {b}" for k, (a, b) in changed.items()))
        return position

    def set_aside(self, names: list[str]) -> None:
        """Rename damaged checkpoints, so that nothing counts or offers them; on every rank, which may have its own disk."""
        for name in names:
            with suppress(OSError):             # another rank has renamed it
                (self.folder / name).rename(self.folder / f"{name}_damaged")

    def due(self, step: int, update: bool) -> bool:
        """Whether to save after ``step`` steps: every config.save_every, or because of a signal.  A collective.

        A checkpoint waits for the next update of the weights, because it does not hold accumulated gradients.
        """
        self.wanted |= self.stop.asked() is not None or self.cfg.save_every > 0 and step % self.cfg.save_every == 0
        return self.wanted and update

    def epoch_ends(self, position: Position, update: bool) -> None:
        """Write model.pt and the classifier shards, and a checkpoint now or after the next update.  A collective."""
        self.stop.asked()               # all ranks ask after each step; ``due`` is not called after the last step of an epoch
        self.write_model()
        self.wanted = True
        if update or position.epoch == self.cfg.num_epoch:
            self.save(position)

    def write_model(self) -> None:
        """Write model.pt and the classifier shards.  A collective."""
        self.check_weights()
        try:
            views = views_of(self.trainer.plain_method)
            save_model(self.output, self.ranks, self.trainer.plain_backbone, self.trainer.head, views)
            self.write_map()
        except OSError as error:
            raise UserError(f"the model was not written to {self.output} ({error.strerror}) and the run ends; "
                            f"{last_words(self.output)}; mend that and resume with resume=True") from error

    def makes_map(self) -> bool:
        """Whether the run writes map.npz: its backbone is a network of features, and its method has an old model."""
        return isinstance(self.trainer.plain_backbone, FeatureMap) and has_map(self.trainer.plain_method)

    def write_map(self) -> None:
        """Rank 0 writes map.npz, if the run makes one."""
        backbone = self.trainer.plain_backbone
        if self.ranks.rank == 0 and self.makes_map() and isinstance(backbone, FeatureMap):
            write_map(self.output, backbone, self.trainer.plain_method, self.data.images, models_of_features(self.cfg))

    def save(self, position: Position) -> None:
        """Write a checkpoint on all ranks, then rank 0's complete.json, and only then remove an old one.  A collective.

        Ends the process with exit code 75 if a signal asked for that.
        """
        self.wanted = False
        if position != self.last:
            self.check_weights()
            self.write(position)
        if self.stop.heard and position.epoch < self.cfg.num_epoch:
            self.log.info("stopped by %s: %s; the same command with resume=True resumes", self.stop.heard,
                          last_words(self.output))
            raise SystemExit(EXIT_AGAIN)

    def check_weights(self) -> None:
        """End the run rather than save weights that are not finite.  A collective."""
        wrong = next(filter(None, gathered(not_finite(rank_state(self.trainer)["tensors"]))), None)
        if wrong:
            raise UserError(f"{wrong} is not finite; it is not saved, and the run ends; {last_words(self.output)}; lower "
                            f"config.lr or set config.fp16 = False, and resume with resume=True")

    def write(self, position: Position) -> None:
        """Write the checkpoint of ``position``; UserError on every rank if one cannot.  A collective."""
        folder = self.folder / str(position.epoch * self.data.images + position.images)
        self.remove(set(names_in(self.folder)) - found_in(self.folder).keys() - {folder.name})      # incomplete: a kill left them
        file, error = None, None
        try:
            file = save_whole(rank_state(self.trainer), folder / f"rank_{self.ranks.rank}.pt")
        except OSError as problem:
            error = f"rank {self.ranks.rank}: {problem.strerror or problem}"
        results = gathered((file, error))
        errors = [error for _, error in results if error]
        if not errors and self.ranks.rank == 0:
            about = {"epoch": position.epoch, "images": position.images, "world_size": self.ranks.world_size,
                     "files": {f"rank_{r}.pt": file for r, (file, _) in enumerate(results)}, "settings": self.settings}
            try:
                with whole_file(folder / "complete.json") as part:
                    part.write_text(json.dumps(about, indent=1) + "\n")
            except OSError as problem:
                errors.append(f"rank 0: {problem.strerror or problem}")
        errors = gathered(errors)[0]
        if errors:
            self.remove({folder.name})
            raise UserError(f"the checkpoint {folder} was not written ({'; '.join(errors)}) and the run ends; "
                            f"{last_words(self.output)}; mend that and resume with resume=True")
        self.last = position
        to_disk(self.folder)                # the new folder's name, before an old one goes
        older = [name for name in found_in(self.folder) if int(name) <= int(folder.name)]
        self.remove(set(sorted(older, key=int)[:-self.cfg.keep_checkpoints]))

    def remove(self, names: set[str]) -> None:
        """Remove the checkpoints that rank 0 names, complete.json first: without it a folder is not a checkpoint.

        On every rank, because each may have its own disk.  A collective.
        """
        for name in gathered(names)[0]:
            (self.folder / name / "complete.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder / name, ignore_errors=True)

"""Training of HEAR-Net on the hardest faces and on synthetic occlusions, Eq. (10)-(15)."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import HEARTrainConfig, Intervals, Runtime
from faceshifter.data.batches import Fetch, batches, load_set
from faceshifter.data.hardest import RankedFace, load_errors, rank_errors, select_hardest
from faceshifter.data.occlusion import Occluders
from faceshifter.data.pairs import Pairs, Population
from faceshifter.data.shards import Faces, StoredFaces
from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import TrainingError
from faceshifter.models import losses
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.networks import load_aei, load_encoder_of
from faceshifter.tensors import fingerprint, load_named, save_tensors
from faceshifter.train.aei import NUM_SAMPLES, NUM_WATCHED
from faceshifter.train.checkpoint import Stateful, start_from
from faceshifter.train.distributed import distribute, synchronise_batch_norm
from faceshifter.train.loop import (
    add_gradients,
    compile_where_wanted,
    make_adam,
    make_ema,
    run_steps,
    to_device,
    update,
    update_ema,
)
from faceshifter.train.run import Run, name_teachers, start_run


@torch.no_grad()
def first_stage(
    aei: nn.Module, encoder: IdentityEncoder, pairs: Pairs
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"], Float[Tensor, "b d"]]:
    """Return Y_hat_st, delta_Y_t and z_id(X_s) of the frozen first stage, from one call."""
    z_id_s, z_id_t = encoder(pairs.X_s), encoder(pairs.X_t)
    Y_hat = aei(pairs.X_t, torch.stack([z_id_s, z_id_t], dim=1)).float()
    return Y_hat[:, 0], heuristic_error(pairs.X_t, Y_hat[:, 1]), z_id_s


class RefinementLoss(nn.Module):
    """Eq. (15), a module over HEAR-Net, since PyTorch distributes modules."""

    def __init__(self, hear: HEARNet) -> None:
        super().__init__()
        self.hear = hear

    def forward(
        self,
        aei: AEINet,
        encoder: IdentityEncoder,
        judge: IdentityEncoder,
        pairs: Pairs,
        config: HEARTrainConfig,
    ) -> tuple[losses.Scalar, dict[str, Tensor]]:
        """Return Eq. (15) and its terms.

        ``encoder`` makes z_id; ``judge`` is that of the identity loss, in the paper the same.
        """
        Y_hat_st, delta_Y_t, z_id_s = first_stage(aei, encoder, pairs)
        with torch.no_grad():
            z_judge_s = z_id_s if judge is encoder else judge(pairs.X_s)
        Y_st = self.hear(Y_hat_st, delta_Y_t).float()
        loss_rec = losses.reconstruction_loss(Y_st, pairs.X_t, pairs.same, pairs.num_same)
        loss_id = losses.identity_loss(judge(Y_st), z_judge_s)
        loss_chg = losses.change_loss(Y_hat_st, Y_st)
        loss = losses.hear_loss(
            loss_rec,
            loss_id,
            loss_chg,
            lambda_rec=config.lambda_rec,
            lambda_id=config.lambda_id,
            lambda_chg=config.lambda_chg,
        )
        return loss, {"loss/rec": loss_rec, "loss/id": loss_id, "loss/chg": loss_chg}


class HEARTraining:
    """The network of stage two, its optimiser and its step, over a frozen first stage.

    The first encoder makes z_id; the others take turns with it as judges.
    """

    def __init__(
        self, config: HEARTrainConfig, aei: AEINet, encoders: Sequence[IdentityEncoder], run: Run
    ) -> None:
        self.config, self.encoders, self.run = config, encoders, run
        self.aei = to_device(aei, run.device, run.runtime)
        torch.manual_seed(config.seed)
        self.hear = to_device(HEARNet(config.model), run.device, run.runtime)
        self.ema = make_ema(self.hear)
        networks = {"hear": self.hear, "ema": self.ema}
        start_from(run.init, "hear", networks)
        synchronise_batch_norm(self.hear, run.ranks)
        self.adam = make_adam(self.hear.parameters(), config.adam)
        self.state: dict[str, Stateful] = {**networks, "adam": self.adam}
        compile_where_wanted(run.device, run.runtime, self.aei, self.hear)
        self.loss = distribute(RefinementLoss(self.hear), run.ranks)

    def step(self, position: int, parts: Sequence[Pairs]) -> dict[str, Tensor]:
        """Train once; return the means of all terms."""
        encoder, judge = self.encoders[0], self.encoders[position % len(self.encoders)]
        inputs = [(self.aei, encoder, judge, pairs, self.config) for pairs in parts]
        terms, _ = add_gradients(self.loss, inputs, self.run)
        terms["grad"] = update(self.adam, self.hear)
        update_ema(self.ema, self.hear, self.config.ema, position)
        return terms


def train(
    config: HEARTrainConfig,
    data: Path,
    folder: Path,
    aei_weights: Path,
    *,
    init: Path | None = None,
    occluder_paths: Sequence[Path] = (),
    errors: Path | None = None,
    identity: Path | None = None,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train HEAR-Net over a first stage on a set that ``prepare`` wrote; the same call resumes.

    ``start_run`` explains ``folder``, ``init`` (here of any first stage), ``runtime`` and
    ``intervals``. ``occluder_paths`` are folders or tars of RGBA cut-outs; without any, all
    occluders are drawn. ``errors`` is a folder that ``rank-errors`` wrote of this set and first
    stage; without it, the faces are ranked at the start. ``identity`` is the first stage's encoder,
    where it is a file.

    Raises:
        OutputError: The folder is another run's, or cannot be written.
        TrainingError: As for the first stage, or the hardest faces are not those of before.
    """
    with start_run(folder, config.batch, config.accumulate, init, runtime, intervals) as run:
        aei, info = load_aei(aei_weights)
        teachers = run.load_encoders(
            config.teachers, data, aei.config.geometry, f"{aei_weights}'s; prepare it again"
        )
        encoder = load_encoder_of(info, aei_weights, identity).to(run.device)
        occluders = Occluders.load(occluder_paths)
        made_by = {"hear": asdict(config), "data": data.name, "aei": fingerprint(aei)}
        made_by["occluders"] = sorted(path.name for path in occluder_paths)
        run.claim(made_by)
        training = HEARTraining(config, aei, [encoder, *teachers], run)
        # On the CPU, where pictures are occluded.
        cpu = torch.device("cpu")
        faces = load_set(data, aei.config.image_size, cpu, run.runtime, run.ranks.world)

        def rank() -> Sequence[RankedFace]:
            out = folder / "errors"
            return rank_errors(data, aei, encoder, out, ranked=config.ranked, seed=config.seed)

        ranked = run.ranks.first_does(rank) if errors is None else load_errors(errors, data, aei)
        hardest = run.ranks.first_does(
            lambda: _keep_hardest(folder, faces, select_hardest(ranked, config.hardest))
        )
        population, held_out = Population.split([c.identity for c in faces.crops], config.seed)
        targets = np.flatnonzero(np.isin(population.faces, hardest))
        fetch = Fetch(
            config, population, targets, faces, occluders, run.ranks.rank, run.ranks.world
        )
        watched = watched_pairs(fetch, faces, held_out, run.device)
        about: dict[str, object] = {"config": asdict(config.model), "aei": made_by["aei"]}
        about["teachers"] = name_teachers(config.teachers)
        run_steps(
            training,
            lambda start: batches(fetch, faces, start, run.device, run.runtime),
            watch=lambda: measure_refinement(training, watched),
            snapshot=lambda position: run.export(
                "hear", training.ema, position, about, draw_samples(training, watched)
            ),
        )


def watched_pairs(
    fetch: Fetch,
    faces: Faces | StoredFaces,
    held_out: Int[np.ndarray, " k"],
    device: torch.device,
) -> Pairs:
    """Return occluded pairs of people that training never sees; of a small set, that it does."""
    identities = [crop.identity for crop in faces.crops]
    people = np.unique(identities, return_inverse=True)[1]
    if len(np.unique(people[held_out])) > 1:
        population = Population(held_out, people[held_out])
        targets = np.arange(len(held_out))
    else:
        population, targets = fetch.population, fetch.targets
    config = replace(fetch.config, seed=fetch.config.seed + 1)
    watched = replace(fetch, config=config, population=population, targets=targets)
    raw = watched.read(watched.draw(0, NUM_WATCHED), faces, 0)
    return raw.to_pairs(device, augmented=False)


@torch.no_grad()
def draw_samples(training: HEARTraining, watched: Pairs) -> list[Float[Tensor, "k 3 s s"]]:
    """Return X_s, X_t, Y_hat_st, delta_Y_t (halved) and Y_st of the first watched pairs."""
    n = NUM_SAMPLES
    pairs = Pairs(watched.X_s[:n], watched.X_t[:n], watched.same[:n], watched.num_same)
    Y_hat_st, delta_Y_t, _ = first_stage(training.aei, training.encoders[0], pairs)
    Y_st = training.ema(Y_hat_st, delta_Y_t)
    return [pairs.X_s, pairs.X_t, Y_hat_st, delta_Y_t / 2, Y_st]


@torch.no_grad()
def measure_refinement(training: HEARTraining, watched: Pairs) -> dict[str, float]:
    """Measure cosines, what is lost of the one to the source, error and change.

    ``watch/rec`` is the mean of abs(Y_st - X_t) where X_t = X_s, ``watch/chg`` that of
    abs(Y_st - Y_hat_st), in [0, 2].
    """
    same = watched.same
    Y_hat_st, delta_Y_t, _ = first_stage(training.aei, training.encoders[0], watched)
    Y_st = training.ema(Y_hat_st, delta_Y_t)
    figures = {"watch/chg": losses.change_loss(Y_hat_st, Y_st).item()}
    if same.any():
        figures["watch/rec"] = F.l1_loss(Y_st[same], watched.X_t[same]).item()
    if same.all():
        return figures
    for encoder in training.encoders:
        pictures = (watched.X_s, watched.X_t, Y_hat_st, Y_st)
        z_id_s, z_id_t, z_id_Y_hat, z_id_Y = (encoder(X[~same]) for X in pictures)
        cos_source = (z_id_Y * z_id_s).sum(1).mean()
        cos_target = (z_id_Y * z_id_t).sum(1).mean()
        cos_lost = (z_id_Y_hat * z_id_s).sum(1).mean() - cos_source
        figures[f"watch/cos_source/{encoder.name}"] = cos_source.item()
        figures[f"watch/cos_target/{encoder.name}"] = cos_target.item()
        figures[f"watch/cos_lost/{encoder.name}"] = cos_lost.item()
    return figures


def _keep_hardest(
    folder: Path, faces: Faces | StoredFaces, hardest: Sequence[RankedFace]
) -> Int[np.ndarray, " k"]:
    """Return the indices of the hardest faces, and keep them: a resume needs the same."""
    idx_of = {(crop.shard, crop.file): idx for idx, crop in enumerate(faces.crops)}
    targets = np.array([idx_of[face.shard, face.file] for face in hardest], np.int64)
    path = folder / "hardest.safetensors"
    if not path.exists():
        save_tensors(path, {"targets": targets}, {"kind": "hardest"})
    if not np.array_equal(load_named(path, {"targets": 1})[0]["targets"], targets):
        raise TrainingError(
            f"{folder} is a run with other hardest faces; give the same --errors to resume it, or "
            "another --run"
        )
    return targets

"""Training of HEAR-Net on the hardest faces and on synthetic occlusions, Eq. (10)-(15)."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter import __version__
from faceshifter.config import HEARTrainConfig, Intervals, Runtime
from faceshifter.data.batches import Fetch, batches, load_set
from faceshifter.data.hardest import RankedFace, load_errors, rank_errors, select_hardest
from faceshifter.data.occlusion import Occluders
from faceshifter.data.pairs import Pairs, Population
from faceshifter.data.shards import Faces, StoredFaces, read_geometry
from faceshifter.encoders.encoder import IdentityEncoder, load_identity_encoder
from faceshifter.errors import TrainingError
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.models.losses import (
    Scalar,
    change_loss,
    hear_loss,
    identity_loss,
    reconstruction_loss,
)
from faceshifter.networks import load_aei, load_encoder_of
from faceshifter.tensors import export_weights, fingerprint, load_tensors, save_tensors
from faceshifter.train.distributed import (
    Ranks,
    distribute,
    join_ranks,
    synchronise_batch_norm,
    without_exchange,
)
from faceshifter.train.loop import (
    add_means,
    autocast,
    compile_where_wanted,
    gradient_norm,
    make_adam,
    make_ema,
    part_size,
    run_steps,
    save_grid,
    to_device,
    update_ema,
)
from faceshifter.train.run import name_teachers, open_run, start_from

NUM_SAMPLES, NUM_WATCHED = 16, 32
"""Pairs drawn at each checkpoint, and pairs that the watchdog measures."""


@torch.no_grad()
def first_stage(
    aei: nn.Module, encoder: IdentityEncoder, pairs: Pairs
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"], Float[Tensor, "b d"]]:
    """Y_hat_st, delta_Y_t and z_id(X_s) of the frozen first stage, in one call."""
    z_id_s, z_id_t = encoder(pairs.X_s), encoder(pairs.X_t)
    Y_hat = aei(pairs.X_t, torch.stack([z_id_s, z_id_t], dim=1)).float()
    return Y_hat[:, 0], heuristic_error(pairs.X_t, Y_hat[:, 1]), z_id_s


def refinement_loss(
    hear: nn.Module,
    judge: IdentityEncoder,
    pairs: Pairs,
    Y_hat_st: Float[Tensor, "b 3 s s"],
    delta_Y_t: Float[Tensor, "b 3 s s"],
    judged_s: Float[Tensor, "b d"],
    config: HEARTrainConfig,
) -> tuple[Scalar, dict[str, Tensor]]:
    """Eq. (15) and its terms; ``judged_s`` is what the encoder in the identity loss sees in X_s."""
    Y_st = hear(Y_hat_st, delta_Y_t).float()
    terms = {
        "loss/rec": reconstruction_loss(Y_st, pairs.X_t, pairs.same, pairs.num_same),
        "loss/id": identity_loss(judge(Y_st), judged_s),
        "loss/chg": change_loss(Y_hat_st, Y_st),
    }
    loss = hear_loss(
        terms["loss/rec"],
        terms["loss/id"],
        terms["loss/chg"],
        lambda_rec=config.lambda_rec,
        lambda_id=config.lambda_id,
        lambda_chg=config.lambda_chg,
    )
    return loss, terms


class RefinementLoss(nn.Module):
    """``refinement_loss`` as a module over what it trains, which is what PyTorch distributes."""

    def __init__(self, hear: HEARNet) -> None:
        super().__init__()
        self.hear = hear

    def forward(
        self,
        judge: IdentityEncoder,
        pairs: Pairs,
        Y_hat_st: Float[Tensor, "b 3 s s"],
        delta_Y_t: Float[Tensor, "b 3 s s"],
        judged_s: Float[Tensor, "b d"],
        config: HEARTrainConfig,
    ) -> tuple[Scalar, dict[str, Tensor]]:
        """Eq. (15) and its terms."""
        return refinement_loss(self.hear, judge, pairs, Y_hat_st, delta_Y_t, judged_s, config)


class HEARTraining:
    """The network of stage two, its optimiser and its step, over a frozen first stage.

    Args:
        config: The recipe.
        aei: The first stage.
        encoders: That of z_id first, then those that take turns with it in the identity loss.
        ranks: The processes that train together.
        runtime: How to compute.
        init: A checkpoint of another run, or exported weights, to start the network from.
    """

    def __init__(
        self,
        config: HEARTrainConfig,
        aei: AEINet,
        encoders: Sequence[IdentityEncoder],
        ranks: Ranks,
        runtime: Runtime,
        init: Path | None = None,
    ) -> None:
        self.config, self.encoders, self.runtime = config, encoders, runtime
        self.device = ranks.device
        self.aei = to_device(aei, self.device, runtime)
        torch.manual_seed(config.seed)
        self.hear = to_device(HEARNet(config.model), self.device, runtime)
        self.ema = make_ema(self.hear)
        self.networks = {"hear": self.hear, "ema": self.ema}
        if init is not None:
            start_from(init, "hear", self.networks)
        synchronise_batch_norm(self.hear, ranks)
        self.adam = make_adam(self.hear.parameters(), config.adam)
        compile_where_wanted(self.device, runtime, self.aei, self.hear)
        self.loss = distribute(RefinementLoss(self.hear), ranks)

    def step(self, position: int, parts: Sequence[Pairs]) -> dict[str, Tensor]:
        """One step; returns the means of all terms."""
        terms = self.gradients(position, parts)
        terms["grad"] = gradient_norm(self.hear)
        self.update(position)
        return terms

    def gradients(self, position: int, parts: Sequence[Pairs]) -> dict[str, Tensor]:
        """Gradients of Eq. (15) over all parts, and its terms."""
        encoder, judge = self.encoders[0], self.encoders[position % len(self.encoders)]
        sums: dict[str, Tensor] = {}
        for idx, pairs in enumerate(parts):
            with without_exchange(self.loss, idx + 1 < len(parts)):
                with autocast(self.device, self.runtime):
                    Y_hat_st, delta_Y_t, z_id_s = first_stage(self.aei, encoder, pairs)
                    with torch.no_grad():
                        judged_s = z_id_s if judge is encoder else judge(pairs.X_s)
                    loss, terms = self.loss(
                        judge, pairs, Y_hat_st, delta_Y_t, judged_s, self.config
                    )
                (loss / len(parts)).backward()
            add_means(sums, terms, len(parts))
        return sums

    def update(self, position: int) -> None:
        """Adam's step, and the average of the weights."""
        self.adam.step()
        self.adam.zero_grad()
        update_ema(self.ema, self.hear, self.config.ema, position)


def train(
    config: HEARTrainConfig,
    data: Path,
    run: Path,
    aei_weights: Path,
    *,
    init: Path | None = None,
    occluder_paths: Sequence[Path] = (),
    errors: Path | None = None,
    identity: Path | None = None,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train HEAR-Net on a prepared set over a trained first stage; the same call resumes.

    Args:
        config: The recipe.
        data: A folder that ``prepare`` wrote.
        run: Folder of the run; ``weights.safetensors`` in it is always the newest export.
        aei_weights: The first stage.
        init: A checkpoint of another run, of any first stage, or exported weights, to start from.
        occluder_paths: Folders or tars of RGBA cut-outs; without any, all are drawn.
        errors: A folder that ``rank-errors`` wrote of this set and first stage; without it, they
            are ranked here.
        identity: The first stage's encoder, where it is a file.
        runtime: Where and how to compute.
        intervals: How often to report, to watch and to write checkpoints.

    Raises:
        TrainingError: As for the first stage.
    """
    runtime, intervals = runtime or Runtime(), intervals or Intervals()
    with join_ranks(runtime.device) as ranks:
        part_size(config.batch, config.accumulate, ranks)
        aei, info = load_aei(aei_weights)
        if read_geometry(data) != aei.config.geometry:
            raise TrainingError(
                f"{data} was cropped with another geometry than {aei_weights}'s; prepare it again"
            )
        encoder = load_encoder_of(info, aei_weights, identity).to(ranks.device)
        teachers = [
            load_identity_encoder(spec, aei.config.geometry).to(ranks.device)
            for spec in config.teachers
        ]
        occluders = Occluders.load(occluder_paths)
        settings = {"hear": asdict(config), "data": data.name, "aei": fingerprint(aei)}
        settings["occluders"] = sorted(path.name for path in occluder_paths)
        open_run(run, settings, ranks)
        training = HEARTraining(config, aei, [encoder, *teachers], ranks, runtime, init)
        # On the CPU, where pictures are occluded.
        size, cpu = aei.config.image_size, torch.device("cpu")
        faces = load_set(data, size, cpu, runtime, ranks.world)
        if errors is not None:
            ranked = load_errors(errors, data, aei)
        else:
            ranked = ranks.first_does(
                lambda: rank_errors(
                    data, aei, encoder, run / "errors", ranked=config.ranked, seed=config.seed
                )
            )
        hardest = ranks.first_does(
            lambda: _targets(run, faces, select_hardest(ranked, config.hardest))
        )
        population, held_out = Population.split([c.identity for c in faces.crops], config.seed)
        targets = np.flatnonzero(np.isin(population.faces, hardest))
        fetch = Fetch(config, population, targets, faces, occluders, ranks.rank, ranks.world)
        seen = watched_pairs(fetch, faces, held_out, ranks.device)
        named_teachers = name_teachers(config.teachers)

        def snapshot(position: int) -> None:
            export = {
                "kind": "hear",
                "version": __version__,
                "config": asdict(config.model),
                "aei": fingerprint(aei),
                "teachers": named_teachers,
                "step": position,
            }
            export_weights(run / "weights.safetensors", training.ema, export)
            save_samples(run / "samples" / f"step-{position:08d}.png", training, seen)

        run_steps(
            run,
            ranks,
            state=training.networks | {"adam": training.adam},
            steps=config.steps,
            batch=config.batch,
            batches=lambda start: batches(fetch, faces, start, ranks.device, runtime),
            step=training.step,
            watch=lambda _: measure_refinement(training, seen),
            snapshot=snapshot,
            intervals=intervals,
            tensorboard=runtime.tensorboard,
        )


def watched_pairs(
    fetch: Fetch,
    faces: Faces | StoredFaces,
    held_out: Int[np.ndarray, " k"],
    device: torch.device,
) -> Pairs:
    """Fixed occluded pairs of people that training never sees; of a small set, that it does."""
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
def save_samples(path: Path, training: HEARTraining, seen: Pairs) -> None:
    """Draw the first watched pairs: X_s, X_t, Y_hat_st, delta_Y_t and Y_st."""
    n = NUM_SAMPLES
    pairs = Pairs(seen.X_s[:n], seen.X_t[:n], seen.same[:n], seen.num_same)
    Y_hat_st, delta_Y_t, _ = first_stage(training.aei, training.encoders[0], pairs)
    Y_st = training.ema(Y_hat_st, delta_Y_t)
    save_grid(path, [pairs.X_s, pairs.X_t, Y_hat_st, delta_Y_t / 2, Y_st])


@torch.no_grad()
def measure_refinement(training: HEARTraining, seen: Pairs) -> dict[str, float]:
    """What the watchdog sees: cosines, what of that to the source is lost, error, and change.

    ``watch/rec`` is the mean of abs(Y_st - X_t) where X_t = X_s, ``watch/chg`` that of
    abs(Y_st - Y_hat_st), in [0, 2].
    """
    same = seen.same
    Y_hat_st, delta_Y_t, _ = first_stage(training.aei, training.encoders[0], seen)
    Y_st = training.ema(Y_hat_st, delta_Y_t)
    figures = {"watch/chg": change_loss(Y_hat_st, Y_st).item()}
    if same.any():
        figures["watch/rec"] = F.l1_loss(Y_st[same], seen.X_t[same]).item()
    if not same.all():
        for encoder in training.encoders:
            pictures = (seen.X_s, seen.X_t, Y_hat_st, Y_st)
            z_s, z_t, z_Y_hat, z_Y = (encoder(X[~same]) for X in pictures)
            cos_source = (z_Y * z_s).sum(1).mean()
            figures |= {
                f"watch/cos_source/{encoder.name}": cos_source.item(),
                f"watch/cos_target/{encoder.name}": (z_Y * z_t).sum(1).mean().item(),
                f"watch/cos_lost/{encoder.name}": (
                    (z_Y_hat * z_s).sum(1).mean() - cos_source
                ).item(),
            }
    return figures


def _targets(
    run: Path, faces: Faces | StoredFaces, hardest: Sequence[RankedFace]
) -> Int[np.ndarray, " k"]:
    """Indices of the hardest faces, which the run keeps: a resume has to have the same."""
    idx_of = {(crop.shard, crop.file): idx for idx, crop in enumerate(faces.crops)}
    idxs = [idx_of[face.shard, face.file] for face in hardest]
    path = run / "hardest.safetensors"
    targets = np.array(idxs, np.int64)
    if not path.exists():
        save_tensors(path, {"targets": targets}, {"kind": "hardest"})
    if not np.array_equal(load_tensors(path)[0]["targets"], targets):
        raise TrainingError(
            f"{run} is a run with other hardest faces; give the same --errors to resume it, or "
            "another --run"
        )
    return targets

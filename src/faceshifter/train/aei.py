"""Training of AEI-Net, Eq. (6)-(9)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter import __version__
from faceshifter.config import AEITrainConfig, AEIWeights, Intervals, Runtime
from faceshifter.data.augment import RandomView
from faceshifter.data.batches import Fetch, batches, find_sharpest, load_set
from faceshifter.data.occlusion import Occluders
from faceshifter.data.pairs import Pairs, Population
from faceshifter.data.shards import Faces, StoredFaces, read_geometry
from faceshifter.encoders.encoder import IdentityEncoder, load_identity_encoder
from faceshifter.errors import TrainingError
from faceshifter.models.aei import AEINet, recorded_masks
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.losses import (
    Scalar,
    aei_loss,
    attributes_loss,
    hinge_loss_d,
    hinge_loss_g,
    identity_loss,
    reconstruction_loss,
)
from faceshifter.networks import to_range
from faceshifter.tensors import export_weights, fingerprint
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


def generator_loss(
    aei: AEINet,
    discriminator: MultiScaleDiscriminator,
    encoder: IdentityEncoder,
    judge: IdentityEncoder,
    pairs: Pairs,
    weights: AEIWeights,
    view: RandomView | None = None,
) -> tuple[Scalar, dict[str, Tensor], Float[Tensor, "b 3 s s"]]:
    """Eq. (9), its terms and the swaps.

    Args:
        aei: In training.
        discriminator: Held.
        encoder: Makes z_id.
        judge: The encoder in the identity loss; in the paper the same.
        pairs: A batch.
        weights: Of the terms.
        view: How the judge sees the swaps; without one as they are.
    """
    with torch.no_grad():
        z_id_s = encoder(pairs.X_s)
        judged_s = z_id_s if judge is encoder else judge(pairs.X_s)
    z_att = aei.attributes_encoder(pairs.X_t)
    Y = aei.generator(z_att, z_id_s[:, None])[:, 0]
    seen = Y.float() if view is None else view.apply(Y.float())
    loss_id = identity_loss(judge(seen), judged_s)
    # z_att(X_t) is held: else both sides would move. docs/decisions.md#attributes-loss
    loss_att = attributes_loss(aei.attributes_encoder(Y), [z_att_k.detach() for z_att_k in z_att])
    loss_rec = reconstruction_loss(Y.float(), pairs.X_t, pairs.same, pairs.num_same)
    loss_adv = hinge_loss_g(discriminator(Y))
    loss = aei_loss(
        loss_adv,
        loss_att,
        loss_id,
        loss_rec,
        lambda_adv=weights.adv,
        lambda_att=weights.att,
        lambda_id=weights.id,
        lambda_rec=weights.rec,
    )
    terms = {"loss/adv": loss_adv, "loss/att": loss_att, "loss/rec": loss_rec, "loss/id": loss_id}
    return loss, terms, Y


def discriminator_loss(
    discriminator: MultiScaleDiscriminator,
    X_t: Float[Tensor, "b 3 s s"],
    Y: Float[Tensor, "b 3 s s"],
) -> tuple[Scalar, dict[str, Tensor]]:
    """The hinge loss of targets against swaps."""
    scores_real, scores_fake = discriminator(X_t), discriminator(Y.detach())
    loss = hinge_loss_d(scores_real, scores_fake)
    terms = {
        "loss/d": loss,
        "score/real": torch.stack([s.float().mean() for s in scores_real]).mean(),
        "score/fake": torch.stack([s.float().mean() for s in scores_fake]).mean(),
    }
    return loss, terms


class GeneratorLoss(nn.Module):
    """``generator_loss`` as a module over what it trains, which is what PyTorch distributes."""

    def __init__(self, aei: AEINet) -> None:
        super().__init__()
        self.aei = aei

    def forward(
        self,
        discriminator: MultiScaleDiscriminator,
        encoder: IdentityEncoder,
        judge: IdentityEncoder,
        pairs: Pairs,
        weights: AEIWeights,
        view: RandomView | None,
    ) -> tuple[Scalar, dict[str, Tensor], Float[Tensor, "b 3 s s"]]:
        """Eq. (9), its terms and the swaps."""
        return generator_loss(self.aei, discriminator, encoder, judge, pairs, weights, view)


class DiscriminatorLoss(nn.Module):
    """``discriminator_loss`` as a module over what it trains."""

    def __init__(self, discriminator: MultiScaleDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(
        self, X_t: Float[Tensor, "b 3 s s"], Y: Float[Tensor, "b 3 s s"]
    ) -> tuple[Scalar, dict[str, Tensor]]:
        """The hinge loss and its terms."""
        return discriminator_loss(self.discriminator, X_t, Y)


class AEITraining:
    """The networks of stage one, their optimisers, and the two halves of a step.

    Args:
        config: The recipe.
        encoders: That of z_id first, then those that take turns with it in the identity loss.
        ranks: The processes that train together.
        runtime: How to compute.
        init: A checkpoint of another run, or exported weights, to start the networks from.
    """

    def __init__(
        self,
        config: AEITrainConfig,
        encoders: Sequence[IdentityEncoder],
        ranks: Ranks,
        runtime: Runtime,
        init: Path | None = None,
    ) -> None:
        self.config, self.encoders, self.runtime = config, encoders, runtime
        self.device = ranks.device
        torch.manual_seed(config.seed)
        self.aei = to_device(AEINet(config.model), self.device, runtime)
        self.discriminator = to_device(
            MultiScaleDiscriminator(config.discriminator), self.device, runtime
        )
        self.ema = make_ema(self.aei)
        self.networks = {"aei": self.aei, "ema": self.ema, "discriminator": self.discriminator}
        if init is not None:
            start_from(init, "aei", self.networks)
        synchronise_batch_norm(self.aei, ranks)
        self.adam_g = make_adam(self.aei.parameters(), config.adam_g)
        self.adam_d = make_adam(self.discriminator.parameters(), config.adam_d)
        compile_where_wanted(
            self.device,
            runtime,
            self.aei.attributes_encoder,
            self.aei.generator,
            self.discriminator,
        )
        self.generator_loss = distribute(GeneratorLoss(self.aei), ranks)
        self.discriminator_loss = distribute(DiscriminatorLoss(self.discriminator), ranks)

    def step(self, position: int, parts: Sequence[Pairs]) -> dict[str, Tensor]:
        """One step of generator and discriminator; returns the means of all terms."""
        terms, swaps = self.generator_gradients(position, parts)
        terms["grad/g"] = gradient_norm(self.aei)
        self.update_generator(position)
        terms |= self.discriminator_gradients(parts, swaps)
        terms["grad/d"] = gradient_norm(self.discriminator)
        self.update_discriminator()
        return terms

    def generator_gradients(
        self, position: int, parts: Sequence[Pairs]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Gradients of Eq. (9) over all parts, its terms, and the swaps of each part."""
        self.discriminator.requires_grad_(False)
        weights = self.config.weights_at(position)
        judge = self.encoders[position % len(self.encoders)]
        rng = np.random.default_rng((self.config.seed, position, 2))
        sums: dict[str, Tensor] = {}
        swaps = []
        for idx, pairs in enumerate(parts):
            view = RandomView.draw(rng, len(pairs.X_t)) if self.config.glance else None
            with without_exchange(self.generator_loss, idx + 1 < len(parts)):
                with autocast(self.device, self.runtime):
                    loss, terms, Y = self.generator_loss(
                        self.discriminator, self.encoders[0], judge, pairs, weights, view
                    )
                (loss / len(parts)).backward()
            swaps.append(Y.detach())
            add_means(sums, terms, len(parts))
        self.discriminator.requires_grad_(True)
        return sums, swaps

    def update_generator(self, position: int) -> None:
        """Adam's step, and the average of the weights."""
        self.adam_g.step()
        self.adam_g.zero_grad()
        update_ema(self.ema, self.aei, self.config.ema, position)

    def discriminator_gradients(
        self, parts: Sequence[Pairs], swaps: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Gradients of the discriminator's loss over all parts, and its terms."""
        sums: dict[str, Tensor] = {}
        for idx, (pairs, Y) in enumerate(zip(parts, swaps, strict=True)):
            with without_exchange(self.discriminator_loss, idx + 1 < len(parts)):
                with autocast(self.device, self.runtime):
                    loss, terms = self.discriminator_loss(pairs.X_t, Y)
                (loss / len(parts)).backward()
            add_means(sums, terms, len(parts))
        return sums

    def update_discriminator(self) -> None:
        """Adam's step."""
        self.adam_d.step()
        self.adam_d.zero_grad()


def train(
    config: AEITrainConfig,
    data: Path,
    run: Path,
    *,
    occluder_paths: Sequence[Path] = (),
    init: Path | None = None,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train AEI-Net on a prepared set; the same call resumes.

    Args:
        config: The recipe.
        data: A folder that ``prepare`` wrote.
        run: Folder of the run; ``weights.safetensors`` in it is always the newest export.
        occluder_paths: Folders or tars of RGBA cut-outs, for recipes that occlude targets; without
            any, all are drawn.
        init: A checkpoint of another run, or exported weights, to start the networks from.
        runtime: Where and how to compute.
        intervals: How often to report, to watch and to write checkpoints.

    Raises:
        TrainingError: The run is of another recipe, a loss became not finite, the network became
            worse and worse, or another process is lost.
    """
    runtime, intervals = runtime or Runtime(), intervals or Intervals()
    with join_ranks(runtime.device) as ranks:
        part_size(config.batch, config.accumulate, ranks)
        if occluder_paths and not config.occluded:
            raise TrainingError(
                "the recipe occludes no targets; give --occluded a share, or leave out --occluders"
            )
        encoders = load_encoders(config, data, ranks)
        training = AEITraining(config, encoders, ranks, runtime, init)
        open_run(run, what_makes(config, data, occluder_paths), ranks)
        size = config.model.image_size
        # Pictures are occluded on the CPU.
        place = torch.device("cpu") if config.occluded else ranks.device
        faces = load_set(data, size, place, runtime, ranks.world)
        population, held_out = Population.split([c.identity for c in faces.crops], config.seed)
        here = faces if config.occluded or isinstance(faces, StoredFaces) else None
        occluders = Occluders.load(occluder_paths) if config.occluded else None
        targets = find_sharpest([faces.crops[idx] for idx in population.faces], config.sharpest)
        fetch = Fetch(config, population, targets, here, occluders, ranks.rank, ranks.world)
        seen = choose_watched(faces, held_out, ranks.device)
        teachers = name_teachers(config.teachers)

        def snapshot(position: int) -> None:
            info = {
                "kind": "aei",
                "version": __version__,
                "config": asdict(config.model),
                "identity": {"name": encoders[0].name, "fingerprint": fingerprint(encoders[0])},
                "teachers": teachers,
                "step": position,
            }
            export_weights(run / "weights.safetensors", training.ema, info)
            save_samples(run / "samples" / f"step-{position:08d}.png", training.ema, encoders, seen)

        run_steps(
            run,
            ranks,
            state=training.networks | {"adam_g": training.adam_g, "adam_d": training.adam_d},
            steps=config.steps,
            batch=config.batch,
            batches=lambda start: batches(fetch, faces, start, ranks.device, runtime),
            step=training.step,
            watch=lambda _: measure_swaps(training.ema, encoders, seen),
            snapshot=snapshot,
            intervals=intervals,
            tensorboard=runtime.tensorboard,
        )


def what_makes(
    config: AEITrainConfig, data: Path, occluder_paths: Sequence[Path] = ()
) -> dict[str, object]:
    """What a run's config.json holds, and may not differ where it is resumed."""
    names = sorted(path.name for path in occluder_paths)
    return {"aei": asdict(config), "data": data.name, "occluders": names}


def load_encoders(config: AEITrainConfig, data: Path, ranks: Ranks) -> list[IdentityEncoder]:
    """The encoder of z_id and those that take turns with it.

    Raises:
        TrainingError: They or the prepared set do not fit the recipe.
    """
    geometry = read_geometry(data)
    if geometry != config.model.geometry:
        raise TrainingError(
            f"{data} was cropped with another geometry than the recipe's; prepare it again, or "
            "give its values as --model.geometry"
        )
    encoders = [
        load_identity_encoder(spec, geometry).to(ranks.device)
        for spec in (config.identity, *config.teachers)
    ]
    if encoders[0].c_id != config.model.c_id:
        raise TrainingError(
            f"{config.identity} makes z_id of {encoders[0].c_id} numbers, but the recipe's c_id is "
            f"{config.model.c_id}; give --model.c-id {encoders[0].c_id}"
        )
    return encoders


def choose_watched(
    faces: Faces | StoredFaces, held_out: Sequence[int] | np.ndarray, device: torch.device
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]]:
    """Fixed pairs of faces that training never sees; of a small set, pairs that it does."""
    pool = held_out if len(held_out) > 1 else np.arange(len(faces.crops))
    rng = np.random.default_rng(0)
    X_s, X_t = (
        to_range(faces.pictures(torch.from_numpy(rng.choice(pool, NUM_WATCHED))).to(device))
        for _ in range(2)
    )
    return X_s, X_t


@torch.no_grad()
def save_samples(
    path: Path,
    aei: nn.Module,
    encoders: Sequence[IdentityEncoder],
    seen: tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]],
) -> None:
    """Draw the first watched pairs: source, target, Y_hat_st, Y_hat_tt."""
    X_s, X_t = (X[:NUM_SAMPLES] for X in seen)
    Y = aei(X_t, torch.stack([encoders[0](X_s), encoders[0](X_t)], dim=1))
    save_grid(path, [X_s, X_t, Y[:, 0], Y[:, 1]])


@torch.no_grad()
def measure_swaps(
    aei: AEINet,
    encoders: Sequence[IdentityEncoder],
    seen: tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]],
) -> dict[str, float]:
    """What the watchdog sees: cosines, errors, and the mean of M at each level, in evaluation.

    ``watch/rec`` is the mean of abs(Y_hat_tt - X_t), ``watch/change`` that of
    abs(Y_hat_st - X_t), in [0, 2].
    """
    X_s, X_t = seen
    z_id = [(encoder(X_s), encoder(X_t)) for encoder in encoders]
    with recorded_masks(aei) as levels:
        Y = aei(X_t, torch.stack(z_id[0], dim=1))
    figures = {
        "watch/rec": F.l1_loss(Y[:, 1], X_t).item(),
        "watch/change": F.l1_loss(Y[:, 0], X_t).item(),
        **{
            f"watch/mask/{k}": torch.stack([M.mean() for M in masks.values()]).mean().item()
            for k, masks in enumerate(levels, 1)
            if masks
        },
    }
    for encoder, (z_id_s, z_id_t) in zip(encoders, z_id, strict=True):
        z_id_Y = encoder(Y[:, 0])
        figures[f"watch/cos_source/{encoder.name}"] = (z_id_Y * z_id_s).sum(1).mean().item()
        figures[f"watch/cos_target/{encoder.name}"] = (z_id_Y * z_id_t).sum(1).mean().item()
    return figures

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
from faceshifter.checkpoint import export_weights, fingerprint, load_checkpoint
from faceshifter.config import AEITrainConfig, AEIWeights, Intervals
from faceshifter.data.pairs import Pairs, draw_pairs, load_pairs
from faceshifter.data.shards import Faces, load_faces, read_geometry
from faceshifter.device import choose_device
from faceshifter.errors import TrainingError
from faceshifter.images import save_grid, to_range
from faceshifter.losses import (
    Scalar,
    aei_loss,
    attributes_loss,
    hinge_loss_d,
    hinge_loss_g,
    identity_loss,
    reconstruction_loss,
)
from faceshifter.models.aei import AEINet
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.identity import IdentityEncoder, load_identity_encoder
from faceshifter.train.loop import (
    autocast,
    make_adam,
    make_ema,
    open_run,
    run_steps,
    to_device,
    update_ema,
)

NUM_SAMPLES = 16


def generator_loss(
    aei: AEINet,
    discriminator: MultiScaleDiscriminator,
    encoder: IdentityEncoder,
    judge: IdentityEncoder,
    pairs: Pairs,
    weights: AEIWeights,
) -> tuple[Scalar, dict[str, Tensor], Float[Tensor, "b 3 s s"]]:
    """Eq. (9), its terms and the swaps.

    Args:
        aei: In training.
        discriminator: Held.
        encoder: Makes z_id.
        judge: The encoder in the identity loss; in the paper the same.
        pairs: A batch.
        weights: Of the terms.
    """
    with torch.no_grad():
        z_id_s = encoder(pairs.X_s)
        judged_s = z_id_s if judge is encoder else judge(pairs.X_s)
    z_att = aei.attributes_encoder(pairs.X_t)
    Y = aei.generator(z_att, z_id_s[:, None])[:, 0]
    loss_id = identity_loss(judge(Y.float()), judged_s)
    # z_att(X_t) is held: else both sides would move. docs/decisions.md#attributes-loss
    loss_att = attributes_loss(aei.attributes_encoder(Y), [z_att_k.detach() for z_att_k in z_att])
    loss_rec = reconstruction_loss(Y.float(), pairs.X_t, pairs.same)
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


def train(
    config: AEITrainConfig,
    data: Path,
    run: Path,
    *,
    device_name: str = "auto",
    init: Path | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train AEI-Net on a prepared set; the same call resumes.

    Args:
        config: The recipe.
        data: A folder that ``prepare`` wrote.
        run: Folder of the run; ``weights.safetensors`` in it is always the newest export.
        device_name: auto, cpu or cuda.
        init: A checkpoint of another run to start the networks from.
        intervals: How often to report and to write checkpoints.

    Raises:
        TrainingError: The run is of another recipe, or a loss became not finite.
    """
    device = choose_device(device_name)
    geometry = read_geometry(data)
    if geometry != config.model.geometry:
        raise TrainingError(
            f"{data} was cropped with another geometry than the recipe's; prepare it again, or "
            "give its values as --model.geometry"
        )
    encoders = [
        load_identity_encoder(spec, geometry).to(device)
        for spec in (config.identity, *config.teachers)
    ]
    if encoders[0].c_id != config.model.c_id:
        raise TrainingError(
            f"{config.identity} makes z_id of {encoders[0].c_id} numbers, but the recipe's c_id is "
            f"{config.model.c_id}; give --model.c-id {encoders[0].c_id}"
        )
    torch.manual_seed(config.seed)
    aei = to_device(AEINet(config.model), device)
    discriminator = to_device(MultiScaleDiscriminator(config.discriminator), device)
    ema = make_ema(aei)
    networks: dict[str, nn.Module] = {"aei": aei, "ema": ema, "discriminator": discriminator}
    if init is not None:
        load_checkpoint(init, networks)
    open_run(run, {"aei": asdict(config), "data": data.name})
    faces = load_faces(data, config.model.image_size)
    adam_g = make_adam(aei.parameters(), config.adam_g)
    adam_d = make_adam(discriminator.parameters(), config.adam_d)
    images = faces.images.to(device)

    def step(position: int) -> dict[str, Tensor]:
        draws = draw_pairs(
            len(images),
            seed=config.seed,
            position=position * config.batch,
            batch=config.batch,
            different=config.different,
        )
        pairs = load_pairs(images, draws)
        discriminator.requires_grad_(False)
        with autocast(device):
            loss, terms, Y = generator_loss(
                aei,
                discriminator,
                encoders[0],
                encoders[position % len(encoders)],
                pairs,
                config.weights_at(position),
            )
        loss.backward()
        adam_g.step()
        adam_g.zero_grad()
        update_ema(ema, aei, config.ema, position)
        discriminator.requires_grad_(True)
        with autocast(device):
            loss_d, terms_d = discriminator_loss(discriminator, pairs.X_t, Y)
        loss_d.backward()
        adam_d.step()
        adam_d.zero_grad()
        return terms | terms_d

    def snapshot(position: int) -> dict[str, float]:
        info = {
            "kind": "aei",
            "version": __version__,
            "config": asdict(config.model),
            "identity": {"name": encoders[0].name, "fingerprint": fingerprint(encoders[0])},
            "step": position,
        }
        export_weights(run / "weights.safetensors", ema, info)
        return sample_swaps(ema, encoders, faces, run / "samples" / f"step-{position:08d}.png")

    run_steps(
        run,
        state=networks | {"adam_g": adam_g, "adam_d": adam_d},
        steps=config.steps,
        batch=config.batch,
        step=step,
        snapshot=snapshot,
        intervals=intervals or Intervals(),
    )


@torch.no_grad()
def sample_swaps(
    aei: nn.Module, encoders: Sequence[IdentityEncoder], faces: Faces, path: Path
) -> dict[str, float]:
    """Draw fixed pairs (source, target, Y_hat_st, Y_hat_tt) and measure their cosines."""
    device = next(aei.parameters()).device
    chosen = np.random.default_rng(0).choice(len(faces.images), (2, NUM_SAMPLES))
    X_s, X_t = (to_range(faces.images[idx].to(device)) for idx in chosen)
    z_id = [(encoder(X_s), encoder(X_t)) for encoder in encoders]
    Y = aei(X_t, torch.stack(z_id[0], dim=1))
    save_grid(path, [X_s, X_t, Y[:, 0], Y[:, 1]])
    figures = {"samples/rec": F.l1_loss(Y[:, 1], X_t).item()}
    for encoder, (z_id_s, z_id_t) in zip(encoders, z_id, strict=True):
        z_id_Y = encoder(Y[:, 0])
        figures[f"samples/cos_source/{encoder.name}"] = (z_id_Y * z_id_s).sum(1).mean().item()
        figures[f"samples/cos_target/{encoder.name}"] = (z_id_Y * z_id_t).sum(1).mean().item()
    return figures

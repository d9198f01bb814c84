"""Training of HEAR-Net on the hardest faces and on synthetic occlusions, Eq. (10)-(15)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter import __version__
from faceshifter.checkpoint import export_weights, fingerprint, load_tensors, save_tensors
from faceshifter.config import HEARTrainConfig, Intervals
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.data.pairs import Pairs, draw_pairs
from faceshifter.data.ranking import RankedFace, load_errors, rank_errors, select_hardest
from faceshifter.data.shards import Faces, load_faces, read_geometry
from faceshifter.device import choose_device
from faceshifter.errors import TrainingError
from faceshifter.images import save_grid, to_tensor
from faceshifter.losses import Scalar, change_loss, hear_loss, identity_loss, reconstruction_loss
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.models.identity import IdentityEncoder
from faceshifter.pretrained import load_aei, load_encoder_of
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
    encoder: IdentityEncoder,
    pairs: Pairs,
    Y_hat_st: Float[Tensor, "b 3 s s"],
    delta_Y_t: Float[Tensor, "b 3 s s"],
    z_id_s: Float[Tensor, "b d"],
    config: HEARTrainConfig,
) -> tuple[Scalar, dict[str, Tensor]]:
    """Eq. (15) and its terms."""
    Y_st = hear(Y_hat_st, delta_Y_t).float()
    terms = {
        "loss/rec": reconstruction_loss(Y_st, pairs.X_t, pairs.same),
        "loss/id": identity_loss(encoder(Y_st), z_id_s),
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


def occluded_pairs(
    faces: Faces,
    hardest: Int[np.ndarray, " k"],
    occluders: Occluders,
    *,
    seed: int,
    position: int,
    batch: int,
    different: float,
) -> Pairs:
    """Pairs whose targets are among the hardest faces and occluded.

    Only X_t is occluded where X_t != X_s; where they are the same both are the occluded picture.
    """
    draws = draw_pairs(
        len(faces.images), seed=seed, position=position, batch=batch, different=different
    )
    X_s, X_t = [], []
    for idx, draw in enumerate(draws):
        rng = np.random.default_rng((seed, position + idx, 1))
        target_idx = int(hardest[draw.target % len(hardest)])
        # The target's place among the hardest may be the source's; draw.target then is another.
        source_idx = draw.source if draw.source != target_idx else draw.target
        target = occlude(_picture(faces, target_idx, draw.flip_t), rng, occluders)
        X_t.append(target)
        X_s.append(target if draw.same else _picture(faces, source_idx, draw.flip_s))
    same = torch.tensor([draw.same for draw in draws])
    return Pairs(X_s=to_tensor(np.stack(X_s)), X_t=to_tensor(np.stack(X_t)), same=same)


def _picture(faces: Faces, idx: int, flip: bool) -> np.ndarray:
    picture = faces.images[idx].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(picture[:, ::-1] if flip else picture)


def train(
    config: HEARTrainConfig,
    data: Path,
    run: Path,
    aei_weights: Path,
    *,
    occluder_paths: Sequence[Path] = (),
    errors: Path | None = None,
    identity: Path | None = None,
    device_name: str = "auto",
    intervals: Intervals | None = None,
) -> None:
    """Train HEAR-Net on a prepared set over a trained first stage; the same call resumes.

    Args:
        config: The recipe.
        data: A folder that ``prepare`` wrote.
        run: Folder of the run; ``weights.safetensors`` in it is always the newest export.
        aei_weights: The first stage.
        occluder_paths: Folders or tars of RGBA cut-outs; without any, all are drawn.
        errors: A folder that ``rank-errors`` wrote of this set and first stage; without it, they
            are ranked here.
        identity: The first stage's encoder, where it is a file.
        device_name: auto, cpu or cuda.
        intervals: How often to report and to write checkpoints.
    """
    device = choose_device(device_name)
    aei, info = load_aei(aei_weights)
    aei = to_device(aei, device)
    if read_geometry(data) != aei.config.geometry:
        raise TrainingError(
            f"{data} was cropped with another geometry than {aei_weights}'s; prepare it again"
        )
    encoder = load_encoder_of(info, aei_weights, identity).to(device)
    occluders = Occluders.load(occluder_paths)
    settings = {"hear": asdict(config), "data": data.name, "aei": fingerprint(aei)}
    open_run(run, settings | {"occluders": sorted(path.name for path in occluder_paths)})
    faces = load_faces(data, aei.config.image_size)
    if errors is not None:
        ranked = load_errors(errors, data, aei)
    else:
        ranked = rank_errors(
            data, aei, encoder, run / "errors", ranked=config.ranked, seed=config.seed
        )
    hardest = _targets(run, faces, select_hardest(ranked, config.hardest))
    torch.manual_seed(config.seed)
    hear = to_device(HEARNet(config.model), device)
    ema = make_ema(hear)
    adam = make_adam(hear.parameters(), config.adam)

    def pairs_at(position: int, batch: int, seed: int) -> Pairs:
        pairs = occluded_pairs(
            faces,
            hardest,
            occluders,
            seed=seed,
            position=position,
            batch=batch,
            different=config.different,
        )
        return Pairs(*(tensor.to(device) for tensor in (pairs.X_s, pairs.X_t, pairs.same)))

    def step(position: int) -> dict[str, Tensor]:
        pairs = pairs_at(position * config.batch, config.batch, config.seed)
        with autocast(device):
            Y_hat_st, delta_Y_t, z_id_s = first_stage(aei, encoder, pairs)
            loss, terms = refinement_loss(hear, encoder, pairs, Y_hat_st, delta_Y_t, z_id_s, config)
        loss.backward()
        adam.step()
        adam.zero_grad()
        update_ema(ema, hear, config.ema, position)
        return terms

    @torch.no_grad()
    def snapshot(position: int) -> dict[str, float]:
        export = {
            "kind": "hear",
            "version": __version__,
            "config": asdict(config.model),
            "aei": fingerprint(aei),
            "step": position,
        }
        export_weights(run / "weights.safetensors", ema, export)
        pairs = pairs_at(0, NUM_SAMPLES, config.seed + 1)
        Y_hat_st, delta_Y_t, z_id_s = first_stage(aei, encoder, pairs)
        Y_st = ema(Y_hat_st, delta_Y_t)
        path = run / "samples" / f"step-{position:08d}.png"
        save_grid(path, [pairs.X_s, pairs.X_t, Y_hat_st, delta_Y_t / 2, Y_st])
        return {
            "samples/cos_source": F.cosine_similarity(encoder(Y_st), z_id_s).mean().item(),
            "samples/cos_source_one_stage": F.cosine_similarity(encoder(Y_hat_st), z_id_s)
            .mean()
            .item(),
        }

    run_steps(
        run,
        state={"hear": hear, "ema": ema, "adam": adam},
        steps=config.steps,
        batch=config.batch,
        step=step,
        snapshot=snapshot,
        intervals=intervals or Intervals(),
    )


def _targets(run: Path, faces: Faces, hardest: Sequence[RankedFace]) -> Int[np.ndarray, " k"]:
    """Indices of the hardest faces, which the run keeps: a resume has to have the same."""
    idx_of = {(crop.shard, crop.file): idx for idx, crop in enumerate(faces.crops)}
    idxs = [idx_of[face.shard, face.file] for face in hardest]
    path = run / "hardest.safetensors"
    targets = torch.tensor(idxs)
    if not path.exists():
        save_tensors(path, {"targets": targets}, {"kind": "hardest"})
    if not torch.equal(load_tensors(path)[0]["targets"], targets):
        raise TrainingError(
            f"{run} is a run with other hardest faces; give the same --errors to resume it, or "
            "another --run"
        )
    return targets.numpy()

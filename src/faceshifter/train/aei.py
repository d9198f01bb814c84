"""Training of AEI-Net, Eq. (6)-(9)."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import AEITrainConfig, AEIWeights, CropGeometry, Intervals, Runtime
from faceshifter.data.augment import RandomView
from faceshifter.data.batches import Fetch, batches, find_sharpest, load_set
from faceshifter.data.occlusion import Occluders
from faceshifter.data.pairs import Pairs, Population
from faceshifter.data.shards import Faces, StoredFaces
from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import TrainingError
from faceshifter.face.align import fit_similarity
from faceshifter.face.landmarks import PATCH_LANDMARKS, refine_landmarks
from faceshifter.models import losses
from faceshifter.models.aei import AEINet, extrapolate, recorded_masks
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.networks import to_images, to_range
from faceshifter.tensors import fingerprint
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

NUM_SAMPLES, NUM_WATCHED, NUM_SHIFTED, NUM_PULLED = 16, 32, 8, 4
"""Pairs drawn at each checkpoint, measured for the watchdog, whose landmarks are, whose gradients
are."""
NUM_CENTRED = 512
"""Faces that an encoder's mean is taken of."""
EYE, MOUTH = (0.09, 0.055), (0.14, 0.07)
"""Standard deviations of the pixels that count more with ``focus``, as shares of the crop's side:
to the side, and up and down."""


class GeneratorLoss(nn.Module):
    """Eq. (9), a module over AEI-Net, since PyTorch distributes modules."""

    pixel_weights: Float[Tensor, "s s"]

    def __init__(self, aei: AEINet, focus: float = 0.0) -> None:
        super().__init__()
        self.aei = aei
        weights = 1 + focus * eyes_and_mouth(aei.config.geometry, aei.config.image_size)
        self.register_buffer("pixel_weights", weights, persistent=False)

    def forward(
        self,
        discriminator: MultiScaleDiscriminator,
        teacher: AEINet,
        encoder: IdentityEncoder,
        judge: IdentityEncoder,
        pairs: Pairs,
        config: AEITrainConfig,
        weights: AEIWeights,
        view: RandomView | None = None,
    ) -> tuple[losses.Scalar, dict[str, Tensor], Float[Tensor, "b 3 s s"]]:
        """Return Eq. (9) with our further terms, all terms, and the swaps Y_hat_st, detached.

        ``teacher`` disguises the targets of triplets. ``encoder`` makes z_id; ``judge`` is that of
        the identity loss, in the paper the same, which sees the swaps in a ``view``, without one
        unchanged. Teacher and discriminator are frozen.
        """
        different = ~pairs.same
        with torch.no_grad():
            z_id_s = encoder(pairs.X_s)
            z_judge_s = z_id_s if judge is encoder else judge(pairs.X_s)
            z_judge_t = embed_some(judge, pairs.X_t[different]) if weights.target else None
            X_t = disguise_targets(teacher, encoder, pairs, z_id_s)
        z_att = self.aei.attributes_encoder(X_t)
        Y = self.aei.generator(z_att, z_id_s[:, None])[:, 0]
        viewed = Y.float() if view is None else view.apply(Y.float())
        z_judge_Y = judge(viewed)
        loss_id = losses.identity_loss(z_judge_Y, z_judge_s)
        # z_att(X_t) is held: else both sides would move. docs/decisions.md#attributes-loss
        z_att_t = [z_att_k.detach() for z_att_k in z_att]
        z_att_Y = self.aei.attributes_encoder(Y)
        which = different if config.att_pairs == "different" else None
        loss_att = losses.attributes_loss(z_att_Y, z_att_t, which)
        known = (Y.float(), pairs.X_t, pairs.same, pairs.num_same, self.pixel_weights)
        loss_rec = losses.reconstruction_loss(*known)
        loss_adv = losses.hinge_loss_g(discriminator(Y))
        loss = losses.aei_loss(
            loss_adv,
            loss_att,
            loss_id,
            loss_rec,
            lambda_adv=weights.adv,
            lambda_att=weights.att,
            lambda_id=weights.id,
            lambda_rec=weights.rec,
        )
        terms = {"loss/adv": loss_adv, "loss/att": loss_att, "loss/rec": loss_rec}
        terms["loss/id"] = loss_id
        if weights.abs:
            terms["loss/abs"] = losses.absolute_loss(*known)
            loss = loss + weights.abs * terms["loss/abs"]
        if z_judge_t is not None:
            of_two = (z_judge_Y[different], z_judge_t, z_judge_s[different])
            terms["loss/target"] = losses.target_loss(*of_two)
            loss = loss + weights.target * terms["loss/target"]
        return loss, terms, Y.detach()


def eyes_and_mouth(geometry: CropGeometry, size: int) -> Float[Tensor, "s s"]:
    """Return how near each pixel of an aligned crop is to an eye or the mouth, from 0 to 1."""
    mouth = np.mean([geometry.left_mouth, geometry.right_mouth], axis=0)
    rows, columns = np.indices((size, size)) + 0.5
    near = np.zeros((size, size), np.float32)
    for (x, y), (width, height) in (
        (geometry.left_eye, EYE),
        (geometry.right_eye, EYE),
        (mouth, MOUTH),
    ):
        squares = ((columns / size - x) / width) ** 2 + ((rows / size - y) / height) ** 2
        near = np.maximum(near, np.exp(-0.5 * squares))
    return torch.from_numpy(near).float()


def embed_some(encoder: IdentityEncoder, X: Float[Tensor, "k 3 s s"]) -> Float[Tensor, "k c_id"]:
    """Return z_id of any number of faces, none included."""
    return encoder(X) if len(X) else torch.zeros(0, encoder.c_id, device=X.device)


@torch.no_grad()
def disguise_targets(
    teacher: AEINet, encoder: IdentityEncoder, pairs: Pairs, z_id_s: Float[Tensor, "b c_id"]
) -> Float[Tensor, "b 3 s s"]:
    """Return X_t as the network sees it: those of triplets with a stranger's identity.

    The stranger is the source of the pair before. Occluders are not swapped: they are seen as they
    are in the photo.
    """
    rows = pairs.disguise.nonzero()[:, 0]
    if len(rows) == 0:
        return pairs.X_t
    photos = pairs.X_t[rows]
    bare = photos if pairs.X_bare is None else pairs.X_bare[rows]
    z_id = extrapolate(encoder(bare), z_id_s.roll(1, 0)[rows], pairs.disguise[rows, None])
    swaps = teacher(bare, z_id[:, None])[:, 0].float()
    occluded = (photos != bare).any(dim=1, keepdim=True)
    return pairs.X_t.index_copy(0, rows, torch.where(occluded, photos, swaps))


class DiscriminatorLoss(nn.Module):
    """The discriminator's hinge loss of targets against swaps, a module over it."""

    def __init__(self, discriminator: MultiScaleDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(
        self, X_t: Float[Tensor, "b 3 s s"], Y: Float[Tensor, "b 3 s s"]
    ) -> tuple[losses.Scalar, dict[str, Tensor]]:
        """Return the loss, and beside it the mean scores of both."""
        scores_real, scores_fake = self.discriminator(X_t), self.discriminator(Y.detach())
        loss = losses.hinge_loss_d(scores_real, scores_fake)
        terms = {
            "loss/d": loss,
            "score/real": torch.stack([s.float().mean() for s in scores_real]).mean(),
            "score/fake": torch.stack([s.float().mean() for s in scores_fake]).mean(),
        }
        return loss, terms


class AEITraining:
    """The networks of stage one, their optimisers and their step.

    The encoder makes z_id; the judges take turns in the identity loss.
    """

    def __init__(
        self,
        config: AEITrainConfig,
        encoder: IdentityEncoder,
        judges: Sequence[IdentityEncoder],
        run: Run,
    ) -> None:
        self.config, self.encoder, self.judges, self.run = config, encoder, judges, run
        torch.manual_seed(config.seed)
        self.aei = to_device(AEINet(config.model), run.device, run.runtime)
        discriminator = MultiScaleDiscriminator(config.discriminator)
        self.discriminator = to_device(discriminator, run.device, run.runtime)
        self.ema = make_ema(self.aei)
        networks = {"aei": self.aei, "ema": self.ema, "discriminator": self.discriminator}
        start_from(run.init, "aei", networks)
        synchronise_batch_norm(self.aei, run.ranks)
        self.adam_g = make_adam(self.aei.parameters(), config.adam_g)
        self.adam_d = make_adam(self.discriminator.parameters(), config.adam_d)
        self.state: dict[str, Stateful] = {**networks, "adam_g": self.adam_g, "adam_d": self.adam_d}
        parts = (self.aei.attributes_encoder, self.aei.generator, self.discriminator)
        compile_where_wanted(run.device, run.runtime, *parts)
        self.generator_loss = distribute(
            GeneratorLoss(self.aei, config.focus).to(run.device), run.ranks
        )
        self.discriminator_loss = distribute(DiscriminatorLoss(self.discriminator), run.ranks)

    def step(self, position: int, parts: Sequence[Pairs]) -> dict[str, Tensor]:
        """Train generator and discriminator once; return the means of all terms."""
        config, weights = self.config, self.config.weights_at(position)
        frozen = (self.discriminator, self.ema, self.encoder)
        judge = self.judges[position % len(self.judges)]
        rng = np.random.default_rng((config.seed, position, 2))
        inputs = []
        for pairs in parts:
            view = RandomView.draw(rng, len(pairs.X_t)) if config.glance else None
            inputs.append((*frozen, judge, pairs, config, weights, view))
        self.discriminator.requires_grad_(False)
        terms, swaps = add_gradients(self.generator_loss, inputs, self.run)
        self.discriminator.requires_grad_(True)
        terms["grad/g"] = update(self.adam_g, self.aei)
        update_ema(self.ema, self.aei, self.config.ema, position)
        pictures = [(pairs.X_t, Y) for pairs, Y in zip(parts, swaps, strict=True)]
        terms |= add_gradients(self.discriminator_loss, pictures, self.run)[0]
        return terms | {"grad/d": update(self.adam_d, self.discriminator)}


def train(
    config: AEITrainConfig,
    data: Path,
    folder: Path,
    *,
    occluder_paths: Sequence[Path] = (),
    init: Path | None = None,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train AEI-Net on a set that ``prepare`` wrote; the same call resumes.

    ``occluder_paths`` are folders or tars of RGBA cut-outs, for recipes that occlude targets;
    without any, all occluders are drawn. ``start_run`` explains the folder and the last three.

    Raises:
        OutputError: The folder is another run's, or cannot be written.
        TrainingError: Encoder or set do not fit the recipe, a loss is not finite, the network has
            become worse and worse, or another process is lost.
    """
    with start_run(folder, config.batch, config.accumulate, init, runtime, intervals) as run:
        if occluder_paths and not config.occluded:
            raise TrainingError(
                "the recipe occludes no targets; give --occluded a share, or leave out --occluders"
            )
        specs, remedy = (config.identity, *config.teachers), "give its values as --model.geometry"
        encoders = run.load_encoders(
            specs, data, config.model.geometry, f"the recipe's; prepare it again, or {remedy}"
        )
        if (c_id := encoders[0].c_id) != config.model.c_id:
            raise TrainingError(
                f"{config.identity} makes z_id of {c_id} numbers, but the recipe's c_id is "
                f"{config.model.c_id}; give --model.c-id {c_id}"
            )
        run.claim(what_makes(config, data, occluder_paths))
        # Pictures are occluded on the CPU.
        stored_on = torch.device("cpu") if config.occluded else run.device
        faces = load_set(data, config.model.image_size, stored_on, run.runtime, run.ranks.world)
        judges = [centre(encoder, faces) for encoder in encoders] if config.centred else encoders
        training = AEITraining(config, encoders[0], judges, run)
        population, held_out = Population.split([c.identity for c in faces.crops], config.seed)
        fetch = Fetch(
            config,
            population,
            find_sharpest([faces.crops[idx] for idx in population.faces], config.sharpest),
            faces if config.occluded or isinstance(faces, StoredFaces) else None,
            Occluders.load(occluder_paths) if config.occluded else None,
            run.ranks.rank,
            run.ranks.world,
        )
        watched = choose_watched(faces, held_out, run.device)
        info = {
            "config": asdict(config.model),
            "identity": {"name": encoders[0].name, "fingerprint": fingerprint(encoders[0])},
            "teachers": name_teachers(config.teachers),
        }
        run_steps(
            training,
            lambda start: batches(fetch, faces, start, run.device, run.runtime),
            watch=lambda: measure(training, watched),
            snapshot=lambda position: run.export(
                "aei", training.ema, position, info, draw_samples(training, watched)
            ),
        )


@torch.no_grad()
def centre(encoder: IdentityEncoder, faces: Faces | StoredFaces) -> IdentityEncoder:
    """Return an encoder that also subtracts the mean of what it makes of a set's faces."""
    chosen = np.random.default_rng(0).permutation(len(faces.crops))[:NUM_CENTRED]
    parts = torch.from_numpy(np.sort(chosen)).split(64)
    device = encoder.grid.device
    raw = [encoder.describe(to_range(faces.pictures(part).to(device))) for part in parts]
    return encoder.with_mean(torch.cat(raw).mean(0))


def what_makes(
    config: AEITrainConfig, data: Path, occluder_paths: Sequence[Path] = ()
) -> dict[str, object]:
    """Return what a run's config.json holds, which may not differ where it is resumed."""
    names = sorted(path.name for path in occluder_paths)
    return {"aei": asdict(config), "data": data.name, "occluders": names}


def choose_watched(
    faces: Faces | StoredFaces, held_out: Sequence[int] | np.ndarray, device: torch.device
) -> tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]]:
    """Choose X_s and X_t that training never sees; of a small set, some that it does."""
    pool = held_out if len(held_out) > 1 else np.arange(len(faces.crops))
    rng = np.random.default_rng(0)
    X_s, X_t = (
        to_range(faces.pictures(torch.from_numpy(rng.choice(pool, NUM_WATCHED))).to(device))
        for _ in range(2)
    )
    return X_s, X_t


@torch.no_grad()
def draw_samples(
    training: AEITraining, watched: tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]]
) -> list[Float[Tensor, "k 3 s s"]]:
    """Return the first sources and targets, and their Y_hat_st and Y_hat_tt."""
    X_s, X_t = (X[:NUM_SAMPLES] for X in watched)
    z_id_s, z_id_t = (training.encoder(X) for X in (X_s, X_t))
    Y_hat = training.ema(X_t, torch.stack([z_id_s, z_id_t], dim=1))
    return [X_s, X_t, Y_hat[:, 0], Y_hat[:, 1]]


def measure(
    training: AEITraining, watched: tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]]
) -> dict[str, float]:
    """Measure the averaged network's swaps of watched pairs, and each loss's pull on z_id."""
    figures = measure_swaps(training.ema, training.encoder, training.judges, watched)
    return figures | measure_pull(training, watched)


@torch.no_grad()
def measure_swaps(
    aei: AEINet,
    encoder: IdentityEncoder,
    judges: Sequence[IdentityEncoder],
    watched: tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]],
) -> dict[str, float]:
    """Measure cosines, errors and the mean of M at each level, for the watchdog.

    ``watch/cos_source``, ``watch/cos_target`` and ``watch/cos_strangers`` are mean cosines of
    Y_hat_st to X_s, of Y_hat_st to X_t, and of X_s to X_t, by each judge.
    ``watch/rec`` is the mean of abs(Y_hat_tt - X_t), ``watch/change`` that of
    abs(Y_hat_st - X_t), in [0, 2]; ``watch/landmarks`` is how far Y_hat_st's landmarks are from
    X_t's, in percent of the distance of the eyes.
    """
    X_s, X_t = watched
    with recorded_masks(aei) as levels:
        Y_hat = aei(X_t, torch.stack([encoder(X_s), encoder(X_t)], dim=1))
    Y_hat_st, Y_hat_tt = Y_hat.unbind(dim=1)
    figures = {
        "watch/rec": F.l1_loss(Y_hat_tt, X_t).item(),
        "watch/change": F.l1_loss(Y_hat_st, X_t).item(),
        "watch/landmarks": measure_shift(Y_hat_st, X_t, aei.config.geometry),
    }
    for k, masks in enumerate(levels, 1):
        if masks:
            means = torch.stack([M.mean() for M in masks.values()])
            figures[f"watch/mask/{k}"] = means.mean().item()
    for judge in judges:
        z_id_Y, z_id_s, z_id_t = judge(Y_hat_st), judge(X_s), judge(X_t)
        cosines = {
            "source": z_id_Y * z_id_s,
            "target": z_id_Y * z_id_t,
            "strangers": z_id_s * z_id_t,
        }
        for name, products in cosines.items():
            figures[f"watch/cos_{name}/{judge.name}"] = products.sum(1).mean().item()
    return figures


def measure_shift(
    Y: Float[Tensor, "b 3 s s"], X_t: Float[Tensor, "b 3 s s"], geometry: CropGeometry
) -> float:
    """Return the median distance of dlib's landmarks, in percent of the distance of the eyes.

    It is found without a detector, as the faces are aligned, and stands for pose and expression.
    """
    size = Y.shape[-1]
    matrix = fit_similarity(np.array(geometry.points) * size - 0.5, PATCH_LANDMARKS)
    pixels = [to_images(X[:NUM_SHIFTED]) for X in (Y, X_t)]
    shifts = [
        np.linalg.norm(refine_landmarks(y, matrix) - refine_landmarks(x, matrix), axis=1).mean()
        for y, x in zip(*pixels, strict=True)
    ]
    return 100 * float(np.median(shifts)) / (geometry.eye_distance * size)


def measure_pull(
    training: AEITraining, watched: tuple[Float[Tensor, "b 3 s s"], Float[Tensor, "b 3 s s"]]
) -> dict[str, float]:
    """Return the length of each weighted loss's gradient at the layers that take z_id.

    The averaged network gives watched targets their sources' identity and, as the recipe has it,
    their own: those as triplets where it has any. The losses whose pulls are longest decide.
    """
    X_s, X_t = (X[:NUM_PULLED] for X in watched)
    num = len(X_t)
    same = torch.arange(2 * num, device=X_t.device) >= num
    disguise = same * (1.5 if training.config.triplets else 0.0)
    pairs = Pairs(torch.cat([X_s, X_t]), torch.cat([X_t, X_t]), same, disguise, num)
    weights = training.config.weights_at(sys.maxsize)
    layers = [
        parameter
        for name, parameter in training.ema.named_parameters()
        if "to_gamma_beta_id" in name
    ]
    frozen = (training.discriminator, training.ema, training.encoder, training.judges[-1])
    loss_of = GeneratorLoss(training.ema, training.config.focus).to(X_t.device)
    for parameter in layers:
        parameter.requires_grad_(True)
    terms = loss_of(*frozen, pairs, training.config, weights)[1]
    figures = {}
    for name, term in terms.items():
        weight = getattr(weights, name.removeprefix("loss/"))
        pull = torch.autograd.grad(term, layers, retain_graph=True)
        figures[name.replace("loss", "watch/pull")] = weight * nn.utils.get_total_norm(pull).item()
    for parameter in layers:
        parameter.requires_grad_(False)
    return figures

"""All configurations, and what files of weights say of themselves: frozen dataclasses.

An architecture's configuration is stored with its weights, so loading them needs nothing else. Each
class refuses values that no network can have, wherever they come from.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

Point = tuple[float, float]
Line = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,255}$")]
"""A text that can stand in a message."""

MOST_CHANNELS = 65_536
MOST_LEVELS = 12
"""Bounds of a network's configuration, far above any that can be trained."""

COMPRESSED_LEVELS = 3
"""Levels of z_att that Compressed has, Section 4.2."""


@dataclass(frozen=True, kw_only=True)
class CropGeometry:
    """Where the five landmarks lie in the aligned crop, as fractions of its width and height.

    Left and right are as seen in the picture. 0 and 1 are the crop's outer edges, so a landmark at
    fraction f of a crop of ``size`` pixels has the pixel coordinate ``f * size - 0.5``.
    """

    left_eye: Point = (77 / 256, 77 / 256)
    right_eye: Point = (179 / 256, 77 / 256)
    nose: Point = (128 / 256, 134 / 256)
    left_mouth: Point = (85 / 256, 176.5 / 256)
    right_mouth: Point = (171 / 256, 176.5 / 256)

    @property
    def points(self) -> tuple[Point, Point, Point, Point, Point]:
        """Left eye, right eye, nose tip, left and right mouth corner."""
        return (self.left_eye, self.right_eye, self.nose, self.left_mouth, self.right_mouth)

    @property
    def eye_distance(self) -> float:
        """Distance of the eyes as a fraction of the crop's width."""
        return self.right_eye[0] - self.left_eye[0]

    def __post_init__(self) -> None:
        """Refuse points outside of the crop, and those that cannot be a face's."""
        inside = all(0 <= value <= 1 for point in self.points for value in point)
        if not inside or self.eye_distance <= 0 or self.left_mouth[1] <= self.left_eye[1]:
            raise ValueError(
                "the geometry must have points from 0 to 1, the left eye left of the right one and "
                "above the mouth"
            )


@dataclass(frozen=True, kw_only=True)
class AEIConfig:
    """AEI-Net, Fig. 3 and Fig. 12; the defaults are the paper's."""

    image_size: int = 256
    """Side of the aligned crop in pixels; must be 2 ** num_levels."""
    encoder_channels: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 1024)
    """Channels of the attributes encoder after each of its num_levels - 1 downsamplings."""
    generator_channels: tuple[int, ...] = (1024, 1024, 1024, 1024, 512, 256, 128, 64)
    """Input channels of the AAD ResBlk of each level, from 2 x 2 up; the last one puts out RGB."""
    att_kernel: Literal[1, 3] = 3
    """Side of the convolutions that make gamma_att, beta_att and M."""
    c_id: int = 512
    """Size of z_id."""
    integration: Literal["aad", "add", "cat"] = "aad"
    """How an AAD layer joins A and I: by the mask of Eq. (5), or as Add or Cat of Fig. 7."""
    attributes: Literal["multi", "compressed"] = "multi"
    """Levels of z_att: all, or the first three alone, as Compressed of Fig. 7."""
    max_h_bar: float | None = None
    """Ours: where h_bar is cut off, in standard deviations. docs/decisions.md#aad-layer"""
    geometry: CropGeometry = field(default_factory=CropGeometry)
    """The crop this model was trained on."""

    def __post_init__(self) -> None:
        """Refuse inconsistent sizes, naming each."""
        problems = []
        if self.num_levels <= MOST_LEVELS and self.image_size != 2**self.num_levels:
            problems.append(
                f"image_size must be 2 ** num_levels = {2**self.num_levels} for "
                f"{self.num_levels} generator_channels, got {self.image_size}"
            )
        if len(self.encoder_channels) != self.num_levels - 1:
            problems.append(
                f"encoder_channels must have num_levels - 1 = {self.num_levels - 1} entries, "
                f"got {len(self.encoder_channels)}"
            )
        if not 2 <= self.num_levels <= MOST_LEVELS:
            problems.append(f"generator_channels must have 2 to {MOST_LEVELS} entries")
        sizes = (*self.encoder_channels, *self.generator_channels, self.c_id)
        if not all(1 <= size <= MOST_CHANNELS for size in sizes):
            problems.append(f"channels and c_id must be from 1 to {MOST_CHANNELS}")
        if self.max_h_bar is not None and self.max_h_bar <= 0:
            problems.append(f"max_h_bar must be above 0, got {self.max_h_bar}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def num_levels(self) -> int:
        """The paper's n: one attributes map and one AAD ResBlk for each."""
        return len(self.generator_channels)

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Channels of the attributes encoder after each of its upsamplings."""
        channels = self.encoder_channels[-2::-1]
        compressed = self.attributes == "compressed"
        return channels[: COMPRESSED_LEVELS - 1] if compressed else channels

    @property
    def z_att_channels(self) -> tuple[int, ...]:
        """Channels of each z_att, coarse to fine; levels above the last use that one."""
        # Each decoder map is concatenated with the encoder map of its size.
        channels = (self.encoder_channels[-1], *(2 * c for c in self.decoder_channels))
        return channels if self.attributes == "compressed" else (*channels, channels[-1])


@dataclass(frozen=True, kw_only=True)
class HEARConfig:
    """HEAR-Net, Fig. 4(b) and Fig. 12; the defaults are the paper's."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    """Channels after each downsampling; their number is the number of downsamplings."""
    residual: bool = False
    """Ours: predict the change to Y_hat_st, not Y_st itself, to keep the swap's fine detail."""

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        if not 1 <= len(self.channels) <= MOST_LEVELS:
            raise ValueError(f"channels must have 1 to {MOST_LEVELS} entries")
        if not all(1 <= size <= MOST_CHANNELS for size in self.channels):
            raise ValueError(f"channels must be from 1 to {MOST_CHANNELS}")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """SPADE's multi-scale discriminator, Appendix B."""

    num_scales: int = 2
    """Discriminators, each on pictures half as large as the one before."""
    channels: tuple[int, ...] = (64, 128, 256, 512)
    """Channels after each convolution but the last; all but the last of these halve the size."""


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam for one network, Appendix B."""

    lr: float = 4e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Decay rates of the moments."""


@dataclass(frozen=True, kw_only=True)
class AEIWeights:
    """Weights of Eq. (9) from a step on."""

    start: int = 0
    """First step that they hold for."""
    adv: float = 1.0
    att: float = 10.0
    id: float = 5.0
    rec: float = 10.0


@dataclass(frozen=True, kw_only=True)
class AEITrainConfig:
    """Training of AEI-Net; the defaults are the paper's."""

    model: AEIConfig = field(default_factory=AEIConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    identity: str = "arcface_r100.pth"
    """The encoder of z_id: distilled, dlib, or a file, as ArcFace's is (docs/training.md)."""
    teachers: tuple[str, ...] = ()
    """Ours: encoders that take turns with it in the identity loss, one per step, so that the
    generator cannot learn to fool one alone."""
    steps: int = 500_000
    batch: int = 32
    """Pairs per step, over all processes."""
    accumulate: int = 1
    """Ours: parts into which each process splits its pairs of a step, to save memory; batch norm
    then takes its statistics over a part."""
    different: float = 0.8
    """Share of pairs with X_t != X_s."""
    same_pairs: Literal["photo", "person"] = "photo"
    """What the other pairs are: one photo twice; or, ours, two photos of a person, and where there
    is only one, the source is varied differently."""
    sharpest: float = 1.0
    """Ours: share of the faces, the sharpest ones, that may be targets, which the discriminator
    sees as real; any face may be a source."""
    occluded: float = 0.0
    """Ours: share of the targets that are occluded as in stage two, so that hands and objects are
    drawn alike for every source, which stage two relies on."""
    augment: bool = False
    """Ours: flip pictures at random, and vary their colours and position a little."""
    glance: bool = False
    """Ours: the identity loss sees each swap coarser, turned and moved a little, differently in
    each step, so that patterns which only an encoder sees do not pay."""
    weights: tuple[AEIWeights, ...] = (AEIWeights(),)
    """Weights of the loss, by ascending first step."""
    adam_g: AdamConfig = field(default_factory=AdamConfig)
    adam_d: AdamConfig = field(default_factory=AdamConfig)
    ema: float = 0.999
    """Ours: decay of the averaged weights that are exported."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a schedule that leaves steps without weights."""
        starts = [weights.start for weights in self.weights]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"weights must start at step 0 and ascend, got starts {starts}")

    def weights_at(self, step: int) -> AEIWeights:
        """The weights that hold at a step."""
        return max((w for w in self.weights if w.start <= step), key=lambda w: w.start)


@dataclass(frozen=True, kw_only=True)
class HEARTrainConfig:
    """Training of HEAR-Net; the defaults are the paper's."""

    model: HEARConfig = field(default_factory=HEARConfig)
    steps: int = 50_000
    batch: int = 32
    """Pairs per step, over all processes."""
    accumulate: int = 1
    """Ours: parts into which each process splits its pairs of a step, as for AEI-Net."""
    different: float = 0.5
    """Share of pairs with X_t != X_s."""
    same_pairs: Literal["photo", "person"] = "photo"
    """What the other pairs are: one occluded photo twice; or, ours, the source is another photo of
    the person, or the same one varied differently and not occluded: HEAR-Net cannot tell these from
    pairs with X_t != X_s."""
    teachers: tuple[str, ...] = ()
    """Ours: encoders that take turns in the identity loss, as for AEI-Net."""
    augment: bool = False
    """Ours: vary pictures as for AEI-Net."""
    hardest: float = 0.1
    """Share of the faces, by heuristic error, that are targets."""
    ranked: int | None = None
    """How many faces, drawn at random, are ranked by error; all for None or more than there are."""
    lambda_rec: float = 1.0
    lambda_id: float = 1.0
    lambda_chg: float = 1.0
    adam: AdamConfig = field(default_factory=AdamConfig)
    ema: float = 0.999
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class IdentityTrainConfig:
    """Distillation of the small identity encoder from larger ones; all of it is ours."""

    image_size: int = 150
    """Side in pixels at which the faces are kept in memory."""
    steps: int = 20_000
    batch: int = 256
    """Faces per step, over all processes."""
    blends: int = 100_000
    """Blends of two faces, new people, in addition to the set's own faces."""
    adam: AdamConfig = field(default_factory=lambda: AdamConfig(lr=1e-3, betas=(0.9, 0.99)))
    """The learning rate falls to zero along a cosine."""
    ema: float = 0.997
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """How many steps lie between reports, measurements and checkpoints; may differ on a resume."""

    report: int = 25
    """Write losses, gradient norms and speed to stats.jsonl."""
    watch: int = 100
    """Measure pairs held out from training, and name training failures."""
    checkpoint: int = 200
    """Save everything needed to resume; the last two are kept."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how a training computes; may differ on a resume."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is the GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of networks in training; auto is bf16 on a GPU. Weights are always in float32."""
    channels_last: bool = True
    """Keep channels last in memory, which is fast for convolutions."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the networks with torch.compile; auto does so on a GPU."""
    faces: Literal["auto", "memory", "stream"] = "auto"
    """Decode the set once and keep it on the device, or read faces when they are needed; auto keeps
    a set that takes less than half of a GPU's free memory, or a quarter of the machine's."""
    workers: int | None = None
    """Processes that read and occlude pictures; by default one per core with a GPU, else none."""
    tensorboard: bool = False
    """Also write to RUN/tensorboard; needs the extra of that name."""


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """The identity encoder that made z_id."""

    name: Line
    fingerprint: Line
    """Hex digits that change with any weight."""


@dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """A file of a recogniser that took part in a training."""

    name: Line
    sha256: Line


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What every file of trained weights says of itself."""

    kind: Line
    """aei, hear or identity."""
    version: Line = "unknown"
    """That of the package that wrote it."""
    teachers: tuple[TeacherInfo, ...] = ()
    step: Annotated[int, Meta(ge=0)] = 0

    @property
    def trained_with(self) -> dict[str, str]:
        """Names of all recognisers of the training, with the SHA-256 of those that were files."""
        return {teacher.name: teacher.sha256 for teacher in self.teachers}


@dataclass(frozen=True, kw_only=True)
class AEIInfo(WeightsInfo):
    """What weights of AEI-Net say of themselves."""

    config: AEIConfig
    identity: EncoderInfo

    @property
    def trained_with(self) -> dict[str, str]:
        """Also the encoder of z_id."""
        return {self.identity.name: ""} | super().trained_with


@dataclass(frozen=True, kw_only=True)
class HEARInfo(WeightsInfo):
    """What weights of HEAR-Net say of themselves."""

    config: HEARConfig
    aei: Line
    """Fingerprint of the first stage."""


@dataclass(frozen=True, kw_only=True)
class IdentityInfo:
    """What an identity file says of itself."""

    kind: Literal["identity"]
    version: Line
    identity: EncoderInfo


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint of a training says of itself."""

    step: Annotated[int, Meta(ge=0)]

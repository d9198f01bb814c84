"""Named, complete configurations: a recipe is the unit of reproduction."""

from dataclasses import replace
from typing import Any

from faceshifter.config import (
    AdamConfig,
    AEIConfig,
    AEITrainConfig,
    AEIWeights,
    DiscriminatorConfig,
    HEARConfig,
    HEARTrainConfig,
    IdentityTrainConfig,
)

AEI_PRESETS: dict[str, AEIConfig] = {
    "paper": AEIConfig(),
    "small": AEIConfig(
        encoder_channels=(16, 32, 64, 96, 160, 192, 192),
        generator_channels=(192, 192, 192, 192, 192, 96, 48, 24),
        att_kernel=1,
        c_id=320,
        max_h_bar=6.0,
    ),
    "tiny": AEIConfig(
        image_size=128,
        encoder_channels=(16, 32, 64, 128, 256, 256),
        generator_channels=(256, 256, 256, 128, 64, 32, 16),
        att_kernel=1,
        c_id=320,
        max_h_bar=6.0,
    ),
    "smoke": AEIConfig(
        image_size=32,
        encoder_channels=(8, 8, 16, 16),
        generator_channels=(16, 16, 16, 8, 8),
        att_kernel=1,
        c_id=320,
    ),
}
HEAR_PRESETS: dict[str, HEARConfig] = {
    "paper": HEARConfig(),
    "small": HEARConfig(channels=(24, 48, 96, 160, 160), residual=True),
    "tiny": HEARConfig(channels=(24, 48, 96, 128, 128), residual=True),
    "smoke": HEARConfig(channels=(8, 8, 8, 8, 8), residual=True),
}


def _identity_first(second: int, third: int, fourth: int, fifth: int) -> tuple[AEIWeights, ...]:
    """Return weights that change at four steps: the identity is learned before the rest."""
    return (
        AEIWeights(adv=0.1, att=2, id=30, rec=10),
        AEIWeights(start=second, adv=0.3, att=3, id=20, rec=10),
        AEIWeights(start=third, adv=0.6, att=4, id=12, rec=10),
        AEIWeights(start=fourth, adv=1.0, att=5, id=8, rec=12),
        AEIWeights(start=fifth, adv=1.0, att=6, id=6, rec=15),
    )


AEI_RECIPES: dict[str, tuple[str, AEITrainConfig]] = {
    "paper": ("Section 4 and Appendix B of the paper.", AEITrainConfig()),
    "small": (
        "A network of a thirtieth of the size, 256 x 256, on one GPU in half an hour or more.",
        AEITrainConfig(
            model=AEI_PRESETS["small"],
            discriminator=DiscriminatorConfig(channels=(32, 64, 128, 256)),
            identity="distilled",
            steps=20_000,
            batch=64,
            same_pairs="person",
            augment=True,
            weights=_identity_first(250, 500, 1000, 2000),
        ),
    ),
    "tiny": (
        "128 x 128, on a CPU in hours.",
        AEITrainConfig(
            model=AEI_PRESETS["tiny"],
            discriminator=DiscriminatorConfig(channels=(32, 64, 128, 128)),
            identity="distilled",
            steps=6_000,
            batch=16,
            augment=True,
            weights=_identity_first(500, 800, 1200, 1700),
            ema=0.995,
        ),
    ),
    "smoke": (
        "Four steps at 32 x 32, in seconds, to check that everything runs.",
        AEITrainConfig(
            model=AEI_PRESETS["smoke"],
            discriminator=DiscriminatorConfig(channels=(8, 8)),
            identity="distilled",
            steps=4,
            batch=4,
        ),
    ),
}
BASELINES: dict[str, tuple[str, dict[str, Any]]] = {
    "add": ("Add of Fig. 7: A + I in place of the mask.", {"integration": "add"}),
    "cat": ("Cat of Fig. 7: A and I side by side in place of the mask.", {"integration": "cat"}),
    "compressed": (
        "Compressed of Fig. 7: attributes of the first three levels alone.",
        {"attributes": "compressed"},
    ),
}
"""What each baseline of Section 4.2 changes in the network of a recipe."""
AEI_RECIPES["tiny-longer"] = (
    "Continues from weights of tiny (--init), attributes and reconstruction before identity.",
    replace(
        AEI_RECIPES["tiny"][1],
        different=0.35,
        same_pairs="person",
        triplets=0.5,
        att_pairs="different",
        focus=3.0,
        centred=True,
        weights=(
            AEIWeights(adv=0.0, att=20, id=3, rec=120, abs=8, target=4),
            AEIWeights(start=150, adv=1.0, att=20, id=3, rec=120, abs=8, target=4),
        ),
        sharpest=0.7,
        occluded=0.25,
        glance=True,
        adam_g=AdamConfig(lr=2e-4),
        ema=0.998,
    ),
)
HEAR_RECIPES: dict[str, tuple[str, HEARTrainConfig]] = {
    "paper": ("Section 4 and Appendix B of the paper.", HEARTrainConfig()),
    "small": (
        "A network of a ninth of the size, over AEI-Net small.",
        HEARTrainConfig(
            model=HEAR_PRESETS["small"],
            steps=10_000,
            batch=64,
            augment=True,
            lambda_rec=20,
            lambda_id=4,
        ),
    ),
    "tiny": (
        "128 x 128, on a CPU in half an hour.",
        HEARTrainConfig(
            model=HEAR_PRESETS["tiny"],
            steps=1_500,
            batch=16,
            augment=True,
            ranked=2000,
            same_pairs="person",
            lambda_rec=60,
            lambda_id=0.4,
            lambda_chg=0.05,
            adam=AdamConfig(lr=1e-3),
            ema=0.995,
        ),
    ),
    "smoke": (
        "Four steps, in seconds, to check that everything runs.",
        HEARTrainConfig(model=HEAR_PRESETS["smoke"], steps=4, batch=4, hardest=0.5),
    ),
}
IDENTITY_RECIPES: dict[str, tuple[str, IdentityTrainConfig]] = {
    "small": ("On a GPU or overnight.", IdentityTrainConfig()),
    "tiny": (
        "The encoder that ships, on a CPU in an hour.",
        IdentityTrainConfig(steps=7_000, batch=64, blends=25_000),
    ),
    "smoke": (
        "Four steps, in seconds, to check that everything runs.",
        IdentityTrainConfig(steps=4, batch=4, blends=4),
    ),
}
